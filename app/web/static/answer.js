// An answer of a model: asked for, shown as it comes, kept. What models write becomes text, never
// HTML.
import { askToSignIn } from "./sign_in.js";

const ADDRESS = "/playground/v1/chat/completions";
const LOADING_MS = 600_000; // as long as a model that is being loaded is asked again

class Refusal extends Error {}

export class Answer {
  constructor(model, title = model) {
    this.model = model;
    this.figure = document.getElementById("answer").content.cloneNode(true).firstElementChild;
    const [reasoning, text, state] = this.figure.querySelectorAll("p");
    [this.reasoning, this.text, this.state] = [reasoning, text, state];
    this.figure.querySelector("figcaption").textContent = title;
  }

  // An answer as `kept` wrote it, from a storage that may hold anything.
  static restore(kept) {
    const { model, text, reasoning, state, failed } = kept;
    const answer = new Answer(String(model));
    if (text) answer.write(String(text));
    if (reasoning) answer.think(String(reasoning));
    answer.end(String(state), Boolean(failed));
    return answer;
  }

  get kept() {
    return {
      model: this.model,
      text: this.content,
      reasoning: this.reasoning.textContent,
      state: this.state.textContent,
      failed: this.state.matches(".error"),
    };
  }

  get content() {
    return this.text.textContent;
  }

  begin() {
    this.figure.setAttribute("aria-busy", "true");
    this.state.textContent = "Waiting for the model.";
  }

  write(text) {
    this.state.textContent = "";
    append(this.text, text);
  }

  think(text) {
    this.figure.querySelector("details").hidden = false;
    append(this.reasoning, text);
  }

  end(text, failed = false) {
    this.figure.removeAttribute("aria-busy");
    this.state.textContent = text;
    this.state.className = failed ? "small error" : "small faint";
  }

  // Asks the model and ends when the answer does. `announce` is told while it is being loaded.
  async stream(body, readToken, signal, announce) {
    let numTokens = 0;
    let reason = "";
    this.begin();
    try {
      const sentAt = performance.now();
      let [first, last] = [0, 0];
      for await (const event of events(await this.send(body, readToken, signal, announce))) {
        const [choice] = event.choices ?? [];
        numTokens = event.usage?.completion_tokens ?? numTokens;
        reason = choice?.finish_reason ?? reason;
        const { reasoning_content: thought, content } = choice?.delta ?? {};
        if (thought) this.think(thought);
        if (content) this.write(content);
        if (!thought && !content) continue;
        last = performance.now();
        first ||= last;
      }
      this.end(speed(numTokens, first - sentAt, last - first, reason));
    } catch (error) {
      this.end(sentence(error), error.name !== "AbortError");
    }
  }

  async send(body, readToken, signal, announce) {
    const until = Date.now() + LOADING_MS;
    for (;;) {
      const response = await fetch(ADDRESS, {
        method: "POST",
        headers: { "content-type": "application/json", "x-form-token": readToken() },
        body: JSON.stringify({
          ...body,
          model: this.model,
          stream: true,
          stream_options: { include_usage: true },
        }),
        signal,
      });
      if (response.ok) return response;
      if (response.status === 401 && (await askToSignIn())) continue;
      const error = (await response.json().catch(() => ({}))).error;
      if (error?.code !== "model_loading" || Date.now() > until)
        throw new Refusal(error?.message ?? `The service answered ${response.status}.`);
      const seconds = Number(response.headers.get("retry-after")) || 2;
      this.state.textContent = `The model is loading; the next try is in ${seconds} s.`;
      announce(this.state.textContent);
      await pause(seconds, signal);
    }
  }
}

function append(element, text) {
  if (!element.firstChild) element.append("");
  element.firstChild.appendData(text);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

// The events of a stream, as objects.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(event.error.message);
      yield event;
    }
  }
}

function speed(numTokens, wait, time, reason) {
  if (!numTokens) return "(nothing)";
  const parts = [`${numTokens} ${numTokens === 1 ? "token" : "tokens"}`];
  if (numTokens > 1 && time > 0)
    parts.push(`${((numTokens - 1) / (time / 1000)).toFixed(1)} tokens/s`);
  if (wait > 0) parts.push(`the first after ${(wait / 1000).toFixed(1)} s`);
  if (reason === "length") parts.push("cut at max tokens");
  return parts.join(", ");
}

function sentence(error) {
  if (error.name === "AbortError") return "Stopped.";
  if (error instanceof Refusal) return error.message;
  return "Connection lost. Ask again.";
}
