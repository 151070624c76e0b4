// The turns of a conversation: each a question with the answers of one or two models. A model that
// joins later reads the answers of the first one.
import { Answer } from "./answer.js";

export class Turn {
  // The last of `messages` is the question. `isFresh`: a conversation of its own begins with it.
  constructor(messages, answers, { expected = "", isFresh = false } = {}) {
    Object.assign(this, { messages, answers, expected, isFresh });
    this.article = document.getElementById("turn").content.cloneNode(true).firstElementChild;
    this.article.classList.toggle("fresh", isFresh);
    this.article.querySelector("blockquote").textContent = this.question;
    const place = this.article.querySelector(".answers");
    place.append(...answers.map((answer) => answer.figure));
    if (!expected) return;
    const answer = new Answer("", "Expected");
    answer.figure.className = "expected";
    answer.write(expected);
    place.append(answer.figure);
  }

  get question() {
    return this.messages.at(-1).content;
  }

  get kept() {
    const { messages, answers, expected, isFresh } = this;
    return { messages, expected, isFresh, answers: answers.map((answer) => answer.kept) };
  }

  static restore({ messages, answers, expected, isFresh }) {
    const read = messages.map(({ role, content }) => ({
      role: String(role),
      content: String(content),
    }));
    const options = { expected: String(expected), isFresh: Boolean(isFresh) };
    return new Turn(read, answers.map(Answer.restore), options);
  }
}

// The messages that the model at a place has seen; a question without an answer is not among them.
export function historyOf(turns, place) {
  const start = Math.max(0, turns.findLastIndex((turn) => turn.isFresh));
  return turns.slice(start).flatMap(({ messages, answers }) => {
    const content = (answers[place] ?? answers[0])?.content;
    return content ? [...messages, { role: "assistant", content }] : [];
  });
}
