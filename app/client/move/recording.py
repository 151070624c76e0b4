"""Ask a model while it still answers, and keep its answers as a training and a held-out file. The
two files are all there is: after an interruption they say which prompts are answered.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from app.client.api import Json
from app.client.errors import NoConnection, NoSuchObject, Refused
from app.client.move.account import Account
from app.client.move.prompts import Prompt, prompt_of

TRAINING = "training.jsonl"
HELD_OUT = "held_out.jsonl"
HELD_OUT_EVERY = 10
NUM_REQUESTS_AT_ONCE = 4
FINISH_REASONS = ("stop", "tool_calls", "function_call")
ANSWER_FIELDS = ("content", "tool_calls", "function_call")

Refusal = tuple[int, str]  # Line of the prompt, and the reason for no answer.


class Recording:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answered: set[str] = set()
        for name in (TRAINING, HELD_OUT):
            self.answered.update(_keys_in(folder / name))

    def pending(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        return [prompt for prompt in prompts if prompt.key not in self.answered]

    def record(self, account: Account, model: str, prompts: list[Prompt]) -> list[Refusal]:
        """Ask all of them, a few at a time, and write the answers in the order of the prompts;
        return those that have none.
        """
        refusals: list[Refusal] = []
        pool = ThreadPoolExecutor(NUM_REQUESTS_AT_ONCE)
        answers = [pool.submit(_ask, account, model, prompt) for prompt in prompts]
        try:
            for prompt, answer in zip(prompts, answers, strict=True):
                if isinstance(message := answer.result(), str):
                    refusals.append((prompt.line, message))
                else:
                    self._keep(prompt, message)
        except (NoConnection, KeyboardInterrupt):
            pool.shutdown(cancel_futures=True)
            self._keep_others(prompts, answers)
            raise
        finally:  # After a permanent failure the others are not sent any more.
            pool.shutdown(cancel_futures=True)
        return refusals

    def summary(self) -> str:
        counts = self._counts()
        return (
            f"{self.folder / TRAINING}: {counts[TRAINING]:,} records to train on; "
            f"{self.folder / HELD_OUT}: {counts[HELD_OUT]:,} to validate with."
        )

    def document(self, refusals: list[Refusal]) -> Json:
        counts = self._counts()
        return {
            "object": "recording",
            "training_file": str(self.folder / TRAINING),
            "num_training": counts[TRAINING],
            "held_out_file": str(self.folder / HELD_OUT),
            "num_held_out": counts[HELD_OUT],
            "refusals": [{"line": line, "problem": problem} for line, problem in refusals],
        }

    def _keep_others(self, prompts: list[Prompt], answers: list[Future[Json | str]]) -> None:
        """Keep what came, and was charged for, behind the prompt at which it ended."""
        for prompt, answer in zip(prompts, answers, strict=True):
            if prompt.key in self.answered or answer.cancelled() or answer.exception():
                continue
            if not isinstance(message := answer.result(), str):
                self._keep(prompt, message)

    def _keep(self, prompt: Prompt, answer: Json) -> None:
        self.answered.add(prompt.key)  # An interrupted prompt must not be written twice.
        messages = [*prompt.body["messages"], answer]
        line = json.dumps({**prompt.body, "messages": messages}, ensure_ascii=False) + "\n"
        path = self.folder / file_of(prompt)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise Refused(
                f"{path} cannot be written: {error.strerror}.",
                "The same command goes on where this one stopped.",
            ) from None

    def _counts(self) -> dict[str, int]:
        return {name: len(_lines(self.folder / name)) for name in (TRAINING, HELD_OUT)}


def file_of(prompt: Prompt) -> str:
    """Return the file that a prompt belongs to, which its own text decides."""
    number = int.from_bytes(hashlib.sha256(prompt.key.encode()).digest()[:4])
    return HELD_OUT if number % HELD_OUT_EVERY == 0 else TRAINING


def _ask(account: Account, model: str, prompt: Prompt) -> Json | str:
    """Return the model's message; or why it is none to train on."""
    body = {"model": model, **prompt.body}
    try:
        answer = account.post("/chat/completions", body, repeatable=True)
    except (Refused, NoSuchObject) as error:
        return error.message
    try:
        choice = answer["choices"][0]
        message = {
            name: choice["message"][name] for name in ANSWER_FIELDS if choice["message"].get(name)
        }
        reason = choice["finish_reason"]
        refusal = choice["message"].get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "the answer is not as OpenAI describes it"
    if refusal:
        return "the model refuses to answer"
    if reason not in FINISH_REASONS or not message:
        return f"the answer is not whole: {reason}"
    return {"role": "assistant", **message}


def _keys_in(path: Path) -> set[str]:
    """Return the keys of the prompts that a file answers, without a line that an interruption has
    torn."""
    whole = _lines(path)
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(sum(map(len, whole)))
    try:
        return {Prompt(0, prompt_of(json.loads(line))).key for line in whole}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(
            f"{path} holds other things than recorded answers.", "Name another folder: --output."
        ) from None


def _lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file, which may not be there yet."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [line for line in file if line.endswith(b"\n")]
