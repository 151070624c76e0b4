"""`falqon chat`, in this process or on a terminal of its own."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.client import chat
from tests.support.api import Api, Tenant
from tests.support.echo_engine import COUNT, echo_engine
from tests.support.terminal import CTRL_C, Terminal

Falqon = Callable[..., Result]

MODEL = "falqon-tiny"
SHORT = ("--max-tokens", "8", "--temperature", "0")
CTRL_D = b"\x04"


@pytest.fixture
def environment(tenant: Tenant) -> dict[str, str]:
    return {"FALQON_BASE_URL": tenant.api.url, "FALQON_API_KEY": tenant.key}


@pytest.fixture
def falqon(environment: dict[str, str]) -> Falqon:
    def run(*arguments: str, **options: str) -> Result:
        return CliRunner().invoke(app, arguments, env=environment, **options)

    return run


def terminal(environment: dict[str, str], model: str, *arguments: str) -> Terminal:
    command = [sys.executable, "-m", "app.cli", "chat", model, *arguments]
    return Terminal(command, os.environ | environment)


def answer_of(tenant: Tenant, *messages: tuple[str, str]) -> str:
    turns = [{"role": role, "content": content} for role, content in messages]
    question = {"model": MODEL, "messages": turns, "max_tokens": 8, "temperature": 0}
    answer = tenant.client.chat.completions.create(**question)
    return str(answer.choices[0].message.content)


def without_breaks(text: str) -> str:
    return " ".join(text.split())


def test_one_question_is_answered_and_nothing_else_is_printed(
    falqon: Falqon, tenant: Tenant
) -> None:
    expected = answer_of(tenant, ("user", "Hello"))
    assert without_breaks(
        falqon("chat", MODEL, "--once", "Hello", *SHORT).stdout
    ) == without_breaks(expected)
    piped = falqon("chat", MODEL, *SHORT, input="Hello\n")
    assert (piped.exit_code, without_breaks(piped.stdout)) == (0, without_breaks(expected))
    assert "as many tokens as it may" in piped.stderr
    as_json = json.loads(falqon("chat", MODEL, "--once", "Hello", *SHORT, "--json").stdout)
    assert as_json["choices"][0]["message"]["content"] == expected


def test_what_the_model_is_told_first(falqon: Falqon, tenant: Tenant) -> None:
    expected = answer_of(tenant, ("system", "Be brief."), ("user", "Hello"))
    output = falqon("chat", MODEL, "--system", "Be brief.", "--once", "Hello", *SHORT).stdout
    assert without_breaks(output) == without_breaks(expected)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("nothing", "--once", "Hello"), 3, "nothing"),
        ((MODEL, "--once", "Hello", "--temperature", "3"), 1, "temperature"),
        ((MODEL, "--once", "word " * 9000), 1, "context"),
        ((MODEL, "--once", " "), 2, "no question"),
        ((MODEL, "--once", "\udcff"), 2, "UTF-8"),
        ((MODEL, "--once", "Hello", "--api-key", "wrong"), 4, "API key"),
    ],
)
def test_what_cannot_be_asked_is_said(
    falqon: Falqon, arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    done = falqon("chat", *arguments)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert words in done.stderr


def test_a_model_that_is_being_loaded_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "LOADING_SECONDS", 0.1)
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path)  # which no worker does here
    tenant = Tenant(api)
    variables = {"FALQON_BASE_URL": api.url, "FALQON_API_KEY": tenant.key}
    arguments = ["chat", tenant.base_model, "--once", "Hello"]
    done = CliRunner().invoke(app, arguments, env=variables)
    tenant.http.close()
    api.stop()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "The model is being loaded; it is asked again." in done.stderr
    assert "code model_loading" in done.stderr


def test_a_conversation(tenant: Tenant, environment: dict[str, str]) -> None:
    first = answer_of(tenant, ("user", "Hello"))
    turns = (("user", "Hello"), ("assistant", first), ("user", "More"))
    second = answer_of(tenant, *turns)
    screen = terminal(environment, MODEL, *SHORT)
    for question in ("Hello", "More"):
        screen.read_until("> ")
        screen.raw = ""
        screen.type(f"{question}\r".encode())
        screen.read_until("> ")
        expected = {"Hello": first, "More": second}[question]
        assert without_breaks(expected) in without_breaks(screen.text)
    screen.raw = ""
    screen.type(b"/system Be brief.\r")
    screen.read_until("> ")
    screen.raw = ""
    screen.type(b"/retry\r")
    screen.read_until("> ")
    brief = answer_of(tenant, ("system", "Be brief."), *turns)
    assert without_breaks(brief) in without_breaks(screen.text)
    screen.type(CTRL_D)
    assert screen.finish() == 0, screen.text


def test_a_conversation_is_saved_as_a_record_and_no_file_is_overwritten(
    tmp_path: Path, tenant: Tenant, environment: dict[str, str]
) -> None:
    kept, saved = tmp_path / "notes.txt", tmp_path / "two words.jsonl"
    kept.write_text("mine")
    screen = terminal(environment, MODEL, *SHORT, "--system", "Be brief.")
    lines = [
        (f"/save {saved}", "no answer to save"),
        ("Hello", "> "),
        ("/save", "Name a file"),
        (f"/save {kept}", "is left as it is"),
        (f"/save {tmp_path / 'nowhere' / 'a.jsonl'}", "No such file or directory"),
        (f"/save {saved}", "a training record in"),
    ]
    for line, words in lines:
        screen.read_until("> ")
        screen.raw = ""
        screen.type(f"{line}\r".encode())
        screen.read_until(words)
    screen.read_until("> ")
    screen.type(CTRL_D)
    assert screen.finish() == 0, screen.text
    assert kept.read_text() == "mine"
    answer = answer_of(tenant, ("system", "Be brief."), ("user", "Hello"))
    roles = {"system": "Be brief.", "user": "Hello", "assistant": answer}
    messages = [{"role": role, "content": content} for role, content in roles.items()]
    assert json.loads(saved.read_text()) == {"messages": messages}


def test_separators_that_only_unicode_knows_are_part_of_an_answer(tmp_path: Path) -> None:
    question = "one\u2028two\u2029three\u0085four"
    with echo_engine() as address:
        api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, engine_url=address)
        tenant = Tenant(api)
        variables = {"FALQON_BASE_URL": api.url, "FALQON_API_KEY": tenant.key}
        arguments = ["chat", tenant.base_model, "--once", question]
        done = CliRunner().invoke(app, arguments, env=variables)
        tenant.http.close()
        api.stop()
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "one\u2028two\u2029threefour\n", "U+0085 would steer a terminal"


def test_ctrl_c_ends_the_answer_and_not_the_conversation(tmp_path: Path) -> None:
    with echo_engine() as address:
        api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, engine_url=address)
        tenant = Tenant(api)
        variables = {"FALQON_BASE_URL": api.url, "FALQON_API_KEY": tenant.key}
        screen = terminal(variables, tenant.base_model)
        screen.read_until("> ")
        screen.type(b"Forget")
        screen.read_until("> Forget")
        screen.type_until(CTRL_C, "> Forget\n> ")
        screen.type(COUNT.encode() + b"\r")
        screen.read_until("3 4 5 ")
        screen.type(CTRL_C)
        screen.read_until("Ended.\n> ")
        screen.type(CTRL_D)
        assert screen.finish() == 0, screen.text
        tenant.http.close()
        api.stop()
    assert "Traceback" not in screen.text
