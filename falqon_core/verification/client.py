"""The client of the process that certifies exported models.

It is started early, so that it has loaded its libraries by the time it is needed. It is a fresh
interpreter and learns of the training only what it is told, so a fault of this process's state
cannot hide from it.
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from falqon_core.contract.certificate import Certificate, Training
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import CertificateMismatch, FalqonError, OutOfMemory
from falqon_core.contract.messages import ExitCode
from falqon_core.ops.dispatch import faults_on
from falqon_core.verification.process import CertifyRequest
from falqon_core.verification.reference import ReferenceOutputs, save_reference


class VerifierProcess:
    """The process that certifies; `close` ends it, also one that is busy."""

    def __init__(self, config: TrainConfig) -> None:
        command = [sys.executable, "-m", "falqon_core", "certify"]
        # A signal to stop reaches the whole process group; the trainer alone decides when this
        # process ends.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._write_line(config.model_dump_json())

    def certify(
        self,
        folder: Path,
        reference: ReferenceOutputs,
        training: Training,
        device: torch.device,
    ) -> Certificate:
        """Return the certificate of the files in `folder`.

        Raises `CertificateMismatch` where they are not the trained model, and `FalqonError` or
        `OutOfMemory` where the comparison could not be made.
        """
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as temporary:
            path = Path(temporary) / "reference_outputs.safetensors"
            save_reference(reference, path)
            request = CertifyRequest(
                folder=folder,
                reference_outputs=path,
                device=str(device),
                fallback_kernels=sorted(faults_on(device)),
                training=training,
            )
            self._write_line(request.model_dump_json())
            answer, _ = self._process.communicate()
        if self._process.returncode == ExitCode.OUT_OF_MEMORY:
            raise OutOfMemory(
                "memory ran out while the exported model was reloaded to be compared with the "
                "trained one"
            )
        if self._process.returncode != ExitCode.DONE:
            raise FalqonError(
                f"the process that reloads the exported model ended with {self._process.returncode}"
            )
        certificate = Certificate.model_validate_json(answer)
        if certificate.failed:
            first = certificate.failed[0]
            raise CertificateMismatch(
                "the exported files are not the model that was trained: "
                f"{first.name}: {first.detail}"
            )
        return certificate

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.communicate()

    def _write_line(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # The process has ended already; its exit code gives the reason.
            pass
