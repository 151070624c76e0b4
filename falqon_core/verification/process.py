"""The process that certifies one exported model.

`main` reads two lines of JSON: first what is being trained, which it hashes at once, while the
trainer still has work to do; then where the exported files and the trainer's reference outputs are.
It answers with the certificate on stdout, whether the checks passed or not. The end of its input
without a second line ends it: the trainer has stopped or failed.
"""

import hashlib
import importlib.metadata
import platform
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch
from pydantic import BaseModel, ConfigDict

import falqon_core
from falqon_core.contract.certificate import (
    Certificate,
    CertifiedBase,
    Data,
    Device,
    Software,
    Training,
)
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.model_folder import read_config
from falqon_core.contract.quantization_config import growth_in_bf16
from falqon_core.export.checksums import file_sha256, hash_files, sha256_lines
from falqon_core.ops.matmul import LACKS_BF16
from falqon_core.verification.compare import compare, has_known_bounds, load_libraries
from falqon_core.verification.reference import load_reference

REPORTED_LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "safetensors",
    "compressed-tensors",
    "numpy",
)


class CertifyRequest(BaseModel):
    """The second line of the input: the exported files and the trainer's outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    reference_outputs: Path
    device: str
    fallback_kernels: list[str]
    training: Training


def main(requests: TextIO, answers: TextIO) -> None:
    """Answer one request with a certificate; without one end silently."""
    config = TrainConfig.model_validate_json(requests.readline())
    load_libraries(config.model)
    base = CertifiedBase(
        name=config.base_model_name or config.model.name, sha256=_folder_sha256(config.model)
    )
    data = Data(
        train=file_sha256(config.train_file),
        validation=None if config.validation_file is None else file_sha256(config.validation_file),
    )
    if line := requests.readline():
        certificate = certify(base, data, CertifyRequest.model_validate_json(line))
        answers.write(certificate.model_dump_json() + "\n")


def certify(base: CertifiedBase, data: Data, request: CertifyRequest) -> Certificate:
    """Return the certificate of one exported model, passed or not."""
    torch.set_num_threads(request.training.num_threads)
    device = torch.device(request.device)
    reference = load_reference(request.reference_outputs)
    reloaded_on = device_for_reload(request.folder, device)
    checks, canary = compare(request.folder, reference, reloaded_on, has_known_bounds(device))
    return Certificate(
        checks=checks,
        held_out=reference.summary.held_out,
        canary=canary,
        base=base,
        data=data,
        training=request.training,
        software=_describe_software(),
        device=Device(
            type=device.type,
            name=_device_name(device),
            fallback_kernels=request.fallback_kernels,
        ),
        files=hash_files(request.folder),
    )


def device_for_reload(folder: Path, device: torch.device) -> torch.device:
    """Return `device`, or the CPU if a card does not hold the model of `folder` once its codes are
    dequantized to bf16.
    """
    if device.type == "cuda":
        # Codes become larger; embeddings, which do not, are counted so as well.
        growth = growth_in_bf16(read_config(folder))
        needed = growth * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        if needed > torch.cuda.mem_get_info(device)[0]:
            return torch.device("cpu")
    return device


def _describe_software() -> Software:
    return Software(
        falqon=importlib.metadata.version("falqon"),
        source_sha256=_source_sha256(),
        python=platform.python_version(),
        libraries={
            name: version
            for name in REPORTED_LIBRARIES
            if (version := _installed_version(name)) is not None
        },
    )


def _installed_version(name: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _source_sha256() -> str:
    root = Path(falqon_core.__file__).parent
    lines = (
        f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n"
        for path in sorted(root.rglob("*.py"))
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _folder_sha256(folder: Path) -> str:
    return hashlib.sha256(sha256_lines(folder).encode()).hexdigest()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, bf16 products in fp32" if LACKS_BF16 else name
