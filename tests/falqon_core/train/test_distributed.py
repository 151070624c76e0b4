"""Two processes against one. They differ only in how a step's records are cut into forward passes.

How close that is: the gradient of a delta is rounded to bf16 (unit roundoff 2^-9) once per
microbatch before it is summed in fp32, so two shares of a step round twice where one microbatch
rounds once. Adam divides each element by its own size, which lifts that rounding wherever a
gradient is close to zero, and the codes of the rows move in whole steps, so the two drift apart.
Hence the losses and the first step's gradient norm agree to one bf16 rounding, the later norms to
eight (found: four), the deltas after all steps to sixteen (found: seven after 14 steps; after 28,
where the few records are learned by heart, 21 on a CPU without bf16 instructions).
"""

import os
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Failed,
    Finished,
    Log,
    Started,
    StepMetrics,
    TrainerMessage,
    UntouchedEvaluated,
)
from falqon_core.train import distributed
from falqon_core.train.distributed import SINGLE_PROCESS, ProcessGroup, join_process_group, shares
from tests.falqon_core.train.processes import group_of, ranks, write_config
from tests.falqon_core.train.trainings import bytes_of, of, train

ROUNDING = 2**-9
NUM_STEPS = 14
RECIPE = {
    "rank": 16, "max_seq_length": 64, "batch_size": 4, "num_epochs": 10, "max_steps": NUM_STEPS,
    "checkpoint_every": 100,
    "validation_fraction": 0.1, "eval_every": 10, "a_init": "gradient",
}  # fmt: skip


def one_process(config: Path, output: Path, stop_after: int | None = None) -> list[TrainerMessage]:
    _, messages = train(TrainConfig.model_validate_json(config.read_text()), output, stop_after)
    return messages


def two_processes(config: Path, output: Path) -> list[TrainerMessage]:
    with ranks([config, config], output) as (first, (second,)):
        assert (first.finish(), second.wait(60)) == (ExitCode.DONE, ExitCode.DONE), (
            output.parent / f"{output.name}.log"
        ).read_text()
    return list(first.messages)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def config(folder: Path, tiny_folder: Path, train_file: Path) -> Path:
    return write_config(folder / "config.json", tiny_folder, train_file, RECIPE)


@pytest.fixture(scope="module")
def alone(config: Path, folder: Path) -> list[TrainerMessage]:
    return one_process(config, folder / "alone")


@pytest.fixture(scope="module")
def both(config: Path, folder: Path) -> list[TrainerMessage]:
    return two_processes(config, folder / "both")


def assert_same_training(messages: list[Any], expected: list[TrainerMessage]) -> None:
    """Every step once, with the same records, and the same figures but for rounding."""
    steps = of(StepMetrics, messages)
    expected_steps = of(StepMetrics, expected)
    exact = [
        (message.step, message.epoch, message.tokens, message.trained_tokens, message.learning_rate)
        for message in steps
    ]
    assert exact == [
        (message.step, message.epoch, message.tokens, message.trained_tokens, message.learning_rate)
        for message in expected_steps
    ]
    assert [message.train_loss for message in steps] == pytest.approx(
        [message.train_loss for message in expected_steps], rel=ROUNDING
    )
    assert steps[0].grad_norm == pytest.approx(expected_steps[0].grad_norm, rel=ROUNDING)
    assert [message.grad_norm for message in steps] == pytest.approx(
        [message.grad_norm for message in expected_steps], rel=8 * ROUNDING
    )
    (untouched,) = {message.valid_loss for message in of(UntouchedEvaluated, messages)}
    (expected_loss,) = {message.valid_loss for message in of(UntouchedEvaluated, expected)}
    assert untouched == pytest.approx(expected_loss, rel=ROUNDING)
    valid = [(message.step, message.valid_loss) for message in of(Evaluated, expected)]
    assert [message.step for message in of(Evaluated, messages)] == [step for step, _ in valid]
    assert [message.valid_loss for message in of(Evaluated, messages)] == pytest.approx(
        [loss for _, loss in valid], rel=ROUNDING
    )


def assert_same_model(output: Path, expected: Path) -> None:
    name = f"checkpoints/{NUM_STEPS}/method.safetensors"
    state = load_file(output / name)
    expected_state = load_file(expected / name)
    masters = {name for name in expected_state if name.endswith(".a_master")}
    assert len(masters) == 12
    assert sum(name.endswith(".delta") for name in expected_state) == 14
    for name, expected_value in expected_state.items():
        value, expected_value = state[name].float(), expected_value.float()
        layer, _, kind = name.rpartition(".")
        if kind.startswith("a") and f"{layer}.a_master" not in masters:
            assert value.equal(expected_value), name  # A looked at the same microbatches
        assert (value - expected_value).norm() < 16 * ROUNDING * expected_value.norm(), name


def test_two_processes_train_what_one_trains(
    alone: list[TrainerMessage], both: list[TrainerMessage], folder: Path
) -> None:
    assert [type(message) for message in both] == [type(message) for message in alone]
    assert_same_training(both, alone)
    assert_same_model(folder / "both", folder / "alone")


def test_a_stop_request_of_one_stops_both_and_either_number_continues(
    config: Path, alone: list[TrainerMessage], both: list[TrainerMessage], folder: Path
) -> None:
    with ranks([config, config], folder / "two") as (first, (second,)):
        for message in first.read():
            if isinstance(message, StepMetrics) and message.step == 3:
                second.send_signal(signal.SIGTERM)
        assert (first.finish(), second.wait(60)) == (ExitCode.STOPPED, ExitCode.STOPPED)
    (saved,) = of(CheckpointSaved, first.messages)
    assert first.messages[-1] == saved
    assert 3 <= saved.step == of(StepMetrics, first.messages)[-1].step < NUM_STEPS
    assert [path.name for path in (folder / "two" / "checkpoints").iterdir()] == [str(saved.step)]
    shutil.copytree(folder / "two", folder / "one")

    again = two_processes(config, folder / "two")
    assert of(Started, again)[0].start_step == saved.step
    figures = [
        (message.step, message.train_loss, message.grad_norm) for message in of(StepMetrics, both)
    ]
    assert [
        (message.step, message.train_loss, message.grad_norm)
        for message in of(StepMetrics, first.messages + again)
    ] == figures
    for name in ("model", f"checkpoints/{NUM_STEPS}"):
        assert bytes_of(folder / "two" / name) == bytes_of(folder / "both" / name)

    fewer = one_process(config, folder / "one")
    assert of(Started, fewer)[0].start_step == saved.step
    assert [message.text for message in of(Log, fewer)] == [
        "continuing with 1 processes after 2: results differ in the last bits"
    ]
    assert_same_training(first.messages + fewer, alone)
    assert_same_model(folder / "one", folder / "alone")


def test_two_processes_continue_the_training_of_one(
    config: Path, alone: list[TrainerMessage], folder: Path
) -> None:
    before = one_process(config, folder / "more", stop_after=7)
    after = two_processes(config, folder / "more")
    assert of(Started, after)[0].start_step == 7
    assert_same_training(before + after, alone)
    assert_same_model(folder / "more", folder / "alone")


def test_ranks_share_the_magnitudes_that_delayed_scales_follow(
    folder: Path, tiny_folder: Path, train_file: Path
) -> None:
    fields = {"method": "fishman", "rank": 4, "max_seq_length": 64, "batch_size": 8, "max_steps": 2}
    config = write_config(folder / "fishman.json", tiny_folder, train_file, fields)
    one_process(config, folder / "fishman alone")
    two_processes(config, folder / "fishman both")
    alone, both = (
        load_file(folder / f"fishman {name}/checkpoints/2/method.safetensors")["amax_history"]
        for name in ("alone", "both")
    )
    # of inputs in the first step, which depend on the cut by FP8's rounding alone
    torch.testing.assert_close(both[:, 0, 1], alone[:, 0, 1], rtol=0.1, atol=0)


def test_ranks_share_the_passes_of_the_reference(
    folder: Path, tiny_folder: Path, preference_file: Path
) -> None:
    fields = {"objective": "dpo", "rank": 4, "max_seq_length": 64, "microbatch_tokens": 160}
    fields |= {"batch_size": 8, "max_steps": 1, "validation_fraction": 0.1}
    config = write_config(folder / "dpo.json", tiny_folder, preference_file, fields)
    one_process(config, folder / "dpo alone")
    two_processes(config, folder / "dpo both")
    alone, both = (
        load_file(folder / f"dpo {name}/checkpoints/1/method.safetensors")
        for name in ("alone", "both")
    )
    for name in ("reference.train", "reference.validation"):
        assert both[name].isfinite().any()
        torch.testing.assert_close(both[name], alone[name], rtol=0, atol=0, equal_nan=True)


def test_evaluation_is_exact_and_a_rank_without_records_takes_part(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """One record a step leaves one of two ranks without any; so small a learning rate leaves all
    codes as they are.
    """
    recipe = {
        "rank": 8,
        "max_seq_length": 64,
        "microbatch_tokens": 64,
        "batch_size": 1,
        "max_steps": 2,
        "learning_rate": 1e-30,
    }
    recipe |= {"validation_fraction": 0.5, "eval_every": 1}
    config = write_config(tmp_path / "config.json", tiny_folder, train_file, recipe)
    expected = one_process(config, tmp_path / "alone")
    messages = two_processes(config, tmp_path / "both")
    assert len(of(Evaluated, expected)) == 2
    assert of(Evaluated, messages) == of(Evaluated, expected)
    figures = [
        (message.train_loss, message.grad_norm, message.tokens)
        for message in of(StepMetrics, expected)
    ]
    assert [
        (message.train_loss, message.grad_norm, message.tokens)
        for message in of(StepMetrics, messages)
    ] == figures


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_other(
    lost: int, tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "config.json", tiny_folder, train_file, RECIPE | {"max_steps": 1_000_000}
    )
    with ranks([config, config], tmp_path / "out") as (first, (second,)):
        for message in first.read():
            if isinstance(message, StepMetrics):
                (first.process, second)[lost].kill()
                break
        codes = first.finish(), second.wait(60)
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] == ExitCode.INTERNAL
    failed = of(Failed, first.messages)
    assert [message.message for message in failed] == [
        "process 0 of 2 has lost another process of this training"
    ] * lost
    assert not (tmp_path / "out").exists()


def wait_for_the_first(is_lost: bool) -> None:
    """In a rank: wait for the first one for longer than exchanges last, as for an export and for
    its next layer.
    """
    distributed.EXCHANGE_TIME_LIMIT = timedelta(seconds=3)
    with join_process_group() as group:
        with group.rank0_alone() as is_alone:
            if is_alone:
                time.sleep(4)
            if is_alone and is_lost:
                os.kill(os.getpid(), signal.SIGKILL)
        if group.is_rank0:
            time.sleep(4)
        assert group.tell(7 if group.is_rank0 else 0) == 7
        assert group.all_reduce_sum(1) == [2]


def test_the_first_rank_may_take_longer_than_an_exchange(tmp_path: Path) -> None:
    with group_of(2, wait_for_the_first, False, log=tmp_path / "log") as processes:
        codes = [process.wait(60) for process in processes]
    assert codes == [0, 0], (tmp_path / "log").read_text()


def test_a_first_rank_that_is_killed_as_others_wait_ends_them(tmp_path: Path) -> None:
    with group_of(2, wait_for_the_first, True, log=tmp_path / "log") as processes:
        codes = [process.wait(60) for process in processes]
    assert codes == [-signal.SIGKILL, 1]
    assert "process 1 of 2 has lost another process" in (tmp_path / "log").read_text()


def fails(configs: list[Path], output: Path) -> tuple[tuple[int, int], list[Failed]]:
    with ranks(configs, output) as (first, (second,)):
        codes = first.finish(), second.wait(60)
    assert not output.exists()
    assert first.messages[-1:] == of(Failed, first.messages)
    assert not of(Finished, first.messages)
    return codes, of(Failed, first.messages)


def test_an_error_of_one_rank_is_the_error_of_all(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    good = write_config(tmp_path / "good.json", tiny_folder, train_file, RECIPE)
    bad_file = tmp_path / "bad.jsonl"
    bad_file.write_text("{}\n")
    bad = write_config(tmp_path / "bad.json", tiny_folder, bad_file, RECIPE)
    codes, (failed,) = fails([good, bad], tmp_path / "out")
    assert codes == (ExitCode.USER_ERROR, ExitCode.USER_ERROR)
    assert (failed.code, failed.param) == ("invalid_training_file", "training_file")


def test_ranks_that_hold_different_models_do_not_train(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config, other_config = (
        write_config(
            tmp_path / f"{seed}.json",
            tiny_folder,
            train_file,
            RECIPE | {"a_init": "orthonormal", "seed": seed},
        )
        for seed in (1, 2)
    )
    codes, (failed,) = fails([config, other_config], tmp_path / "out")
    assert codes == (ExitCode.INTERNAL, ExitCode.INTERNAL)
    assert "different models" in failed.message


def test_a_variable_that_is_missing_is_named(
    tiny_folder: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(ConfigError, match="RANK is not set; start them with torchrun"),
        join_process_group(),
    ):
        pass


def test_a_process_without_torchrun_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group() as world:
        assert world is SINGLE_PROCESS
    assert SINGLE_PROCESS.share(["one", "two"]) == ["one", "two"]
    assert SINGLE_PROCESS.all_reduce_sum(1.5, 2) == [1.5, 2]
    with pytest.raises(ZeroDivisionError), SINGLE_PROCESS.barrier_or_raise():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("lengths", "size"),
    [([5, 9, 1, 1, 7, 3], 2), ([4, 4, 4], 3), ([8], 4), ([], 2), ([3, 1, 2], 1)],
)
def test_shares_are_whole_and_balanced(lengths: list[int], size: int) -> None:
    result = shares(lengths, size)
    assert len(result) == size
    assert sorted(index for share in result for index in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in result)
    loads = [sum(lengths[index] for index in share) for share in result]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    records = ["x" * length for length in lengths]
    assert [ProcessGroup(rank, size).share(records) for rank in range(size)] == [
        [records[index] for index in share] for share in result
    ]
