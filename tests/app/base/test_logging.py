import contextlib
import json
import socket
import subprocess
import sys
import time

import pytest

from app.auth import secrets
from app.base.logging import Redact, redact_keys, redact_text, secrets_of
from app.base.settings import Settings

PROGRAM = """
import logging, structlog, sys
from app.base.logging import configure
configure()
secret = sys.argv[1]
structlog.get_logger().info(
    "got " + secret,
    headers={"Authorization": "Basic dXNlcg=="},
    nested=[{"a": "Bearer abc.def"}],
)
structlog.get_logger().info("made whsec_AAbb+/0123=", signing_secret="plain")
logging.getLogger("uvicorn.error").warning("also %s", secret)
try:
    raise ValueError(secret)
except ValueError:
    structlog.get_logger().exception("failed")
"""


def test_secrets_stay_inside_and_every_line_is_json() -> None:
    _, secret = secrets.generate()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, secret], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["info", "info", "warning", "error"]
    assert secret[-38:] not in done.stderr
    for hidden in ("dXNlcg", "abc.def", "AAbb", "plain"):
        assert hidden not in done.stderr
    assert secret[:16] in done.stderr  # enough to find the key by its id


def test_ordinary_text_is_left_alone() -> None:
    text = "the bearer of ft_models and a basic idea"
    assert redact_text("ft_live_") == "ft_live_"
    assert redact_text("no secrets: ft:base:acme::1234") == "no secrets: ft:base:acme::1234"
    assert "ft_models" in redact_text(text)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET /v1/models/ft_live_abcdefgh_ijklmnop", "ijklmnop"),
        ("authorization: Token", "Token"),
        ("Authorization: Bearer canary", "canary"),
        ("{'authorization': 'Token canary'}", "canary"),
        ("{'Cookie': 'falqon_session=canary; other=canary'}", "falqon_session"),
        ("cannot connect to postgresql://falqon:canary@db/falqon", "canary"),
        ("redis://:canary@redis:6379/0 is away", "canary"),
        ("api_key=canary api-key: canary x-api-key: canary", "canary"),
        ("password='canary'", "canary"),
        ("GET /links/eyJ0b2.canary-Zq_/weights 200", "canary"),
        ("location: https://bucket/a?X-Amz-Expires=9&X-Amz-Signature=canary", "canary"),
        ("downloading with hf_abcdefghijklmnopqrstu", "abcdefghijklmnopqrstu"),
    ],
)
def test_what_looks_like_a_secret_is_none_any_more(text: str, hidden: str) -> None:
    assert hidden not in redact_text(text)


def test_answers_hide_our_own_keys_and_nothing_else() -> None:
    _, secret = secrets.generate()
    assert (
        redact_keys(f"The model '{secret}' does not exist.")
        == f"The model '{secret[:17]}***' does not exist."
    )
    assert (
        redact_keys("api_key: an unknown parameter; password: too short")
        == "api_key: an unknown parameter; password: too short"
    )


def test_secrets_of_the_environment_are_masked_whatever_their_form() -> None:
    settings = Settings(
        _env_file=None,
        admin_key="plain-words-as-a-key",
        session_secret="sign with me!",
        database_url="postgresql://me:p%40ss-word@db/x",
    )
    redact = Redact(
        secrets_of(
            settings,
            {
                "AWS_SECRET_ACCESS_KEY": "abcd/efgh+ijkl",
                "HOME": "/home/someone",
                "API_KEY": "short",
            },
        )
    )

    event = redact(
        None,
        "info",
        {
            "event": "got plain-words-as-a-key and p@ss-word",
            "error": ValueError("sign with me!"),
            "nested": ({"key plain-words-as-a-key": [b"abcd/efgh+ijkl"]},),
            "short": "in a short while",
            "home": "/home/someone",
            "count": 3,
        },
    )

    assert event == {
        "event": "got *** and ***",
        "error": "ValueError('***')",
        "nested": [{"key ***": ["b'***'"]}],
        "short": "in a short while",
        "home": "/home/someone",
        "count": 3,
    }


ENDLESS = """
import logging, structlog, time
from app.base.logging import configure
configure()
for number in range(1, 1501):
    time.monotonic = lambda: number / 1000
    logging.getLogger("uvicorn.error").warning("Invalid request %d", number)
    structlog.get_logger().info("ours, which may repeat") if number <= 50 else None
    structlog.get_logger().warning("also ours", number=number) if number <= 50 else None
    try:
        raise ValueError(number)
    except ValueError:
        structlog.get_logger().exception("unhandled error", number=number)
        logging.getLogger("asyncio").error("accepting from <socket %d>" % number, exc_info=True)
"""


def test_an_error_that_repeats_is_written_once_a_second_and_counted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len([line for line in lines if "ours" in line["event"]]) == 100
    for repeated in ("Invalid request", "unhandled error", "accepting from"):
        first, second = (line for line in lines if repeated in line["event"])
        assert second.get("left_out", 0) > 10 or "more of these were left out" in second["event"]
        assert "left out" not in first["event"]


ACCEPTS = """
import asyncio, resource, sys
from app.base.logging import configure
configure()
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
async def main():
    server = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_server_without_open_files_left_says_so_once_a_second() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ACCEPTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    began_at = time.monotonic()
    with contextlib.ExitStack() as crowd:
        for _ in range(100):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        time.sleep(2.5)
        process.kill()
        _, errors = process.communicate()
    seconds = time.monotonic() - began_at
    assert 1 <= errors.count("out of system resource") <= seconds + 1
