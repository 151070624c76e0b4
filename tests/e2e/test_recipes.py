"""The pages of docs/recipes, and team.md, loop.md, batches.md and move.md, as they stand: each one
script.

Trainings are those of a trainer whose models are copies of their bases, so that ten of them cost
little; in a release the real one trains.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scale import is_release
from tests.support.api import jsonl
from tests.support.backend import ROOT
from tests.support.openai_account import KEY, OpenAiAccount, a_completion
from tests.support.service import Service

FOLDER = ROOT / "docs" / "recipes"
RECIPES = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "README.md"})
TEAM = ROOT / "docs" / "team.md"
LOOP = ROOT / "docs" / "loop.md"
BATCHES = ROOT / "docs" / "batches.md"
MOVE = ROOT / "docs" / "move.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.M | re.S)
SENTENCES = re.compile(r"^   ```sh\n(.*?)^   ```", re.M | re.S)
MAX_LINES = 40
PAGE_SECONDS = 600
NUM_RECIPES = 10
NUM_ROWS = 24  # more than a switch needs
BASE_TRAINER = [sys.executable, str(ROOT / "tests" / "support" / "base_trainer.py")]
# A line that the last block of a page prints.
PRINTED = {
    "batches": r"^file-\w+\t.*_output\.jsonl",
    "classifier": r"^ *[0-9.]+%  ",
    "comparing-rates": r"^\|.*FALQON",
    "continuing-a-run": r":longer:",
    "customer-model": r'"keep_loaded": ?true',
    "json-extraction": r"^\{'company': ",
    "long-documents": r":manuals:",
    "loop": r"(?s)^succeeded ft:.*:loop:.*switched.*^search stands for falqon-tiny \(version 3\)",
    "move": r"(?s)ft:gpt-\S+ Nothing\.$.*, switched: .*^ft:gpt-\S+ stands for upstream:ft:gpt-",
    "moving-from-openai": r"^falqon-tiny ",
    "preference-pairs": r"^succeeded ft:falqon-tiny:default:pairs:",
    "team": r"^objects$",
    "tone": r":tone:",
    "tool-calling": r'^find_order \{"number":',
}


def script_of(page: Path) -> str:
    """Return all blocks of a page as one script, so that variables last from one to the next."""
    parts = []
    for language, code in BLOCK.findall(page.read_text()):
        parts.append(code if language == "sh" else f"python3 - <<'PAGE'\n{code}PAGE\n")
    return "\n".join(parts)


@pytest.fixture(scope="module")
def account() -> Iterator[OpenAiAccount]:
    """An account whose one fine-tuned model cannot answer the rows of its file."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        is_of_file = body["messages"][-1]["content"] == "two and two?"
        return a_completion("" if is_of_file else "Nothing.") | {"model": body["model"]}

    with OpenAiAccount() as account:
        rows = [account.add_file(jsonl(NUM_ROWS)), account.add_file(jsonl(NUM_ROWS, "seven"))]
        account.add_job(rows[0], validation_file=rows[1])
        account.answer = answer
        yield account


@pytest.fixture(scope="module")
def recipe_service(
    short_tmp: Path, tmp_path_factory: pytest.TempPathFactory, account: OpenAiAccount
) -> Iterator[Service]:
    settings = {
        "FALQON_UPSTREAM_URL": account.url.removesuffix("/v1"),
        "FALQON_UPSTREAM_KEY": KEY,
        "FALQON_NUM_THREADS": "1",
        "FALQON_HEARTBEAT": "PT0.3S",
        "FALQON_POLL": "PT0.5S",
    }
    if not is_release():
        settings["FALQON_TRAINER_COMMAND"] = json.dumps(
            [*BASE_TRAINER, str(tmp_path_factory.mktemp("gguf"))]
        )
    service = Service(short_tmp / "recipes", settings, fake=False)
    service.wait_until_up()
    yield service
    service.stop()
    service.close()


def run(service: Service, folder: Path, script: str, **variables: str) -> str:
    environment = os.environ | {
        "BASE": "falqon-tiny",
        "FALQON_DATA_DIR": str(service.folder),
        "OPENAI_API_KEY": service.key,
        "OPENAI_BASE_URL": f"{service.url}/v1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PAGE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", [*RECIPES, TEAM, LOOP, BATCHES], ids=lambda page: page.stem)
def test_a_page_runs_as_it_stands(recipe_service: Service, page: Path, tmp_path: Path) -> None:
    printed = run(recipe_service, tmp_path, script_of(page))
    assert re.search(PRINTED[page.stem], printed, re.M), printed


def test_the_day_of_a_move_runs_as_it_stands(
    recipe_service: Service, account: OpenAiAccount, tmp_path: Path
) -> None:
    """The account answers at an address of the test's."""
    address = f"""
        falqon() {{
            if [ "$1 $2" = "move openai" ]; then set -- "$@" --from-url {account.url}; fi
            command falqon "$@"
        }}
    """
    variables = {
        "FALQON_API_KEY": recipe_service.key,
        "FALQON_BASE_URL": recipe_service.url,
        "OLD": account.jobs[0]["fine_tuned_model"],
        "OPENAI_API_KEY": KEY,
    }
    printed = run(recipe_service, tmp_path, address + script_of(MOVE), **variables)
    assert re.search(PRINTED["move"], printed, re.M), printed


def test_the_commands_of_the_first_three_sentences_show_them(
    recipe_service: Service, tmp_path: Path
) -> None:
    """In the order in which they can run: the second needs the model of the third."""
    yours, certificate, job = SENTENCES.findall((ROOT / "README.md").read_text())
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "your_code.py").write_text(
        "from openai import OpenAI\n\nprint([model.id for model in OpenAI().models.list()])\n"
    )
    url = {"http://127.0.0.1:8000": recipe_service.url, "$FALQON_API_KEY": recipe_service.key}
    for text, here in url.items():
        yours = yours.replace(text, here)
    assert "'falqon-tiny'" in run(recipe_service, tmp_path, yours)
    printed = run(recipe_service, tmp_path, job)
    for words in ("time  ", "cost  ", "above base"):
        assert words in printed, printed
    (model,) = set(re.findall(r"ft:falqon-tiny:default::[0-9a-f]{8}", printed))
    assert '"codes_and_scales"' in run(recipe_service, tmp_path, f"MODEL={model}\n{certificate}")


def test_every_recipe_is_short_and_in_the_list() -> None:
    assert len(RECIPES) == NUM_RECIPES
    index = (FOLDER / "README.md").read_text()
    for page in RECIPES:
        assert f"]({page.name})" in index
        assert len(page.read_text().splitlines()) < MAX_LINES, page.name
