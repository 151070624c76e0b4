"""The artifact of a training: the merged folder with tokenizer, model card, certificate and
checksums, whole or absent.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.block_weights import Weights
from falqon_core.contract.certificate import CERTIFICATE, Certificate, Check, Training
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import ModelError
from falqon_core.contract.formats import check_format
from falqon_core.contract.layout import checkpoint_folder
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.export.checksums import hash_files, write_sha256sums
from falqon_core.export.model_card import TrainingRow, write_model_card
from falqon_core.export.provenance import card_fields, copy_licence
from falqon_core.export.trained import export_trained
from falqon_core.fault_points import fault
from falqon_core.files import remove_leftovers, staged_folder, write_whole
from falqon_core.methods import create_method
from falqon_core.train.base_identity import check_base
from falqon_core.train.checkpoint import Progress, TrainingState, find_checkpoint, load_checkpoint
from falqon_core.train.data import Datasets, load_data
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.state import free_memory
from falqon_core.verification.capture import capture_reference
from falqon_core.verification.client import VerifierProcess


@dataclass(frozen=True)
class Verification:
    """The training that a certificate is about."""

    config: TrainConfig
    data: Datasets


class Exporter:
    """The writer of artifacts; `close` ends the process that verifies, also one that is busy."""

    def __init__(
        self,
        base_folder: Path,
        base_name: str,
        device: torch.device,
        verification: Verification | None,
        warn: Callable[[str], None],
    ) -> None:
        """`base_name`: for the card, if the base folder knows no other; empty: its name. Without
        `verification` models get no certificate. `warn` gets differences that are no failure.
        """
        self._base_folder = base_folder
        self._base_name = base_name or base_folder.name
        self._device = device
        self._verification = verification
        self._warn = warn
        self._verifier: VerifierProcess | None = None

    def prestart_verifier(self) -> None:
        """Have the verifier load its libraries while the last steps are computed."""
        if self._verification is not None and self._verifier is None:
            self._verifier = VerifierProcess(self._verification.config)

    def export(
        self,
        take_model: Callable[[], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress,
        output: Path,
    ) -> None:
        """Write the folder `output`, whole or not at all; an existing one is replaced.

        `take_model` hands over the only reference to the model, so that its memory is free for the
        verifier. Raises `CertificateMismatch` where the files are not the model.
        """
        remove_leftovers(output)
        with staged_folder(output) as staging:
            model = take_model()
            export_trained(model, tokenizer, staging)
            certificate = None
            if self._verification is not None:
                self.prestart_verifier()
                assert self._verifier is not None
                data = self._verification.data
                reference = capture_reference(model, tokenizer, data.validation, data.train)
                del model
                free_memory(self._device)
                training = describe_training(progress)
                certificate = self._verifier.certify(staging, reference, training, self._device)
                for check in certificate.doubtful:
                    self._warn(describe_doubt(check))
            self._document(staging, progress, certificate)

    def close(self) -> None:
        """End the verifier, if it has started."""
        if self._verifier is not None:
            self._verifier.close()

    def _document(self, staging: Path, progress: Progress, certificate: Certificate | None) -> None:
        """Write card, licence, certificate and checksums around the exported files."""
        fields = card_fields(self._base_folder, self._base_name)
        copy_licence(self._base_folder, staging)
        write_model_card(
            staging,
            base_model=str(fields.get("base_model", self._base_name)),
            fields=fields,
            recipe=progress.recipe,
            rows=[TrainingRow(**point.model_dump()) for point in progress.rows],
            num_records=progress.num_records,
            tokens_per_epoch=progress.num_tokens,
            trained_tokens=progress.trained_tokens,
            data=progress.data,
            device=self._device.type,
            certificate=certificate,
        )
        fault("export_write")
        if certificate is not None:
            whole = certificate.model_copy(update={"files": hash_files(staging)})
            write_whole(staging / CERTIFICATE, whole.model_dump_json(indent=2) + "\n")
        write_sha256sums(staging)


@dataclass(frozen=True)
class DataFiles:
    """The files that a training read."""

    train: Path
    validation: Path | None


def export_training(
    training: Path,
    base_folder: Path,
    output: Path,
    step: int | None = None,
    base_name: str = "",
    files: DataFiles | None = None,
    format: Weights | None = None,
) -> None:
    """Export, on the CPU, a checkpoint in the folder of a training: that of `step`, or the one of
    the lowest validation loss, or its newest whole one. Nothing of the training is changed.

    With `files` it is certified as by the trainer; without, there are no held-out rows to compare
    on. Raises `FormatUnavailable` where it was trained in another `format`, `ModelError` where
    there is no checkpoint, or one of another base, `CheckpointCorrupt` where the chosen one is
    damaged, the errors of `load_data`, and `CertificateMismatch` where the files are not the model.
    """
    warn = logging.getLogger(__name__).warning
    newest, chosen = choose_checkpoint(training, step)
    if format is not None:
        check_format(format, newest.progress.recipe, {})
    progress = newest.progress.model_copy(update={"metrics": chosen.progress.metrics})
    if step is not None:
        progress.best_step = None  # The step was chosen, whatever its validation loss.
    tokenizer = load_tokenizer(base_folder)
    set_template_defaults(tokenizer, progress.recipe.chat_template_kwargs)
    verification = None
    if files is not None:
        config = TrainConfig(
            model=base_folder,
            train_file=files.train,
            validation_file=files.validation,
            recipe=progress.recipe,
            base_model_name=base_name,
            num_threads=progress.num_threads,
        )
        verification = Verification(config, load_data(config, tokenizer, warn))
    # Graphics cards belong to trainings, and an export holds none. The fold of a CPU is the same on
    # every machine; that of the training's card may have rounded a few codes otherwise.
    device = torch.device("cpu")
    with closing(Exporter(base_folder, base_name, device, verification, warn)) as exporter:
        exporter.prestart_verifier()
        exporter.export(
            lambda: restore_model(base_folder, chosen, device), tokenizer, progress, output
        )


def choose_checkpoint(training: Path, step: int | None) -> tuple[TrainingState, TrainingState]:
    """Return the newest checkpoint considered, and the one to export: that of `step`, or the one of
    the lowest validation loss, or the newest whole one.

    Raises `ModelError` where there is none, and `CheckpointCorrupt` where the chosen one is
    damaged.
    """
    if step is not None:
        folder = checkpoint_folder(training, step)
        if not folder.is_dir():
            raise ModelError(f"{training.name} holds no checkpoint of step {step}", "training")
        checkpoint = load_checkpoint(folder)
        return checkpoint, checkpoint
    newest = find_checkpoint(training, logging.getLogger(__name__).warning)
    if newest is None:
        raise ModelError(f"{training.name} holds no checkpoint", "training")
    return newest, best_checkpoint(training, newest.progress) or newest


def describe_doubt(check: Check) -> str:
    """Return the message of a check that failed without being strict."""
    return (
        f"the exported files hold the trained model bit for bit, but their {check.name} differs "
        f"by {check.difference} where {check.bound} was expected: {check.detail}. What is normal "
        "for this device has not been measured yet, so the model is published"
    )


def describe_training(progress: Progress) -> Training:
    """Return the certificate's description of the training."""
    return Training(
        recipe=progress.recipe,
        steps=progress.step,
        best_step=progress.best_step,
        num_records=progress.num_records,
        trained_tokens=progress.trained_tokens,
        num_threads=progress.num_threads,
        num_processes=progress.num_processes,
        metrics=progress.metrics,
    )


def best_checkpoint(training: Path, progress: Progress) -> TrainingState | None:
    """Load the checkpoint of the lowest validation loss; None when `progress` is at it, or nothing
    was held out.

    Raises `CheckpointCorrupt` where that checkpoint is damaged.
    """
    best_step = progress.best_step
    if best_step is None or best_step == progress.step:
        return None
    return load_checkpoint(checkpoint_folder(training, best_step))


def restore_model(
    base_folder: Path, checkpoint: TrainingState, device: torch.device
) -> PreTrainedModel:
    """Load the base model, restore the checkpoint's state, and merge it. Raises `ModelError` where
    the checkpoint is of another base, and what `load_base_model` raises.
    """
    check_base(checkpoint.progress, base_folder)
    model = load_base_model(base_folder, device, streamed=device.type != "cpu")
    method = create_method(checkpoint.progress.recipe)
    method.restore(model, checkpoint.method)
    method.merge(model)
    return model
