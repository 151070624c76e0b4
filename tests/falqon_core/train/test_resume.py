"""Resume is bit-exact: whatever killed the process, the same command ends with the same bytes."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.bench.model import dimensions_of, llama_7b
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError, OutOfMemory
from falqon_core.contract.messages import ExitCode, Started, StepMetrics
from falqon_core.estimate import host_memory
from falqon_core.train.checkpoint import (
    Progress,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from falqon_core.train.data import load_data
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.model import load_tokenizer
from falqon_core.train.resume import (
    check_same_training,
    hash_data,
    recipe_fit_to_memory,
    replace_lost_best,
)
from tests.falqon_core.estimate.test_estimate import TINY
from tests.falqon_core.train.processes import Running, trainer, write_config
from tests.falqon_core.train.trainings import bytes_of, config_of, of, resize, train

RECIPE = {
    "rank": 16,
    "max_seq_length": 64,
    "batch_size": 4,
    "max_steps": 30,
    "checkpoint_every": 5,
    "validation_fraction": 0.1,
}


def interrupt(running: Running, step: int, number: signal.Signals) -> int:
    for message in running.read():
        if isinstance(message, StepMetrics) and message.step == step:
            running.process.send_signal(number)
    return running.finish()


def test_killed_stopped_and_continued_is_uninterrupted(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "config.json", tiny_folder, train_file, RECIPE, certificate=True
    )
    with trainer(config, tmp_path / "whole") as running:
        assert running.finish() == ExitCode.DONE
    losses = [(message.step, message.train_loss) for message in of(StepMetrics, running.messages)]

    attempts: list[Running] = []
    for step, number in ((8, signal.SIGKILL), (17, signal.SIGTERM)):
        with trainer(config, tmp_path / "parts") as running:
            code = interrupt(running, step, number)
        attempts.append(running)
        assert code == (ExitCode.STOPPED if number == signal.SIGTERM else -signal.SIGKILL)
    with trainer(config, tmp_path / "parts") as running:
        assert running.finish() == ExitCode.DONE
    attempts.append(running)

    messages = [message for attempt in attempts for message in attempt.messages]
    starts = [message.start_step for message in of(Started, messages)]
    assert starts[0] == 0
    # Or later checkpoints than the kill waited for: every fifth step, and ends of epochs when the
    # loss is lowest.
    assert starts[1] > 0
    assert starts[1] % 5 == 0 or starts[1] % 7 == 0
    assert starts[2] >= 17
    recorded = {(message.step, message.train_loss) for message in of(StepMetrics, messages)}
    assert sorted(recorded) == losses
    assert bytes_of(tmp_path / "parts") == (whole := bytes_of(tmp_path / "whole"))
    assert whole["model/training_curve.svg"].count(b"L") >= len(losses) - 1, (
        "a point for every step, whichever attempt took it"
    )


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(lines))
    return path


def test_other_data_of_the_same_size_is_refused(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """Only a checkpoint that knows its data tells: those of earlier trainings are continued."""
    lines = train_file.read_text().splitlines(keepends=True)
    train_lines, valid_lines = lines[:20], lines[20:]
    recipe = {"rank": 8, "max_seq_length": 64, "batch_size": 4, "max_steps": 4, "num_samples": 0}

    def run(train_lines: list[str], valid_lines: list[str], stop_after: int) -> int:
        train_file = write_lines(tmp_path / "train.jsonl", train_lines)
        valid_file = write_lines(tmp_path / "valid.jsonl", valid_lines)
        config = config_of(
            tiny_folder,
            train_file,
            recipe | {"validation_fraction": None},
            validation_file=valid_file,
        )
        _, messages = train(config, tmp_path / "out", stop_after)
        return int(of(Started, messages)[0].start_step)

    assert run(train_lines, valid_lines, 1) == 0
    with pytest.raises(ConfigError, match=r"other training data .* another order") as caught:
        run(train_lines[::-1], valid_lines, 1)
    assert caught.value.param == "train_file"
    with pytest.raises(ConfigError, match="or validation data"):
        run(train_lines, [line.replace("lamps", "ropes") for line in valid_lines], 1)
    assert run(train_lines, valid_lines, 1) == 1
    checkpoint = load_checkpoint(tmp_path / "out/checkpoints/2")
    checkpoint.progress.data_sha256 = None
    save_checkpoint(tmp_path / "out", checkpoint, keep=2)
    assert run(train_lines[::-1], valid_lines, 1) == 2
    with pytest.raises(ConfigError, match="other training data"):
        run(train_lines, valid_lines, 1)


def test_another_base_of_the_same_shapes_is_refused(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """Unless the checkpoint is older than what tells bases apart; a base may move."""
    recipe = {"rank": 8, "max_seq_length": 64, "batch_size": 4, "max_steps": 9}
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    other = resize(tiny_folder, tmp_path / "other", 2)
    output = tmp_path / "out"

    def run(base: Path) -> int:
        _, messages = train(config_of(base, train_file, recipe), output, 1)
        return int(of(Started, messages)[0].start_step)

    assert run(tiny_folder) == 0
    with pytest.raises(ConfigError, match="another base model") as caught:
        run(other)
    assert caught.value.param == "model"
    assert run(moved) == 1
    checkpoint = load_checkpoint(output / "checkpoints/2")
    checkpoint.progress.base_fingerprint = None
    save_checkpoint(output, checkpoint, keep=2)
    assert run(other) == 2
    with pytest.raises(ConfigError, match="another base model"):
        run(tiny_folder)


def test_data_that_the_date_is_part_of_has_no_hash(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """A training goes on after midnight; plain text has no date."""
    text_file = write_lines(tmp_path / "text.jsonl", ['{"text": "Lamps and bells"}\n'] * 3)
    tokenizer = load_tokenizer(tiny_folder)

    def hash_of(path: Path) -> str | None:
        data = load_data(config_of(tiny_folder, path, {}), tokenizer, print)
        return hash_data(data, tokenizer)

    hashes = hash_of(train_file), hash_of(text_file)
    assert None not in hashes
    tokenizer.chat_template = "{% set today = strftime_now('%d %b %Y') %}" + str(
        tokenizer.chat_template
    )
    assert (hash_of(train_file), hash_of(text_file)) == (None, hashes[1])


@pytest.mark.parametrize("chosen", ["device", "int8", "host"])
def test_a_base_stays_what_it_was_when_the_training_began(chosen: str) -> None:
    """Also for trainings that began when "device" was all that an open one could become."""
    resolved = Recipe(max_seq_length=64).resolved(100)
    fitted = {"base_copy": chosen, "microbatch_tokens": 64, "activation_checkpointing": True}
    before = Progress(
        recipe=resolved.model_copy(update=fitted), num_records=1, num_tokens=1, num_threads=1
    )

    again = recipe_fit_to_memory(resolved, before, TINY, torch.device("cpu"), ProcessGroup())

    assert again.recipe == before.recipe


def progress_on(card: str | None, recipe: Recipe) -> Progress:
    return Progress(recipe=recipe, num_records=1, num_tokens=1, num_threads=1, device_name=card)


def test_another_card_gets_a_plan_of_its_own_and_says_so() -> None:
    resolved = Recipe(max_seq_length=64).resolved(100)
    fitted = {"base_copy": "int8", "microbatch_tokens": 65, "activation_checkpointing": True}
    before = progress_on("NVIDIA H100 80GB HBM3", resolved.model_copy(update=fitted))
    warnings: list[str] = []
    cpu = torch.device("cpu")
    plan = recipe_fit_to_memory(resolved, before, TINY, cpu, ProcessGroup(), warnings.append)
    again = plan.recipe
    assert again.base_copy == "int8"
    assert again.microbatch_tokens is not None
    assert again.microbatch_tokens > 65
    (warning,) = warnings
    assert warning.startswith("continuing on cpu after NVIDIA H100 80GB HBM3: ")
    assert f"{again.microbatch_tokens} tokens a pass, 65 before" in warning
    check_same_training(before, progress_on("cpu", again), warnings.append)
    with pytest.raises(ConfigError, match="another recipe"):
        check_same_training(before, progress_on(before.device_name, again), warnings.append)
    other = again.model_copy(update={"rank": again.rank + 1})
    with pytest.raises(ConfigError, match="another recipe"):
        check_same_training(before, progress_on("cpu", other), warnings.append)


LONG = {"max_seq_length": 65536, "microbatch_tokens": 65536, "activation_checkpointing": True}
LONG_ON_HOST = LONG | {"rank": 8, "base_copy": "none", "a_init": "orthonormal"}


@pytest.mark.parametrize("is_continued", [False, True])
@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"max_seq_length": 64, "base_copy": "host"}, "base_copy: .* needs 12.06 GiB of host"),
        (LONG_ON_HOST, "max_seq_length: .* need 15.50 GiB of host memory beside 0.00 GiB"),
    ],
)
def test_needs_that_host_memory_does_not_hold_are_refused(
    options: dict[str, Any],
    refusal: str,
    is_continued: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A base, and inputs of layers that are offloaded."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (32 * gib, 32 * gib))
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text(f"{10 * gib}\n")
    (tmp_path / "memory.current").write_text("0\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    recipe = Recipe.model_validate(options).resolved(100)
    before = Progress(recipe=recipe, num_records=1, num_tokens=1, num_threads=1)
    with pytest.raises(OutOfMemory, match=refusal + r".* \d\.\d\d GiB can be used"):
        recipe_fit_to_memory(
            recipe,
            before if is_continued else None,
            dimensions_of(llama_7b()),
            torch.device("cuda"),
            ProcessGroup(),
        )


@pytest.mark.parametrize(
    ("is_lost", "best"), [(False, (3, 0.5, 1)), (True, (2, 0.75, 1))], ids=["there", "lost"]
)
def test_a_lost_best_checkpoint_is_replaced_by_the_best_that_is_left(
    is_lost: bool, best: tuple[int, float, int], tmp_path: Path
) -> None:
    progress = progress_on("cpu", Recipe().resolved(100))
    for step, loss in {1: 1.0, 2: 0.75, 3: 0.5, 4: 0.875}.items():
        update = {"step": step, "metrics": {"valid_loss": loss}}
        progress = progress.model_copy(update=update)
        save_checkpoint(tmp_path, TrainingState(progress, {}, {}), keep=4)
    progress = progress.model_copy(
        update={"step": 5, "best_step": 3, "best_valid_loss": 0.5, "num_stale_evaluations": 1}
    )
    warnings: list[str] = []
    if is_lost:
        (tmp_path / "checkpoints" / "3" / "progress.json").unlink()

    replace_lost_best(tmp_path, progress, warnings.append)

    now = (progress.best_step, progress.best_valid_loss, progress.num_stale_evaluations)
    assert now == best
    assert len(warnings) == is_lost
