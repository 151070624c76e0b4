import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.errors import ConfigError, LossNotFinite
from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Exported,
    Finished,
    Log,
    Merged,
    Started,
    StepMetrics,
    TrainerMessage,
    UntouchedEvaluated,
)
from falqon_core.estimate.devices import DEVICES
from falqon_core.methods import METHOD_CLASSES
from falqon_core.train import progress_counter
from falqon_core.train.signals import StoppedBeforeFirstStep
from falqon_core.train.trainer import Trainer
from tests.falqon_core.train.trainings import config_of, of, train

RECIPE = {
    "rank": 8,
    "max_seq_length": 64,
    "microbatch_tokens": 64,
    "batch_size": 8,
    "max_steps": 6,
    "checkpoint_every": 2,
}
# what methods need of their own on matrices of 40 and 56
SMALL: dict[str, dict[str, Any]] = {"qa_lora": {"group_size": 8}, "ir_lora": {"rank": 4}}


@pytest.fixture
def run(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> Callable[..., tuple[ExitCode, list[TrainerMessage]]]:
    def run(
        output: str | Path = "out",
        stop_after: int | None = None,
        **recipe: Any,
    ) -> tuple[ExitCode, list[TrainerMessage]]:
        config = config_of(tiny_folder, train_file, RECIPE | recipe)
        return train(config, tmp_path / output, stop_after)

    return run


def test_a_training_tells_everything_in_order(run: Any, tmp_path: Path) -> None:
    code, messages = run(validation_fraction=0.1, eval_every=3)
    assert code == ExitCode.DONE
    (started,) = of(Started, messages)
    assert (started.total_steps, started.start_step, started.num_records) == (6, 0, 27)
    steps = of(StepMetrics, messages)
    assert [message.step for message in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].trained_tokens == sum(message.tokens for message in steps)
    assert steps[3].epoch == 1.0
    assert sum(message.tokens for message in steps[:4]) == started.tokens_per_epoch
    assert [message.step for message in of(Evaluated, messages)] == [3, 6]
    assert type(messages[1]) is UntouchedEvaluated
    saved = of(CheckpointSaved, messages)
    assert [message.step for message in saved] == [2, 3, 4, 6], (
        "every second, and that of the lowest validation loss"
    )
    assert ["valid_loss" in message.metrics for message in saved] == [False, True, False, True]
    last = messages[-4:]
    assert [type(message) for message in last] == [CheckpointSaved, Merged, Exported, Finished]
    (merged,) = of(Merged, messages)
    assert merged.valid_loss_fp8_weights == merged.valid_loss, "the codes are what was trained"
    assert merged.valid_loss == of(Evaluated, messages)[-1].valid_loss
    assert 0 < abs(merged.valid_loss_as_served - merged.valid_loss) < 0.1
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == ["4", "6"]
    assert (tmp_path / "out" / "model" / "SHA256SUMS").exists()


@pytest.mark.parametrize("method", ["falqon", "lora"])
def test_rounded_activations_are_served_as_they_were_trained(run: Any, method: str) -> None:
    """A device that rounds activations while it trains measures only what is served."""
    simulated = {"simulate_fp8": True} if method == "falqon" else {}
    _, messages = run(method=method, validation_fraction=0.1, **simulated)
    (merged,) = of(Merged, messages)
    if simulated:
        assert merged.valid_loss_fp8_weights is None
        assert merged.valid_loss_as_served == merged.valid_loss
    else:
        losses = {merged.valid_loss, merged.valid_loss_fp8_weights, merged.valid_loss_as_served}
        assert len(losses) == 3
        assert max(losses) - min(losses) < 0.1


def test_the_model_of_the_lowest_validation_loss_is_handed_out(run: Any, tmp_path: Path) -> None:
    """Without early stopping as well: a rate that overshoots ends worse than it was."""
    rising = {"learning_rate": 1.0, "lr_schedule": "constant", "max_steps": 12}
    _, messages = run(validation_fraction=0.2, eval_every=1, **rising)
    losses = {message.step: message.valid_loss for message in of(Evaluated, messages)}
    best = min(losses, key=lambda step: losses[step])
    assert best < 12
    (exported,), (merged,) = of(Exported, messages), of(Merged, messages)
    assert (exported.step, merged.step, merged.valid_loss) == (best, best, losses[best])
    run(output="short", validation_fraction=0.2, eval_every=1, **rising | {"max_steps": best})
    ours, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("out", "short")
    )
    assert all((ours[name].float() == theirs[name].float()).all() for name in ours)


def test_every_step_tells_its_figures(run: Any) -> None:
    _, messages = run(learning_rate=0.01)
    steps = of(StepMetrics, messages)
    peak = DEVICES["cpu"].tflops * 1e12
    for message in steps:
        assert 0 < message.codes_changed < 1
        assert message.memory_bytes > 50 * 2**20
        assert 0 < message.mfu < 1
        # Four operations a weight and token at least.
        assert message.mfu * peak / message.tokens_per_second > 4 * 14 * 8 * 8
        assert 0 < message.cpu_utilization <= 100
        assert (message.gpu_utilization, message.gpu_temperature) == (None, None)
    assert [message.memory_bytes for message in steps] == sorted(
        message.memory_bytes for message in steps
    )


def test_memory_decisions_are_kept_when_a_training_continues(run: Any) -> None:
    _, first = run(stop_after=2, microbatch_tokens=None, activation_checkpointing=True)
    _, second = run(microbatch_tokens=None)
    for messages in (first, second):
        (started,) = of(Started, messages)
        assert (started.microbatch_tokens, started.activation_checkpointing) == (4096, True)


def test_the_loss_falls(run: Any) -> None:
    _, messages = run(max_steps=30, learning_rate=0.01, rank=32)
    losses = [message.train_loss for message in of(StepMetrics, messages)]
    assert losses[-1] < losses[0] - 1.5


def test_microbatches_do_not_change_the_step(run: Any) -> None:
    """Gradients are divided by the labels of the whole step, however it is cut or packed."""
    losses = {}
    for name, recipe in {
        "one": {"microbatch_tokens": 4096},
        "many": {"microbatch_tokens": 64},
        "padded": {"microbatch_tokens": 100, "packing": False},
    }.items():
        _, messages = run(output=name, max_steps=3, **recipe)
        losses[name] = [
            (message.train_loss, message.grad_norm) for message in of(StepMetrics, messages)
        ]
    for name in ("many", "padded"):
        for figures, other_figures in zip(losses["one"], losses[name], strict=True):
            assert other_figures == pytest.approx(figures, rel=0.02)


def assert_continues(run: Any, folder: Path, **recipe: Any) -> list[TrainerMessage]:
    """Train whole, and continue from its checkpoint: all numbers and files are the same."""
    code, whole = run(folder / "whole", **recipe)
    assert code == ExitCode.DONE
    shutil.copytree(folder / "whole/checkpoints/4", folder / "parts/checkpoints/4")
    code, rest = run(folder / "parts", **recipe)
    assert code == ExitCode.DONE
    assert of(Started, rest)[0].start_step == 4
    names = ("step", "train_loss", "train_reward_margin", "grad_norm", "trained_tokens")
    figures, later = (
        [tuple(getattr(message, name) for name in names) for message in of(StepMetrics, messages)]
        for messages in (whole, rest)
    )
    assert later == figures[4:]
    assert (folder / "parts/model/SHA256SUMS").read_text() == (
        folder / "whole/model/SHA256SUMS"
    ).read_text()
    last = "checkpoints/6"
    for name in ("method.safetensors", "optimizer.safetensors", "progress.json"):
        assert (folder / "parts" / last / name).read_bytes() == (
            folder / "whole" / last / name
        ).read_bytes()
    return list(whole)


@pytest.mark.parametrize(
    "recipe",
    [
        {"base_copy": "none"},
        {"packing": False, "update_rule": "topk", "a_init": "quant_error"},
        {"train_a": True, "a_init": "gradient"},
        *(SMALL.get(name, {}) | {"method": name} for name in METHOD_CLASSES if name != "falqon"),
    ],
)
def test_continued_is_uninterrupted(recipe: dict[str, Any], run: Any, tmp_path: Path) -> None:
    assert_continues(run, tmp_path, **recipe)


def test_the_untouched_model_is_measured_once_and_is_no_candidate(run: Any, tmp_path: Path) -> None:
    """Its loss is that of an evaluation of a model that nothing changes; a training that overshoots
    hands out another model even so.
    """
    held_out = {"validation_fraction": 0.2, "eval_every": 2, "lr_schedule": "constant"}
    overshoots = held_out | {
        "learning_rate": 1.0,
        "alpha": 4096.0,
        "max_steps": 4,
        "warmup_ratio": 0.0,
    }
    _, still = run("still", learning_rate=1e-12, **held_out)
    (untouched,) = of(UntouchedEvaluated, still)
    assert untouched.valid_loss == pytest.approx(of(Evaluated, still)[0].valid_loss, abs=1e-4)
    _, first = run("out", stop_after=3, **overshoots)
    _, second = run("out", **overshoots)
    assert of(UntouchedEvaluated, first) == of(UntouchedEvaluated, second) == [untouched]
    losses = {each.step: each.valid_loss for each in of(Evaluated, first + second)}
    assert min(losses.values()) > untouched.valid_loss
    assert of(Exported, second)[0].step == min(losses, key=lambda step: losses[step])
    saved = of(CheckpointSaved, first + second)
    assert all(each.step > 0 and "untouched_valid_loss" not in each.metrics for each in saved)


def test_a_checkpoint_from_before_the_untouched_loss_goes_on_without(
    run: Any, tmp_path: Path
) -> None:
    run("out", stop_after=3, validation_fraction=0.2)
    folder = tmp_path / "out/checkpoints/3"
    progress = json.loads((folder / "progress.json").read_text())
    del progress["untouched_valid_loss"]
    (folder / "progress.json").write_text(json.dumps(progress))
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "progress.json").read_bytes()).hexdigest()
    manifest["files"]["progress.json"]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, messages = run("out", validation_fraction=0.2)
    assert (code, of(Started, messages)[0].start_step) == (ExitCode.DONE, 3)
    assert of(UntouchedEvaluated, messages) == []


def test_reading_the_held_out_records_before_the_first_step_reports_progress(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_counter, "REPORT_SECONDS", 0.0)
    _, messages = run(validation_fraction=0.2, stop_after=1)
    before = messages[: [type(each) for each in messages].index(StepMetrics)]
    texts = [message.text for message in of(Log, before)]
    assert texts[-1] == f"validation: {len(texts)} of {len(texts)} batches are read"


def test_reading_the_held_out_records_before_the_first_step_stops_on_request(
    run: Any, tmp_path: Path
) -> None:
    with pytest.raises(StoppedBeforeFirstStep):
        run(validation_fraction=0.2, stop_after=0)
    assert not (tmp_path / "out/checkpoints").exists()


def test_a_continued_training_tells_the_best_evaluation_of_its_checkpoint(run: Any) -> None:
    rising = {"learning_rate": 1.0, "lr_schedule": "constant", "validation_fraction": 0.2}
    _, first = run(stop_after=5, eval_every=1, **rising)
    losses = {message.step: message.valid_loss for message in of(Evaluated, first)}
    best = min(losses, key=lambda step: losses[step])
    _, second = run(eval_every=1, **rising)
    told = [(each.best_step, each.best_valid_loss) for each in of(Started, first + second)]
    assert told == [(None, None), (best, losses[best])]


def test_records_of_which_no_answer_remains_are_counted(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    long = {"role": "user", "content": "Every market day at dawn? " * 40}
    answer = {"role": "assistant", "content": "Yes."}
    data = tmp_path / "train.jsonl"
    data.write_text(train_file.read_text() + f"{json.dumps({'messages': [long, answer]})}\n" * 5)
    _, messages = train(config_of(tiny_folder, data, RECIPE | {"max_steps": 1}), tmp_path / "out")
    (started,) = of(Started, messages)
    assert (started.num_examples, started.num_left_out_records) == (30, 5)


def test_a_cpu_without_bf16_instructions_trains_the_same(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for lacks_bf16 in (False, True):
        monkeypatch.setattr("falqon_core.ops.matmul.LACKS_BF16", lacks_bf16)
        messages = assert_continues(run, tmp_path / str(lacks_bf16), a_init="gradient")
        losses.append([message.train_loss for message in of(StepMetrics, messages)])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0], "nothing was widened"


def test_a_training_stopped_before_its_first_step_writes_nothing(run: Any, tmp_path: Path) -> None:
    code, messages = run(stop_after=0)
    assert code == ExitCode.STOPPED
    assert not of(CheckpointSaved, messages)
    assert not (tmp_path / "out").exists()


def test_a_corrupt_checkpoint_costs_a_warning_and_the_steps_since_the_previous_one(
    run: Any, tmp_path: Path
) -> None:
    run("whole")
    run("out", stop_after=5)
    (tmp_path / "out/checkpoints/5/method.safetensors").write_bytes(b"broken")
    code, messages = run("out")
    assert code == ExitCode.DONE
    assert [message.level for message in of(Log, messages)] == ["warn"]
    assert of(Started, messages)[0].start_step == 4
    assert (tmp_path / "out/model/SHA256SUMS").read_text() == (
        tmp_path / "whole/model/SHA256SUMS"
    ).read_text()


def test_a_finished_training_exports_again_without_a_step(run: Any) -> None:
    run()
    code, messages = run()
    assert code == ExitCode.DONE
    assert [type(message) for message in messages] == [Started, Exported, Finished]


def test_another_recipe_in_the_same_folder_is_refused(run: Any) -> None:
    run(stop_after=1)
    with pytest.raises(ConfigError, match="another recipe"):
        run(learning_rate=0.5)


def test_an_infinite_loss_ends_the_training_before_the_update(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    def trainer(a_init: str) -> Trainer:
        config = TrainConfig(
            model=folder,
            train_file=train_file,
            recipe=Recipe.model_validate(RECIPE | {"a_init": a_init}),
        )
        return Trainer(config, tmp_path / "out", lambda message: None, lambda: False)

    with pytest.raises(LossNotFinite, match="before any training") as found_at_once:
        trainer("gradient")
    assert found_at_once.value.param == "model"
    training = trainer("orthonormal")
    with pytest.raises(LossNotFinite, match="step 1") as caught:
        training.run()
    assert caught.value.param == "learning_rate"
    deltas = [layer.delta for layer in training.state.method.layers.values()]
    assert all(delta.eq(0).all() for delta in deltas)
    assert not (tmp_path / "out").exists()
