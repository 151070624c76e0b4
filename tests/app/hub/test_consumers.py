"""The libraries and the command themselves, told nothing but `HF_ENDPOINT` and a token."""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.app.hub.conftest import CHECKPOINT, Hub
from tests.support.environments import python_with


def run(hub: Hub, folder: Path, code: str, python: str | Path = sys.executable) -> Any:
    """What the code prints at last, as JSON."""
    command = [str(python), "-W", "ignore", "-c", dedent(code)]
    done = subprocess.run(
        [*command, "model"],
        cwd=folder,
        env=hub.environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_transformers_loads_by_id(hub: Hub, tmp_path: Path) -> None:
    code = f"""
    import json
    from transformers import AutoModelForCausalLM, AutoTokenizer
    for revision in ("main", "{CHECKPOINT}"):
        tokenizer = AutoTokenizer.from_pretrained("{hub.tuned}", revision=revision)
        model = AutoModelForCausalLM.from_pretrained("{hub.tuned}", revision=revision)
        ids = tokenizer("Hello! How can", return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=4, do_sample=False)
        print(json.dumps([model.num_parameters(), out.shape[1] - ids.shape[1]]))
    """
    assert run(hub, tmp_path, code) == [
        sum(hub.api().get_safetensors_metadata(hub.tuned).parameter_count.values()),
        4,
    ]
    refs = tmp_path / "hub" / f"models--{hub.tuned.replace('/', '--')}" / "refs"
    for revision in ("main", CHECKPOINT):
        assert (refs / revision).read_text() == hub.api().model_info(
            hub.tuned, revision=revision
        ).sha


def test_the_hf_command_downloads(hub: Hub, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "huggingface_hub.cli.hf",
        "download",
        hub.tuned,
        "--local-dir",
    ]
    for _ in range(2):
        done = subprocess.run(
            [*command, "model"],
            cwd=tmp_path,
            env=hub.environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


def test_a_base_model_that_is_imported_from_a_hub_keeps_its_name_there(
    hub: Hub, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "falqon_core",
        "import",
        "hf:falqon-tiny@main",
        "--output",
        str(tmp_path / "model"),
    ]
    done = subprocess.run(
        command, env=hub.environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        json.loads((tmp_path / "model" / "config.json").read_text())["_name_or_path"]
        == "falqon-tiny"
    )


@pytest.mark.slow
def test_datasets_loads_an_uploaded_file(hub: Hub, tmp_path: Path) -> None:
    code = f"""
    import json
    from datasets import load_dataset
    rows = load_dataset("{hub.file}", split="train")
    streamed = load_dataset("{hub.file}", split="train", streaming=True)
    print(json.dumps([rows[3], len(rows), next(iter(streamed))]))
    """
    row = {"prompt": "3", "completion": "yes"}
    assert run(hub, tmp_path, code, python_with("datasets>=5,<6")) == [
        row,
        20,
        row | {"prompt": "0"},
    ]
