// Asks one or two models the same and shows their answers as they come. What people and models
// write becomes text, never HTML.
import { askToSignIn } from "./sign_in.js";
import { load, save } from "./storage.js";

const ADDRESS = "/playground/v1/chat/completions";
const LOADING_MS = 600_000; // as long as a model that is being loaded is asked again
const STORED = ["playground", "sessionStorage"];

class Refusal extends Error {}

const root = document.querySelector("#playground");
const [turns, announcement, question, message, stop, settings, code] =
  "turns announcement question message stop settings code"
    .split(" ").map((id) => document.getElementById(id));
const sides = root ? JSON.parse(root.dataset.models).map((model) => ({ model, turns: [] })) : [];
if (root) root.hidden = false; // without a script it does nothing
let running = null; // what stops the answers that are being written

function announce(text) {
  announcement.textContent = text;
}

// What is set, as fields of the request; an empty field is left out.
function options() {
  const fields = settings.elements;
  const values = {};
  for (const name of ["temperature", "max_tokens", "seed"])
    if (fields[name].value !== "") values[name] = Number(fields[name].value);
  const texts = fields.stop.value.split("\n").filter(Boolean);
  if (texts.length) values.stop = texts;
  return values;
}

function messages(side, newTurns) {
  const system = settings.elements.system.value.trim();
  return [...(system ? [{ role: "system", content: system }] : []), ...side.turns, ...newTurns];
}

// One answer on the page.
class Answer {
  constructor(title) {
    this.figure = document.getElementById("answer").content.cloneNode(true).firstElementChild;
    const [reasoning, text, state] = this.figure.querySelectorAll("p");
    [this.reasoning, this.text, this.state] = [reasoning, text, state];
    this.figure.querySelector("figcaption").textContent = title;
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
}

function append(element, text) {
  if (!element.firstChild) element.append("");
  element.firstChild.appendData(text);
}

function addTurn(prompt, expected, isFresh) {
  const article = document.getElementById("turn").content.cloneNode(true).firstElementChild;
  article.classList.toggle("fresh", isFresh);
  article.querySelector("blockquote").textContent = prompt;
  const answers = sides.map((side) => new Answer(side.model));
  const place = article.querySelector(".answers");
  place.append(...answers.map((answer) => answer.figure));
  if (expected) {
    const answer = new Answer("Expected");
    answer.figure.className = "expected";
    answer.write(expected);
    place.append(answer.figure);
  }
  turns.append(article);
  article.scrollIntoView({ block: "nearest" });
  return answers;
}

async function send(body, answer, signal) {
  const until = Date.now() + LOADING_MS;
  for (;;) {
    const response = await fetch(ADDRESS, {
      method: "POST",
      headers: { "content-type": "application/json", "x-form-token": root.dataset.token },
      body: JSON.stringify(body),
      signal,
    });
    if (response.ok) return response;
    if (response.status === 401 && (await askToSignIn())) continue;
    const error = (await response.json().catch(() => ({}))).error;
    if (error?.code !== "model_loading" || Date.now() > until)
      throw new Refusal(error?.message ?? `The service answered ${response.status}.`);
    const seconds = Number(response.headers.get("retry-after")) || 2;
    answer.state.textContent = `The model is being loaded; it is asked again in ${seconds} s.`;
    announce(answer.state.textContent);
    await pause(seconds, signal);
  }
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

async function answerOf(side, newTurns, answer, signal) {
  const body = {
    model: side.model,
    messages: messages(side, newTurns),
    ...options(),
    stream: true,
    stream_options: { include_usage: true },
  };
  const earlier = side.turns; // another one, once the conversation starts over
  let text = "";
  let numTokens = 0;
  let reason = "";
  answer.begin();
  try {
    const sentAt = performance.now();
    let [first, last] = [0, 0];
    for await (const event of events(await send(body, answer, signal))) {
      const [choice] = event.choices ?? [];
      numTokens = event.usage?.completion_tokens ?? numTokens;
      reason = choice?.finish_reason ?? reason;
      if (choice?.delta?.reasoning_content) answer.think(choice.delta.reasoning_content);
      if (!choice?.delta?.content && !choice?.delta?.reasoning_content) continue;
      last = performance.now();
      first ||= last;
      if (!choice.delta.content) continue;
      text += choice.delta.content;
      answer.write(choice.delta.content);
    }
    answer.end(speed(numTokens, first - sentAt, last - first, reason));
  } catch (error) {
    answer.end(sentence(error), error.name !== "AbortError");
  }
  if (text) earlier.push(...newTurns, { role: "assistant", content: text });
}

function speed(numTokens, wait, time, reason) {
  if (!numTokens) return "(nothing)";
  const parts = [`${numTokens} ${numTokens === 1 ? "token" : "tokens"}`];
  if (numTokens > 1 && time > 0)
    parts.push(`${((numTokens - 1) / (time / 1000)).toFixed(1)} tokens/s`);
  if (wait > 0) parts.push(`the first after ${(wait / 1000).toFixed(1)} s`);
  if (reason === "length") parts.push("cut at its limit of tokens");
  return parts.join(", ");
}

function sentence(error) {
  if (error.name === "AbortError") return "Stopped.";
  if (error instanceof Refusal) return error.message;
  return "The connection was lost; ask again.";
}

// The last of `newTurns` is the question. Resolves to true unless it was stopped.
async function ask(newTurns, expected = "", isFresh = false) {
  const { signal } = (running = new AbortController());
  stop.disabled = false;
  announce(sides.length > 1 ? "The models answer." : "The model answers.");
  const answers = addTurn(newTurns.at(-1).content, expected, isFresh);
  await Promise.all(sides.map((side, i) => answerOf(side, newTurns, answers[i], signal)));
  running = null;
  if (document.activeElement === stop) message.focus();
  stop.disabled = true;
  const states = answers.map((answer) => answer.state.textContent).join("; ");
  announce(signal.aborted ? "Stopped." : `Answered: ${states}`);
  showCode();
  return !signal.aborted;
}

// A conversation of its own, with the system prompt of the record.
function askPrompt({ system, turns: newTurns, expected }) {
  settings.elements.system.value = system;
  keepSettings();
  for (const side of sides) side.turns = [];
  return ask(newTurns, expected, true);
}

function isBusy() {
  if (running) announce("The last question is still being answered; stop it first.");
  return running !== null;
}

// The next question to the first model as a program; JSON's texts, lists and objects are Python's,
// too.
function showCode() {
  const next = message.value.trim();
  const earlier = [...sides[0].turns];
  if (!next && earlier.at(-1)?.role === "assistant") earlier.pop();
  const newTurns = next || !earlier.length ? [{ role: "user", content: next || "Hello" }] : [];
  const address = JSON.stringify(`${root.dataset.origin}/v1`);
  const lines = [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${address}, api_key=os.environ["FALQON_API_KEY"])`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(sides[0].model)},`,
    "    messages=[",
    ...messages({ turns: earlier }, newTurns).map((turn) => `        ${JSON.stringify(turn)},`),
    "    ],",
    ...Object.entries(options()).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`),
    ")",
    "print(answer.choices[0].message.content)",
  ];
  code.textContent = `${lines.join("\n")}\n`;
}

// Settings outlast the choice of other models, in this window.
function keepSettings() {
  const [key, area] = STORED;
  save(key, Object.fromEntries(new FormData(settings)), area);
  showCode();
}

function restoreSettings() {
  for (const [name, value] of Object.entries(load(...STORED) ?? {}))
    if (settings.elements[name]) settings.elements[name].value = value;
}

if (root) {
  restoreSettings();
  showCode();
  settings.addEventListener("submit", (event) => event.preventDefault());
  settings.addEventListener("input", keepSettings);
  message.addEventListener("input", showCode);
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) question.requestSubmit();
  });
  question.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || isBusy() || !settings.reportValidity()) return;
    message.value = "";
    message.focus();
    const isOver = await ask([{ role: "user", content: text }]);
    const isAnswered = sides.some((side) => side.turns.at(-2)?.content === text);
    if (isOver && !isAnswered && !message.value) message.value = text;
    showCode();
  });
  stop.addEventListener("click", () => running?.abort());
  document.getElementById("restart").addEventListener("click", () => {
    running?.abort();
    for (const side of sides) side.turns = [];
    turns.replaceChildren();
    announce("");
    showCode();
    message.focus();
  });
  const buttons = [...document.querySelectorAll("[data-prompt]")];
  for (const button of buttons) {
    const askIt = () => isBusy() || askPrompt(JSON.parse(button.dataset.prompt));
    button.addEventListener("click", askIt);
  }
  document.getElementById("ask-all")?.addEventListener("click", async () => {
    if (isBusy()) return;
    for (const button of buttons) if (!(await askPrompt(JSON.parse(button.dataset.prompt)))) return;
  });
}
