import json
import subprocess
import sys

from app.keys import secrets
from app.logging import redact_text

PROGRAM = """
import logging, structlog, sys
from app.logging import configure
configure()
secret = sys.argv[1]
structlog.get_logger().info("got " + secret, headers={"Authorization": "Basic dXNlcg=="}, nested=[{"a": "Bearer abc.def"}])
structlog.get_logger().info("made whsec_AAbb+/0123=", signing_secret="plain")
logging.getLogger("uvicorn.error").warning("also %s", secret)
try:
    raise ValueError(secret)
except ValueError:
    structlog.get_logger().exception("failed")
"""


def test_secrets_stay_inside_and_every_line_is_json() -> None:
    _, secret = secrets.generate()
    done = subprocess.run([sys.executable, "-c", PROGRAM, secret], capture_output=True, text=True, check=True)
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
