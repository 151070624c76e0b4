// Asks one or two models the same. The conversation outlasts another choice of models and a reload.
import { Answer } from "./answer.js";
import { load, save } from "./storage.js";
import { Turn, historyOf } from "./turns.js";

const STORED = ["playground", "sessionStorage"];
const root = document.querySelector("#playground");
const [place, announcement, question, message, stop, settings, choice, code] =
  "turns announcement question message stop settings choice code"
    .split(" ").map((id) => document.getElementById(id));
let turns = [];
let edited = null; // the turn that the next question replaces
let running = null; // what stops the answers that are being written

function announce(text) {
  announcement.textContent = text;
}

function models() {
  const { model, beside } = choice.elements;
  return [model.value, beside.value].filter(Boolean);
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

function withSystem(messages) {
  const system = settings.elements.system.value.trim();
  return [...(system ? [{ role: "system", content: system }] : []), ...messages];
}

function add(turn) {
  turns.push(turn);
  place.append(turn.article);
}

function removeLast() {
  const turn = turns.pop();
  turn.article.remove();
  return turn;
}

// The last of `messages` is the question. Resolves to true unless it was stopped.
async function ask(messages, { expected, isFresh } = {}) {
  const { signal } = (running = new AbortController());
  stop.disabled = false;
  const answers = models().map((model) => new Answer(model));
  announce(answers.length > 1 ? "The models answer." : "The model answers.");
  const bodies = answers.map((_, i) => ({
    messages: withSystem([...(isFresh ? [] : historyOf(turns, i)), ...messages]),
    ...options(),
  }));
  const turn = new Turn(messages, answers, { expected, isFresh });
  add(turn);
  turn.article.scrollIntoView({ block: "nearest" });
  const readToken = () => root.dataset.token; // A sign-in over the page changes it.
  await Promise.all(
    answers.map((answer, i) => answer.stream(bodies[i], readToken, signal, announce)),
  );
  running = null;
  if (document.activeElement === stop) message.focus();
  stop.disabled = true;
  const states = answers.map((answer) => answer.state.textContent).join("; ");
  announce(signal.aborted ? "Stopped." : `Answered: ${states}`);
  keep();
  return !signal.aborted;
}

// A conversation of its own, with the system prompt of the record.
function askPrompt({ system, turns: messages, expected }) {
  settings.elements.system.value = system;
  edited = null;
  return ask(messages, { expected, isFresh: true });
}

async function askWritten() {
  const text = message.value.trim();
  if (!text || isBusy() || !settings.reportValidity()) return;
  message.value = "";
  message.focus();
  const earlier = edited ? removeLast() : null;
  edited = null;
  const before = earlier?.messages.slice(0, -1) ?? [];
  const asked = { role: "user", content: text };
  const isOver = await ask([...before, asked], { isFresh: earlier?.isFresh });
  const isAnswered = turns.at(-1)?.answers.some((answer) => answer.content);
  if (isOver && !isAnswered && !message.value) message.value = text;
  keep();
}

function isBusy() {
  if (running) announce("Stop the current answer first.");
  return running !== null;
}

function regenerate() {
  if (isBusy() || !settings.reportValidity()) return;
  const { messages, expected, isFresh } = removeLast();
  edited = null;
  ask(messages, { expected, isFresh });
}

function edit() {
  if (isBusy()) return;
  edited = turns.at(-1);
  message.value = edited.question;
  message.focus();
  announce("Ask replaces the last question. Escape keeps it.");
}

function restart() {
  running?.abort();
  turns = [];
  edited = null;
  place.replaceChildren();
  announce("");
  message.focus();
  keep();
}

// The next question to the first model as a program; JSON's texts, lists and objects are Python's,
// too.
function showCode() {
  const next = message.value.trim();
  const earlier = historyOf(edited ? turns.slice(0, -1) : turns, 0);
  if (!next && earlier.at(-1)?.role === "assistant") earlier.pop();
  const asked = next || !earlier.length ? [{ role: "user", content: next || "Hello" }] : [];
  const address = JSON.stringify(`${root.dataset.origin}/v1`);
  const lines = [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${address}, api_key=os.environ["FALQON_API_KEY"])`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(models()[0])},`,
    "    messages=[",
    ...withSystem([...earlier, ...asked]).map((each) => `        ${JSON.stringify(each)},`),
    "    ],",
    ...Object.entries(options()).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`),
    ")",
    "print(answer.choices[0].message.content)",
  ];
  code.textContent = `${lines.join("\n")}\n`;
}

// In this window, for the key that is signed in.
function keep() {
  const [key, area] = STORED;
  const { owner } = root.dataset;
  const fields = Object.fromEntries(new FormData(settings));
  const kept = { owner, fields, message: message.value, turns: turns.map((turn) => turn.kept) };
  save(key, kept, area);
  showCode();
}

function restore() {
  const kept = load(...STORED);
  if (kept?.owner !== root.dataset.owner) return;
  for (const [name, value] of Object.entries(kept.fields ?? {}))
    if (settings.elements[name]) settings.elements[name].value = value;
  message.value = kept.message ?? "";
  try {
    kept.turns.map(Turn.restore).forEach(add);
  } catch {
    restart(); // somebody else wrote it
  }
}

function onKey(event) {
  if (event.key === "Escape" && edited) {
    edited = null;
    message.value = "";
    announce("");
  } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    question.requestSubmit();
  }
}

async function onClick({ target }) {
  if (target.matches("[data-regenerate]")) regenerate();
  else if (target.matches("[data-edit]")) edit();
  else if (target.matches("[data-prompt]")) isBusy() || askPrompt(JSON.parse(target.dataset.prompt));
  else if (target.matches("[data-ask-all]") && !isBusy())
    for (const { dataset } of root.querySelectorAll("[data-prompt]"))
      if (!(await askPrompt(JSON.parse(dataset.prompt)))) return;
}

if (root) {
  root.hidden = false; // without a script it does nothing
  restore();
  showCode();
  settings.addEventListener("submit", (event) => event.preventDefault());
  for (const part of [settings, message]) part.addEventListener("input", keep);
  choice.addEventListener("change", () => {
    const address = `/playground?${new URLSearchParams(new FormData(choice))}`;
    history.replaceState(history.state, "", address); // at once: a reload may come before an answer
    showCode();
  });
  message.addEventListener("keydown", onKey);
  question.addEventListener("submit", (event) => {
    event.preventDefault();
    askWritten();
  });
  stop.addEventListener("click", () => running?.abort());
  document.getElementById("restart").addEventListener("click", restart);
  root.addEventListener("click", onClick);
}
