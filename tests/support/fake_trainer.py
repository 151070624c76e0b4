"""A trainer without a model: a real process with the command line, messages, checkpoints and exit
codes of the real one.

Its weights are a chain of hashes over the steps, so a lost, doubled or reordered one shows in the
bytes. How fast it goes and what it does wrong stands in the first record of the training file, as
JSON in `text`, if that is its shape; see `FakeTrainer`.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from falqon_core.contract.certificate import (
    CERTIFICATE,
    Canary,
    Certificate,
    CertifiedBase,
    Check,
    Data,
    Device,
    HeldOut,
    Software,
    Training,
)
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.diagnosis import CheckRow, Diagnosis
from falqon_core.contract.errors import ModelError, as_falqon_error, is_disk_full
from falqon_core.contract.layout import (
    MANIFEST,
    checkpoint_folder,
    checkpoint_folders,
    model_folder,
)
from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Exported,
    Failed,
    Finished,
    Log,
    RangeTested,
    Started,
    StepMetrics,
    TrainerMessage,
    UntouchedEvaluated,
    encode,
)
from falqon_core.contract.range_test import RangePoint, RangeTest, propose_rate
from falqon_core.contract.rounding import ROUNDING, Rounding
from falqon_core.fault_points import fault
from falqon_core.files import staged_folder

DIGEST = "0" * 64


class FakeTrainer(BaseModel):
    steps: int = 20
    step_seconds: float = 0.01
    run_fast: Path | None = None  # once this file is there, steps take no time
    checkpoint_every: int = 5
    # the checkpoint of this step has the lowest validation loss, all others the same
    best_at: int | None = None
    loss: float | None = None  # of every step; unset, it falls
    untouched_loss: float | None = None  # on held-out records, which ends at 0.25
    crash_at: int | None = None  # the first time the step is reached from step 0
    user_error_at: int | None = None
    hang_at: int | None = None  # the first time the step is reached from step 0
    ignores_sigterm: bool = False  # to SIGTERM
    damaged_export: bool = False
    mismatch: bool = False  # what it exports is not what it trained


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_of(steps: int) -> bytes:
    """What a whole, uninterrupted training ends with."""
    state = hashlib.sha256(str(steps).encode()).hexdigest()
    for step in range(1, steps + 1):
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
    return state.encode()


class Trainer:
    def __init__(self, config: TrainConfig, output: Path, fd: int) -> None:
        with config.train_file.open() as lines:
            self.fake = FakeTrainer.model_validate_json(json.loads(next(lines)).get("text", "{}"))
        self.output = output
        self.fd = fd
        self.model = config.model
        self.finds_rate = config.recipe.find_rate
        self.state = hashlib.sha256(str(self.fake.steps).encode()).hexdigest()
        self.stopping = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, *_: object) -> None:
        self.stopping = not self.fake.ignores_sigterm

    def send(self, message: TrainerMessage) -> None:
        os.write(self.fd, encode(message))

    def train(self) -> ExitCode:
        start = self.resume()
        fake = self.fake
        sys.stderr.write(f"{fake.steps} steps, password=hunter22\n")
        sys.stderr.flush()
        self.send(
            Started(
                total_steps=fake.steps, start_step=start, num_records=1, num_examples=1,
                num_truncated_records=0, tokens_per_epoch=10, device="fake",
                num_trainable_parameters=1, microbatch_tokens=64, activation_checkpointing=False,
            )
        )  # fmt: skip
        if fake.untouched_loss is not None:
            self.send(UntouchedEvaluated(valid_loss=fake.untouched_loss))
        self.send(Log(text="environment: " + " ".join(sorted(os.environ))))
        self.send(
            Log(
                text="checkpoints: "
                + " ".join(folder.name for folder in checkpoint_folders(self.output))
            )
        )
        started = time.monotonic()
        for step in range(start + 1, fake.steps + 1):
            if fake.user_error_at == step:
                self.send(
                    Failed(
                        code="loss_not_finite",
                        message="The loss became infinite.",
                        param="learning_rate",
                    )
                )
                return ExitCode.USER_ERROR
            if fake.crash_at == step and start == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if fake.hang_at == step and start == 0:
                while True:
                    time.sleep(3600)
            if fake.run_fast is None or not fake.run_fast.exists():
                time.sleep(fake.step_seconds)
            self.state = hashlib.sha256(f"{self.state}{step}".encode()).hexdigest()
            self.send(
                StepMetrics(
                    step=step,
                    total_steps=fake.steps,
                    epoch=step / fake.steps,
                    train_loss=fake.loss or 1 / step,
                    train_mean_token_accuracy=0.5,
                    learning_rate=1e-3,
                    grad_norm=1.0,
                    tokens=10,
                    trained_tokens=10 * step,
                    tokens_per_second=1000.0,
                    elapsed_seconds=time.monotonic() - started,
                    codes_changed=0.01,
                    memory_bytes=2**20,
                )
            )
            is_due = step % fake.checkpoint_every == 0 or self.stopping
            if is_due and not self.finds_rate:
                self.checkpoint(step)
            if self.stopping:
                return ExitCode.STOPPED
        if self.finds_rate:
            self.send(RangeTested(result=range_test()))
            self.send(self.finished(started))
            return ExitCode.DONE
        self.send(Evaluated(step=fake.steps, valid_loss=0.25, valid_mean_token_accuracy=0.75))
        if fake.mismatch:
            self.send(
                Failed(
                    code="certificate_mismatch",
                    message="the exported files are not the model that was trained: loss",
                )
            )
            return ExitCode.CERTIFICATE_MISMATCH
        self.export()
        self.send(self.finished(started))
        return ExitCode.DONE

    def finished(self, started: float) -> Finished:
        return Finished(
            steps=self.fake.steps,
            trained_tokens=10 * self.fake.steps,
            elapsed_seconds=time.monotonic() - started,
        )

    def resume(self) -> int:
        folders = checkpoint_folders(self.output)
        if not folders:
            return 0
        self.state = (folders[0] / "state.bin").read_text()
        return int(folders[0].name)

    def checkpoint(self, step: int) -> None:
        folder = checkpoint_folder(self.output, step)
        with staged_folder(folder) as staging:
            (staging / "state.bin").write_text(self.state)
            fault("checkpoint_write")
            state = staging / "state.bin"
            files = {"state.bin": {"bytes": state.stat().st_size, "sha256": sha256(state)}}
            (staging / MANIFEST).write_text(json.dumps({"step": step, "files": files}))
        fault("checkpoint_written")
        self.send(
            CheckpointSaved(
                step=step,
                path=str(folder),
                bytes=64,
                manifest_sha256=sha256(folder / MANIFEST),
                metrics={"train_loss": 1 / step}
                | ({"valid_loss": float(step != self.fake.best_at)} if self.fake.best_at else {}),
            )
        )

    def export(self) -> None:
        folder = model_folder(self.output)
        write_model(self.model, folder, self.state, certificate())
        if self.fake.damaged_export:
            (folder / "model.safetensors").write_text("not what was hashed")
        step = self.fake.best_at or self.fake.steps
        self.send(Exported(step=step, path=str(folder)))


def range_test() -> RangeTest:
    """A test whose loss is lowest at a rate of 1e-2, and so proposes 5e-3."""
    points = [
        RangePoint(learning_rate=10 ** (-4 + step / 4), loss_change=0.1 * (step / 4 - 2) ** 2 - 0.5)
        for step in range(12)
    ]
    return propose_rate(points, 2.0, diverged=True)


def write_model(base: Path, folder: Path, state: str, certificate: Certificate | None) -> None:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    fault("export_write")
    (folder / "model.safetensors").write_text(state)
    if certificate is not None:
        (folder / CERTIFICATE).write_text(certificate.model_dump_json())
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / "SHA256SUMS").write_text(sums)


def certificate(train: str = DIGEST, validation: str | None = None) -> Certificate:
    """Of a model that was trained on files with these hashes."""
    return Certificate(
        checks=[Check(name="codes_and_scales", passed=True, detail="2 tensors, bit for bit")],
        held_out=HeldOut(source="training", num_rows=1, num_tokens=10),
        canary=Canary(prompt="Hello", trainer="fake", reloaded="fake"),
        base=CertifiedBase(name="fake/base", sha256=DIGEST),
        data=Data(train=train, validation=validation),
        training=Training(
            recipe=Recipe(),
            steps=1,
            best_step=None,
            num_records=1,
            trained_tokens=10,
            num_threads=1,
            num_processes=1,
            metrics={},
        ),
        software=Software(falqon="0", source_sha256=DIGEST, python="3", libraries={}),
        device=Device(type="cpu", name="fake"),
        files=[],
    )


def export(training: Path, step: int, model: Path, output: Path, data: list[Path]) -> int:
    state = (checkpoint_folder(training, step) / "state.bin").read_text()
    write_model(model, output, state, certificate(*map(sha256, data)) if data else None)
    return ExitCode.DONE


def convert(source: Path, to: str, name: str, output: Path, message_fd: int) -> int:
    """Files that say what it was made from; no GGUF can be had of a fake."""
    if to == "gguf":
        os.write(
            message_fd,
            encode(
                Failed(
                    code="format_not_available",
                    message="format: a fake has no GGUF",
                    param="format",
                )
            ),
        )
        return ExitCode.USER_ERROR
    (weights,) = source.glob("state.bin") if "lora" in to else source.glob("model.safetensors")
    write_form(weights, to, name, output)
    if "lora" in to:
        (output / "source.txt").write_text(" ".join(path.name for path in source.iterdir()))
    return ExitCode.DONE


def write_form(weights: Path, to: str, name: str, output: Path) -> int:
    output.mkdir()
    (output / f"{to}.txt").write_text(f"{name} {weights.read_text()}")
    return ExitCode.DONE


def write_rounding(training: Path, output: Path) -> None:
    config = TrainConfig.model_validate_json(training.read_bytes())
    held_out = HeldOut(
        source="validation" if config.validation_file else "training",
        num_rows=len(config.train_file.read_bytes().splitlines()),
        num_tokens=7,
    )
    rounding = Rounding(loss=1.25, loss_fp8=1.0, same_tokens=0.5, held_out=held_out)
    (output / ROUNDING).write_text(rounding.model_dump_json())


def import_folder(source: str, output: Path, message_fd: int | None) -> int:
    from falqon_core.importers.importer import (
        import_model,  # takes seconds, and trainings do without
    )

    try:
        conversions = import_model(source, output)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        if message_fd is not None:
            os.write(message_fd, encode(Failed(code=error.code, message=str(error))))
        return ExitCode.USER_ERROR
    for conversion in conversions:
        sys.stdout.write(f"{conversion}\n")
    return ExitCode.DONE


def main() -> int:
    if sys.argv[1] in ("inspect", "held-out"):  # They take no weights: nothing has to be a fake.
        os.execv(sys.executable, [sys.executable, "-m", "falqon_core", *sys.argv[1:]])
    if sys.argv[1] == "doctor":
        row = CheckRow(
            name="card", status="failed", detail=os.environ["CUDA_VISIBLE_DEVICES"], seconds=0.1
        )
        sys.stdout.write(Diagnosis(rows=(row,), seconds=0.1).model_dump_json())
        return 1
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("--config", type=Path, required=True)
    train.add_argument("--output", type=Path, required=True)
    train.add_argument("--message-fd", type=int, required=True)
    train.add_argument("--num-processes", type=int, default=1)
    bring = commands.add_parser("import")
    bring.add_argument("--message-fd", type=int)
    bring.add_argument("source")
    bring.add_argument("--output", type=Path, required=True)
    write = commands.add_parser("export")
    write.add_argument("training", type=Path)
    write.add_argument("--step", type=int, required=True)
    for name in ("--model", "--output"):
        write.add_argument(name, type=Path, required=True)
    write.add_argument("--base-model", required=True)
    for name in ("--train-file", "--validation-file"):
        write.add_argument(name, type=Path)
    for name in ("--to", "--name"):
        write.add_argument(name, required=True)
    for name in ("--num-threads", "--message-fd"):
        write.add_argument(name, type=int)
    other = commands.add_parser("convert")
    other.add_argument("source", type=Path)
    for name in ("--to", "--name"):
        other.add_argument(name, required=True)
    other.add_argument("--base-model")
    other.add_argument("--training", type=Path)
    other.add_argument("--merged", type=Path)
    other.add_argument("--output", type=Path, required=True)
    other.add_argument("--message-fd", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.command == "convert":
        code = convert(
            arguments.source, arguments.to, arguments.name, arguments.output, arguments.message_fd
        )
        if arguments.training is not None:
            write_rounding(arguments.training, arguments.output)
        return code
    if arguments.command == "export":
        data = [path for path in (arguments.train_file, arguments.validation_file) if path]
        if arguments.to == "q4_1":
            checkpoint = checkpoint_folder(arguments.training, arguments.step)
            return write_form(checkpoint / "state.bin", "q4_1", arguments.name, arguments.output)
        return export(arguments.training, arguments.step, arguments.model, arguments.output, data)
    if arguments.command == "import":
        return import_folder(arguments.source, arguments.output, arguments.message_fd)
    config = TrainConfig.model_validate_json(arguments.config.read_bytes())
    trainer = Trainer(config, arguments.output, arguments.message_fd)
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    trainer.send(Log(text=f"processes: {arguments.num_processes} on cards {cards}"))
    try:
        return trainer.train()
    except OSError as error:
        if not is_disk_full(error):
            raise
        failure = as_falqon_error(error)
        trainer.send(Failed(code=failure.code, message=failure.message))
        return ExitCode.INTERNAL


if __name__ == "__main__":
    sys.exit(main())
