"""Talk to a model on the terminal, or ask it one question in a script."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from app.client.api import Json
from app.client.command import Client, ModelId
from app.client.errors import ApiUnavailable, ClientError, Misused, NoConnection, Refused
from app.client.server_sent_events import DONE, read_messages

CHAT_PATH = "/chat/completions"
ANSWER_TIMEOUT_SECONDS = 600.0  # The service waits as long for its engine.
LOADING_SECONDS = 600.0
LOADING = "model_loading"
HOW_TO_TALK = (
    "/system TEXT sets a system prompt, /retry asks again, /save FILE keeps the conversation, "
    "Ctrl-C ends an answer, Ctrl-D leaves."
)


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A piece of an answer, or of the thoughts that precede it."""

    text: str = ""
    is_reasoning: bool = False
    is_cut: bool = False  # The answer ends here, at its limit of tokens.


def chat(
    client: Client,
    model: ModelId,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
    once: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask one question and exit.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 for the same answer each time.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum tokens per answer.")] = None,
) -> None:
    """Talk to a model: Ctrl-C ends an answer, Ctrl-D exits. With --once, or a question on stdin,
    the answer alone is printed.
    """
    options = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
    conversation = Conversation(client, options, system)
    question = _piped_question() if once is None else once
    if question is None:
        _talk(client, conversation)
    elif not question.strip():
        raise Misused("There is no question.", "Give one with --once, or on stdin.")
    elif client.out.as_json:
        client.out.show(conversation.retrieve_answer(question))
    else:
        conversation.print_answer(question)


class Conversation:
    """The messages so far. A question without an answer is forgotten."""

    def __init__(self, client: Client, options: Json, system: str | None) -> None:
        self.has_begun = False
        self._client = client
        self._options = {name: value for name, value in options.items() if value is not None}
        self._messages: list[Json] = []
        if system is not None:
            self.set_system(system)

    @property
    def model(self) -> str:
        return str(self._options["model"])

    def set_system(self, text: str) -> None:
        """Have the answers from now on follow another system prompt; an empty one is none."""
        turns = [message for message in self._messages if message["role"] != "system"]
        self._messages = [_message("system", text), *turns] if text else turns

    def forget_last(self) -> str | None:
        """Forget the last turn, and return its question."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            return None
        *self._messages, question, _ = self._messages
        return str(question["content"])

    def save(self, path: Path) -> None:
        """Write the conversation to a new file, as one record to train with."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            raise Refused("There is no answer to save yet.")
        record = json.dumps({"messages": self._messages}, ensure_ascii=False)
        try:
            content = f"{record}\n".encode()
            with path.expanduser().open("xb") as file:
                file.write(content)
        except FileExistsError:
            raise Refused(f"{path} exists, and is left as it is.", "Name a new file.") from None
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Refused(f"{path} cannot be written: {reason}.") from None

    def retrieve_answer(self, question: str) -> Json:
        messages = [*self._messages, _message("user", question)]
        body = self._options | {"messages": messages}
        return self._client.api.post(CHAT_PATH, body, silence_seconds=ANSWER_TIMEOUT_SECONDS)

    def print_answer(self, question: str, *, with_reasoning: bool = False) -> None:
        """Print the answer as it comes; what came is remembered, also where it was interrupted."""
        turn = _message("user", question)
        texts: list[str] = []
        is_cut = False
        try:
            for part in self._parts([*self._messages, turn]):
                is_cut |= part.is_cut
                if not part.is_reasoning:
                    texts.append(part.text)
                    self._client.out.write(part.text)
                elif with_reasoning:
                    self._client.out.write(part.text, "dim")
            self._client.out.write("\n")
            self.has_begun = True
            if is_cut:
                self._client.out.note("The answer ends here: it has as many tokens as it may.")
        except (ClientError, KeyboardInterrupt):
            if texts:
                self._client.out.write("\n")
            raise
        finally:
            if texts:
                self._messages += [turn, _message("assistant", "".join(texts))]

    def _parts(self, messages: list[Json]) -> Iterator[AnswerPart]:
        api = self._client.api
        body = self._options | {"messages": messages, "stream": True}
        try:
            with ExitStack() as stack:
                response = self._open(stack, body)
                for message in read_messages(response.iter_bytes()):
                    if message is not None and message.data != DONE:
                        yield from self._read(message.data)
        except httpx.TransportError as error:
            raise api.unreachable(error) from None

    def _open(self, stack: ExitStack, body: Json) -> httpx.Response:
        """Return the stream of the answer, as soon as the model is loaded."""
        deadline = math.inf
        while True:
            stream = self._client.api.stream(
                CHAT_PATH, body=body, silence_seconds=ANSWER_TIMEOUT_SECONDS
            )
            try:
                return stack.enter_context(stream)
            except ApiUnavailable as error:
                if error.body.get("code") != LOADING or time.monotonic() > deadline:
                    raise
                if deadline == math.inf:
                    self._client.out.note("The model is being loaded; it is asked again.")
                    deadline = time.monotonic() + LOADING_SECONDS
                pause = error.wait_seconds
            time.sleep(pause)

    def _read(self, data: str) -> Iterator[AnswerPart]:
        try:
            chunk: Json = json.loads(data)
            error: Json | None = chunk.get("error")
            choices: list[Any] = chunk.get("choices") or []
            parts = [part for choice in choices for part in _parts_of(choice)]
        except (ValueError, KeyError, TypeError, AttributeError):
            api = self._client.api
            raise NoConnection(
                f"{api.base_url} does not answer as this service would.", api.advice.other_service
            ) from None
        if error:
            raise ApiUnavailable(str(error.get("message")), body=error)
        yield from parts


def _parts_of(choice: Json) -> Iterator[AnswerPart]:
    delta = choice["delta"]
    if reasoning := delta.get("reasoning_content"):
        yield AnswerPart(str(reasoning), is_reasoning=True)
    if text := delta.get("content"):
        yield AnswerPart(str(text))
    if choice.get("finish_reason") == "length":
        yield AnswerPart(is_cut=True)


def _talk(client: Client, conversation: Conversation) -> None:
    if client.out.as_json:
        raise Misused("With --json one question is answered.", "Give it with --once, or on stdin.")
    with suppress(ImportError):
        import readline  # noqa: F401  # so that what is typed can be edited, and found again
    client.out.say(f"{conversation.model}. {HOW_TO_TALK}", "dim")
    while True:
        try:
            if (question := _read_question(client)) is None:
                return
            if asked := _obey(client, conversation, question):
                conversation.print_answer(asked, with_reasoning=True)
        except KeyboardInterrupt:
            client.out.note("Ended.")
        except ClientError as error:
            # A fault of the very first question will be one of the next.
            if not conversation.has_begun and not isinstance(error, Refused):
                raise
            client.out.error(error)


def _obey(client: Client, conversation: Conversation, line: str) -> str | None:
    """Do what a line that begins with a slash says; return the question to ask, if any."""
    command, _, text = line.strip().partition(" ")
    if command == "/system":
        conversation.set_system(text.strip())
        return None
    if command == "/retry":
        return conversation.forget_last()
    if command == "/save":
        if not text.strip():
            raise Refused("Name a file, such as /save support.jsonl.")
        path = Path(text.strip())
        conversation.save(path)
        client.out.note(f"The conversation is a training record in {path}.")
        return None
    return line if line.strip() else None


def _read_question(client: Client) -> str | None:
    """Return the typed question; None where the user leaves."""
    try:
        return input("> ")
    except KeyboardInterrupt:
        client.out.write("\n")
        return ""
    except EOFError:
        client.out.write("\n")
        return None


def _piped_question() -> str | None:
    """Return the whole of stdin, unless that is a terminal."""
    if sys.stdin.isatty():
        return None
    return sys.stdin.buffer.read().decode(errors="surrogateescape").strip()


def _message(role: str, content: str) -> Json:
    try:
        content.encode()
    except UnicodeEncodeError:
        raise Misused(f"What the {role} says is no UTF-8 text.") from None
    return {"role": role, "content": content}
