"""A driver's tool that names cards which are not there."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

RTX_4090 = "NVIDIA GeForce RTX 4090"
H100 = "NVIDIA H100 80GB HBM3"
NOT_SAID = "[N/A]"


class DriverCard(NamedTuple):
    """A row of the driver's answer; `slices`: the profiles of its MIG slices."""

    name: str
    memory: str = NOT_SAID
    capability: str = NOT_SAID
    slices: Sequence[str] = ()


FIGURES = {
    H100: DriverCard(H100, "81559 MiB", "9.0"),
    RTX_4090: DriverCard(RTX_4090, "24564 MiB", "8.9"),
}


def install_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *cards: str | DriverCard, script: str = ""
) -> None:
    """Put an `nvidia-smi` on PATH that lists these cards, or runs `script`."""
    rows, listing = [], []
    for index, each in enumerate(cards):
        card = FIGURES.get(each, DriverCard(each)) if isinstance(each, str) else each
        mode = "Enabled" if card.slices else NOT_SAID
        rows.append(
            f"echo '{index}, GPU-a{index}, {card.name}, {card.memory}, {card.capability}, {mode}'"
        )
        listing.append(f"echo 'GPU {index}: {card.name} (UUID: GPU-a{index})'")
        listing += [
            f"echo '  MIG {profile}     Device  {number}: (UUID: MIG-b{index}{number})'"
            for number, profile in enumerate(card.slices)
        ]
    tool = folder / "nvidia-smi"
    list_cards = ['if [ "$1" = -L ]; then', *listing, "exit", "fi"] if listing else []
    tool.write_text("\n".join(["#!/bin/sh", *list_cards, *rows, script, ""]))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
