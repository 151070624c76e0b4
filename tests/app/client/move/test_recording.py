import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from app.client.move.account import Account
from app.client.move.prompts import Prompt, prompt_of
from app.client.move.recording import HELD_OUT, NUM_REQUESTS_AT_ONCE, TRAINING, Recording, file_of
from falqon_core.records.file_check import check_file
from tests.app.client.move.conftest import Move
from tests.support.openai_account import OpenAiAccount, Refusal, a_completion, an_error

MODEL = "ft:gpt-4o-mini-2024-07-18:acme::00000000"
TOO_FAST = Refusal(
    429, an_error("Rate limit reached.", "requests", "rate_limit_exceeded"), retry_after_ms="20"
)


def ask(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"question {number}"}]}


def echo(body: dict[str, Any]) -> dict[str, Any]:
    return a_completion(f"answer to {body['messages'][-1]['content']}")


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def records_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_become_a_training_and_a_held_out_file(
    account: OpenAiAccount, move: Move, tmp_path: Path
) -> None:
    account.answer = echo
    write(tmp_path / "prompts.jsonl", [ask(number) for number in range(40)])
    plan = move("--record", "prompts.jsonl", "--model", MODEL)
    assert plan.exit_code == 0, plan.stderr
    assert "40 prompts of about 577 tokens are to be sent" in plan.stdout
    assert account.bodies == []

    done = move(
        "--record", "prompts.jsonl", "--model", MODEL, "--yes", "--output", "kept", "--json"
    )
    assert done.exit_code == 0, done.stderr
    training, held_out = (records_in(tmp_path / "kept" / name) for name in (TRAINING, HELD_OUT))
    document = json.loads(done.stdout)
    assert (document["num_training"], document["num_held_out"]) == (len(training), len(held_out))
    assert len(training) + len(held_out) == 40
    assert 0 < len(held_out) < 12
    for record in training + held_out:
        question, answer = record["messages"]
        assert answer == {"role": "assistant", "content": f"answer to {question['content']}"}
    numbers = [int(record["messages"][0]["content"].split()[1]) for record in training]
    assert numbers == sorted(numbers), "in the order of the prompts"
    with (tmp_path / "kept" / TRAINING).open("rb") as file:
        assert check_file(file).num_errors == 0


def test_an_interrupted_recording_continues_where_it_stopped(
    account: OpenAiAccount, tmp_path: Path, move: Move
) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.05)
        return echo(body)

    account.answer = answer
    prompts = write(tmp_path / "prompts.jsonl", [ask(number) for number in range(12)])
    options = ("--record", str(prompts), "--model", MODEL, "--output", "kept", "--yes")
    account.refuse("/chat/completions", Refusal(401, an_error("No.", "invalid_request_error")))
    assert move(*options).exit_code == 4
    first = len(account.bodies)
    assert first < 12, "the others are not sent any more"

    (tmp_path / "kept").mkdir(exist_ok=True)
    torn = tmp_path / "kept" / TRAINING
    whole = torn.read_bytes() if torn.exists() else b""
    torn.write_bytes(whole + b'{"messages": [{"role": "us')
    kept = len(Recording(tmp_path / "kept").answered)
    account.bodies.clear()
    assert move(*options).exit_code == 0
    assert len(account.bodies) == 12 - kept
    everything = [
        record["messages"][0]["content"]
        for name in (TRAINING, HELD_OUT)
        if (tmp_path / "kept" / name).exists()
        for record in records_in(tmp_path / "kept" / name)
    ]
    assert sorted(everything) == sorted(f"question {number}" for number in range(12))
    account.bodies.clear()
    assert move(*options).exit_code == 0
    assert account.bodies == []


def test_answers_that_arrive_with_a_fatal_refusal_are_kept(
    account: OpenAiAccount, tmp_path: Path, move: Move
) -> None:
    others = threading.Semaphore(0)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if body["messages"][-1]["content"] != "question 0":
            others.release()
            return echo(body)
        for _ in range(11):
            assert others.acquire(timeout=30)
        raise Refusal(401, an_error("No.", "invalid_request_error"))

    account.answer = answer
    prompts = write(tmp_path / "prompts.jsonl", [ask(number) for number in range(12)])
    options = ("--record", str(prompts), "--model", MODEL, "--output", "kept", "--yes")
    assert move(*options).exit_code == 4
    kept = [
        record["messages"][0]["content"]
        for name in (TRAINING, HELD_OUT)
        if (tmp_path / "kept" / name).exists()
        for record in records_in(tmp_path / "kept" / name)
    ]
    assert sorted(kept) == sorted(f"question {number}" for number in range(1, 12))


def test_an_answer_that_cannot_be_trained_on_is_reported_by_its_line(
    account: OpenAiAccount, move: Move, tmp_path: Path
) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        match body["messages"][-1]["content"]:
            case "cut":
                return a_completion("half an", "length")
            case "refused":
                return a_completion(None, refusal="I cannot help with that.")
            case "too long":
                message = "This model's maximum context length is 128000 tokens."
                raise Refusal(400, an_error(message, "invalid_request_error"))
            case "call":
                return a_completion(None, "tool_calls", tool_calls=[CALL])
        return a_completion("four")

    account.answer = answer
    write(
        tmp_path / "prompts.jsonl",
        [
            {"prompt": "cut"},
            {"prompt": "refused"},
            {"prompt": "too long"},
            {"messages": [{"role": "user", "content": "call"}], "tools": [TOOL]},
            {"prompt": "two and two?"},
        ],
    )
    done = move("--record", "prompts.jsonl", "--model", MODEL, "--yes", "--output", "kept")
    assert done.exit_code == 1
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line[:1].isdigit()}
    assert "the answer is not whole: length" in lines["1"]
    assert "the model refuses to answer" in lines["2"]
    assert "maximum context length" in lines["3"]
    kept = [
        record
        for name in (TRAINING, HELD_OUT)
        if (tmp_path / "kept" / name).exists()
        for record in records_in(tmp_path / "kept" / name)
    ]
    assert len(kept) == 2
    called = next(record for record in kept if "tools" in record)
    assert called["messages"][-1] == {"role": "assistant", "tool_calls": [CALL]}


def test_few_are_asked_at_once_and_rate_limits_are_waited_for(
    account: OpenAiAccount, tmp_path: Path, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Account, "repeat_after_seconds", (0.01, 0.01))
    at_once: list[int] = []
    running = 0
    lock = threading.Lock()
    all_are_asked = threading.Event()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
            if running == NUM_REQUESTS_AT_ONCE:
                all_are_asked.set()
        all_are_asked.wait(60)
        time.sleep(0.02)  # in which one too many would come
        with lock:
            running -= 1
        return echo(body)

    account.answer = answer
    account.refuse("/chat/completions", TOO_FAST, TOO_FAST)
    write(tmp_path / "prompts.jsonl", [ask(number) for number in range(12)])
    assert move("--record", "prompts.jsonl", "--model", MODEL, "--yes").exit_code == 0
    assert max(at_once) == NUM_REQUESTS_AT_ONCE
    assert account.requests["/chat/completions"] == 14


def test_prompts_go_to_no_other_address(account: OpenAiAccount, tmp_path: Path, move: Move) -> None:
    with OpenAiAccount() as elsewhere:
        elsewhere.answer = echo
        address = f"{elsewhere.url}/chat/completions"
        account.refuse("/chat/completions", Refusal(307, {}, location=address))
        write(tmp_path / "prompts.jsonl", [ask(1)])
        done = move("--record", "prompts.jsonl", "--model", MODEL, "--yes")
        assert done.exit_code == 1
        assert not elsewhere.requests


@pytest.mark.parametrize("line", ["[]", "{", '{"text": "a"}', '{"messages": []}', '{"prompt": 1}'])
def test_a_line_that_is_no_prompt_is_reported_by_its_number(
    account: OpenAiAccount, move: Move, tmp_path: Path, line: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "good"}\n' + line + "\n")
    done = move("--record", "prompts.jsonl", "--model", MODEL)
    assert done.exit_code == 2
    assert "prompts.jsonl, line 2, is no prompt." in done.stderr


def test_training_records_are_prompts_without_their_answer() -> None:
    chat = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "weight": 0},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ],
        "tools": [TOOL],
        "metadata": {"id": 1},
    }
    assert prompt_of(chat) == {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "tools": [TOOL],
    }
    preference = {"input": ask(1), "preferred_output": [], "non_preferred_output": []}
    assert prompt_of(preference) == ask(1)
    assert file_of(Prompt(1, ask(1))) == file_of(Prompt(9, ask(1)))


def test_functions_are_sent_as_tools_and_a_system_prompt_as_a_message() -> None:
    question = {"role": "user", "content": "a"}
    called = {"name": "add", "arguments": "{}"}
    chat = {
        "system": "Be brief.",
        "messages": [
            question,
            {"role": "assistant", "content": None, "function_call": called},
            {"role": "function", "name": "add", "content": "4"},
            {"role": "assistant", "content": "4", "train": True},
        ],
        "functions": [TOOL["function"]],
        "function_call": {"name": "add"},
        "response_format": {"type": "json_object"},
        "temperature": 0.0,
        "tools": None,
    }
    body = prompt_of(chat)
    assert body == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            question,
            {"role": "assistant", "content": None, "tool_calls": [CALL | {"id": "call00002"}]},
            {"role": "tool", "content": "4", "tool_call_id": "call00002"},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "response_format": {"type": "json_object"},
        "temperature": 0.0,
    }
    recorded = body | {"messages": [*body["messages"], {"role": "assistant", "content": "4"}]}
    assert prompt_of(recorded) == body, "so that an interrupted recording knows its answers"
    assert check_file([json.dumps(recorded).encode()]).num_errors == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"modalities": ["text", "audio"]}, "'modalities' would change the answer"),
        ({"functions": [{}], "tools": [{}]}, "keep 'tools'"),
        ({"messages": [{"role": "function", "name": "add"}]}, "must name a function"),
        ({"messages": [{"role": "system", "content": "a"}], "system": "b"}, "differ"),
    ],
)
def test_a_prompt_that_cannot_be_sent_as_written_is_refused_by_its_line(
    account: OpenAiAccount, move: Move, tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    write(tmp_path / "prompts.jsonl", [ask(1), ask(2) | fields])
    done = move("--record", "prompts.jsonl", "--model", MODEL)
    assert done.exit_code == 2
    assert "prompts.jsonl, line 2: " in done.stderr
    assert reason in " ".join(done.stderr.split())


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
