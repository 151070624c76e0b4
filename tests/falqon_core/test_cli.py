import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from falqon_core import cli
from falqon_core.contract.certificate import CERTIFICATE, Certificate
from falqon_core.contract.errors import (
    CertificateMismatch,
    CheckpointCorrupt,
    ConfigError,
    DatasetError,
    FalqonError,
    LossNotFinite,
    OutOfMemory,
    as_falqon_error,
)
from falqon_core.contract.messages import (
    CheckpointSaved,
    ExitCode,
    Exported,
    Failed,
    Finished,
    Started,
    StepMetrics,
)
from falqon_core.process_edge import exit_code_of
from falqon_core.train.checkpoint import load_checkpoint
from tests.falqon_core.train.processes import (
    ENVIRONMENT,
    ROOT,
    parent_of_trainer,
    trainer,
    write_config,
)

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
RECIPE = {"rank": 8, "max_seq_length": 64, "batch_size": 4, "max_steps": 3}
RECORD = {
    "messages": [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "Seven lamps."},
    ]
}


@pytest.fixture(autouse=True)
def _this_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that runs in here installs handlers and sets variables."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1" if name != "TRANSFORMERS_VERBOSITY" else "error")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text((json.dumps(RECORD) + "\n") * 10)
    return path


def run(
    *arguments: str | Path, packages: Path = ROOT, variables: Mapping[str, str] = {}
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "falqon_core", *map(str, arguments)]
    environment = ENVIRONMENT | {"PYTHONPATH": f"{packages}:{ROOT}"} | variables
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_training_ends_with_its_certificate_in_a_locale_of_ascii(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """In its names, its variables of the template, and its samples are other characters."""
    answer = {"role": "assistant", "content": "Größe π, 日本語"}
    train_file = tmp_path / "train.jsonl"
    record = {"messages": [RECORD["messages"][0], answer]}
    train_file.write_bytes((json.dumps(record) + "\n").encode() * 10)
    recipe = RECIPE | {"max_steps": 1, "validation_fraction": 0.2, "eval_every": 1}
    recipe |= {"chat_template_kwargs": {"town": "Zürich"}, "num_samples": 1, "sample_tokens": 1}
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text("{% if town %}{% endif %}" + template.read_text())
    path = write_config(tmp_path / "config.json", model, train_file, recipe, certificate=True)
    name = "acme/größe"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name": name}))

    done = run("train", "--config", path, "--output", tmp_path / "out", variables=ASCII_LOCALE)

    assert done.returncode == ExitCode.DONE, done.stderr
    assert r"Gr\xf6\xdfe \u03c0" in done.stdout
    certificate = (tmp_path / "out" / "model" / CERTIFICATE).read_text(encoding="utf-8")
    assert Certificate.model_validate_json(certificate).base.name == name
    assert load_checkpoint(tmp_path / "out/checkpoints/1").progress.recipe.chat_template_kwargs == {
        "town": "Zürich"
    }


def test_a_data_set_is_inspected_in_a_locale_of_ascii(tiny_folder: Path, tmp_path: Path) -> None:
    train_file = tmp_path / "train.jsonl"
    train_file.write_text(json.dumps({"text": "Größe π"}) + "\n")
    done = run("inspect", train_file, "--model", tiny_folder, variables=ASCII_LOCALE)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert json.loads(done.stdout)
    assert not done.stdout.isascii()


def test_a_training_by_hand_of_what_was_imported_loads_no_package_of_another_method(
    train_file: Path, tmp_path: Path
) -> None:
    """The real bitsandbytes says something when it is loaded, but on some processors only."""
    (tmp_path / "bitsandbytes.py").write_text("import sys; sys.stderr.write('loaded')")
    model = tmp_path / "tiny"
    command = ["import", "builtin:falqon-tiny", "--output", str(model)]
    imported = CliRunner().invoke(cli.app, command)
    assert imported.exit_code == ExitCode.DONE, imported.output
    config = write_config(tmp_path / "config.json", model, train_file, RECIPE)
    done = run("train", "--config", config, "--output", tmp_path / "out", packages=tmp_path)
    assert done.returncode == ExitCode.DONE, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["step", "1/3"],
        ["step", "2/3"],
        ["step", "3/3"],
    ]
    assert lines[-1].startswith("finished: 3 steps")
    assert done.stderr == ""


@pytest.mark.usefixtures("certified_here")
def test_messages_arrive_on_the_descriptor_and_an_export_gives_the_same_files(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "config.json", tiny_folder, train_file, RECIPE, certificate=True
    )
    output = tmp_path / "out"
    with trainer(config, output) as running:
        assert running.finish() == ExitCode.DONE
    kinds = [type(message) for message in running.messages]
    assert kinds == [
        Started,
        StepMetrics,
        StepMetrics,
        StepMetrics,
        CheckpointSaved,
        Exported,
        Finished,
    ]

    arguments = (output, "--model", tiny_folder, "--output", tmp_path / "again")
    command = ["export", *map(str, arguments), "--train-file", str(train_file)]
    command += ["--num-threads", "1"]
    again = CliRunner().invoke(cli.app, command)
    assert again.exit_code == ExitCode.DONE, again.output
    for name in ("model.safetensors", "certificate.json"):
        assert (tmp_path / "again" / name).read_bytes() == (output / "model" / name).read_bytes(), (
            name
        )


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"recipe": {"rank": 0}}, "invalid_config", "rank"),
        ({"recipe": {"update_rule": "topk", "alpha": 3}}, "invalid_config", "alpha"),
        ({"unheard_of": 1}, "invalid_config", "unheard_of"),
        (
            {"recipe": {"rank": 8, "target_modules": ["nothing"]}},
            "invalid_config",
            "target_modules",
        ),
        ({"train_file": "/nowhere/train.jsonl"}, "invalid_training_file", "training_file"),
        ({"model": "/nowhere/model"}, "model_refused", "model"),
    ],
)
def test_a_user_error_is_reported_by_code_and_parameter(
    change: dict[str, Any],
    code: str,
    param: str,
    tiny_folder: Path,
    train_file: Path,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "config.json", tiny_folder, train_file, RECIPE)
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    read, write = os.pipe()
    # In this process: what is tested is the edge, and starting Python each time would take seconds.
    result = CliRunner().invoke(
        cli.app,
        [
            "train",
            "--config",
            str(config),
            "--output",
            str(tmp_path / "out"),
            "--message-fd",
            str(write),
        ],
    )
    with open(read, "rb") as pipe:
        (failed,) = [json.loads(line) for line in pipe]
    assert result.exit_code == ExitCode.USER_ERROR
    assert (failed["type"], failed["code"], failed["param"]) == ("failed", code, param)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (ConfigError("x", "rank"), "invalid_config", ExitCode.USER_ERROR),
        (DatasetError("x"), "invalid_training_file", ExitCode.USER_ERROR),
        (LossNotFinite("x"), "loss_not_finite", ExitCode.USER_ERROR),
        (CertificateMismatch("x"), "certificate_mismatch", ExitCode.CERTIFICATE_MISMATCH),
        (CheckpointCorrupt("x"), "checkpoint_corrupt", ExitCode.INTERNAL),
        (OutOfMemory("x"), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (MemoryError(), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (RuntimeError("some bug"), "internal_error", ExitCode.INTERNAL),
        (ZeroDivisionError(), "internal_error", ExitCode.INTERNAL),
    ],
)
def test_every_error_has_its_code(error: Exception, code: str, exit_code: ExitCode) -> None:
    failure = as_falqon_error(error)
    assert isinstance(failure, FalqonError)
    assert failure.code == code
    assert exit_code_of(failure) == exit_code


def test_a_package_that_is_missing_is_named() -> None:
    """As where `falqon migrate` builds the small model on a machine that was set up for the API."""
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("falqon_core.no_such_package")
    failure = as_falqon_error(caught.value)
    assert "falqon_core.no_such_package is not installed here" in str(failure)
    assert exit_code_of(failure) == ExitCode.INTERNAL


def test_an_allocation_that_fails_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert as_falqon_error(caught.value).code == "out_of_memory"


def test_inspect_prints_json_and_does_without_torch(tiny_folder: Path, train_file: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "falqon_core", "inspect", str(train_file)]
    done = subprocess.run(
        [*command, "--model", str(tiny_folder), "--max-seq-length", "16"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "transformers" in imported
    assert not [name for name in imported if name.partition(".")[0] == "torch"]
    figures = json.loads(done.stdout)
    assert (figures["records"], figures["truncated"], figures["tokens_per_epoch"]) == (10, 10, 160)
    assert sum(figures["histogram"]["counts"]) == 10


def failure_of(*arguments: str | Path) -> dict[str, Any]:
    """Run a command in this process; returns what it says on the descriptor, and nowhere else."""
    read, write = os.pipe()
    command = [*map(str, arguments), "--message-fd", str(write)]
    result = CliRunner().invoke(cli.app, command)
    os.close(write)
    with open(read, "rb") as pipe:
        (failed,) = [json.loads(line) for line in pipe]
    assert (result.exit_code, result.stdout) == (ExitCode.USER_ERROR, "")
    assert failed["type"] == "failed"
    return dict(failed)


def test_inspect_reports_its_failure_on_the_descriptor(tiny_folder: Path, train_file: Path) -> None:
    train_file.write_text("{oops\n")
    failed = failure_of("inspect", train_file, "--model", tiny_folder)
    assert (failed["code"], failed["param"]) == ("invalid_training_file", "training_file")
    assert failed["message"].startswith("line 1, column 2: not JSON")


def test_help_documents_the_exit_codes() -> None:
    text = CliRunner().invoke(cli.app, ["train", "--help"]).stdout
    assert all(str(code.value) in text for code in ExitCode)


def test_the_trainer_ends_when_its_parent_dies(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "config.json",
        tiny_folder,
        train_file,
        RECIPE | {"max_steps": 1_000_000, "checkpoint_every": 10_000},
    )
    with parent_of_trainer(config, tmp_path / "out") as running:
        for message in running.read():
            if isinstance(message, StepMetrics):
                running.process.kill()
    assert running.process.wait() == -signal.SIGKILL
    assert isinstance(running.messages[-1], StepMetrics), "it was gone and said no more"
    assert not (tmp_path / "out" / "model").exists()


def test_an_unwritable_reader_is_a_dead_supervisor(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "config.json", tiny_folder, train_file, RECIPE | {"max_steps": 1_000_000}
    )
    with trainer(config, tmp_path / "out") as running:
        for message in running.read():
            if isinstance(message, StepMetrics):
                break
        running.pipe.close()
        assert running.process.wait(60) == ExitCode.STOPPED
        assert not isinstance(running.messages[-1], Failed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--study", "costs", "--quick"], "--json and --quick are not for a study"),
        (["--plot", "costs.svg"], "--plot draws a study; name one with --study"),
    ],
)
def test_bench_refuses_options_that_it_would_ignore(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["bench", *options])
    assert result.exit_code == ExitCode.USER_ERROR
    assert message in result.stderr


def test_bench_without_a_gpu_says_what_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    result = CliRunner().invoke(cli.app, ["bench", "--quick"])
    assert result.exit_code == ExitCode.USER_ERROR
    assert "the benchmark measures an NVIDIA GPU, and there is none to use here" in result.stderr
    assert result.stdout == ""
