"""A driver's tool that names cards which are not there."""

import os
from pathlib import Path

import pytest

RTX_4090 = "NVIDIA GeForce RTX 4090"
H100 = "NVIDIA H100 80GB HBM3"


def install_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str, script: str = ""
) -> None:
    """Put an `nvidia-smi` on PATH that lists cards of these names, or runs `script`."""
    rows = [f"echo '{index}, GPU-a{index}, {name}'" for index, name in enumerate(names)]
    tool = folder / "nvidia-smi"
    tool.write_text("\n".join(["#!/bin/sh", *rows, script, ""]))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
