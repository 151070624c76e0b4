"""The fake trainer, whose models are copies of their bases: they load into an engine and answer,
though nothing was learned.

Its first argument is a folder. There it keeps the GGUF file that it made of the first model, for
all others have the same weights. Everything but trainings is left to the real one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REAL = [sys.executable, "-m", "falqon_core"]


def train() -> int:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from falqon_core.contract.certificate import CERTIFICATE, Certificate
    from tests.support import fake_trainer

    def write_copy(base: Path, folder: Path, state: str, certificate: Certificate | None) -> None:
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
        if certificate is not None:
            (folder / CERTIFICATE).write_text(certificate.model_dump_json())
        sums = (f"{fake_trainer.sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
        (folder / "SHA256SUMS").write_text("".join(sums))

    class AnyRows(fake_trainer.FakeTrainer):
        """The plan of a short training, whatever the first row says."""

        @classmethod
        def model_validate_json(cls, *_: object, **__: object) -> "AnyRows":
            return cls(steps=6, best_at=5)

    fake_trainer.write_model = write_copy
    fake_trainer.FakeTrainer = AnyRows  # type: ignore[misc]
    return fake_trainer.main()


def convert(arguments: list[str], kept: Path) -> int:
    output = arguments[arguments.index("--output") + 1]
    if kept.exists():
        shutil.copytree(kept, output)
        return 0
    descriptor = int(arguments[arguments.index("--message-fd") + 1])
    code = subprocess.run([*REAL, *arguments], check=False, pass_fds=[descriptor]).returncode
    if code == 0:
        shutil.copytree(output, kept)
    return code


if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    if sys.argv[1] == "train":
        sys.exit(train())
    if sys.argv[1] == "convert":
        sys.exit(convert(sys.argv[1:], folder / "gguf"))
    os.execv(REAL[0], [*REAL, *sys.argv[1:]])
