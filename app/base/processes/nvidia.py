"""NVIDIA cards of this machine as its driver names them. There is no torch here, because the
callers never train.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import structlog

# A driver that is too old for one of the later columns refuses the whole query.
QUERIES = ("index,uuid,name,memory.total,compute_cap,mig.mode.current", "index,uuid,name")
FORMAT = "--format=csv,noheader"
ANSWER_SECONDS = 60.0  # a driver without a persistence daemon takes seconds for each card
SLICES_OF_CARD = 100  # numbers that the slices of one card may have

_CARD_LINE = re.compile(r"GPU (\d{1,4}): ")
_SLICE_LINE = re.compile(r"\s+MIG (\S{1,40})\s+Device\s+(\d{1,2}): \(UUID: (MIG-[^)\s]{1,100})\)")
_SLICE_MEMORY = re.compile(r"(\d{1,4})gb")
# A slice of "40gb" holds somewhat less than as many GiB.
MIB_OF_SLICE_GB = 1000

log = structlog.get_logger()


@dataclass(frozen=True)
class Card:
    """A card, or a MIG slice of a card, which CUDA knows by its UUID only.

    `index` counts in the order of the PCI bus; slices of card N count from (N + 1) * 100. `name` is
    the driver's name of the card; `memory_mib` and `capability` are None if the driver does not
    report them.
    """

    index: int
    uuid: str
    name: str
    memory_mib: int | None = None
    capability: tuple[int, int] | None = None

    @property
    def is_slice(self) -> bool:
        return self.index >= SLICES_OF_CARD

    @property
    def card_index(self) -> int:
        """Index of the card; for a slice, that of its card."""
        return self.index // SLICES_OF_CARD - 1 if self.is_slice else self.index

    def slice(self, profile: str, number: int, uuid: str) -> Self:
        """Return a MIG slice of this card, named as torch names it."""
        memory = _SLICE_MEMORY.search(profile)
        return type(self)(
            (self.index + 1) * SLICES_OF_CARD + number,
            uuid,
            f"{self.name} MIG {profile}",
            int(memory[1]) * MIB_OF_SLICE_GB if memory else None,
            self.capability,
        )


def present_cards() -> tuple[Card, ...]:
    """Return the cards and slices that the driver has, none without a driver."""
    tool = shutil.which("nvidia-smi")
    return () if tool is None else _ask_driver(tool)


def visible_cards() -> tuple[Card, ...]:
    """Return the cards that programs started here may use, none without a driver."""
    cards = present_cards()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return cards if visible is None else tuple(_select(cards, visible.split(",")))


def card_environment(indices: Iterable[int]) -> dict[str, str]:
    """Return the variables by which CUDA sees these cards only."""
    slices = {card.index: card.uuid for card in present_cards() if card.is_slice}
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # same order as the driver's tool
        "CUDA_VISIBLE_DEVICES": ",".join(slices.get(index, str(index)) for index in indices),
    }


def has_slice(indices: Iterable[int]) -> bool:
    """Return True if one of the indices is that of a MIG slice."""
    return any(index >= SLICES_OF_CARD for index in indices)


def uuid_of(index: int) -> str | None:
    """Return the UUID of a card or slice; None if the driver has no such index."""
    return next((card.uuid for card in present_cards() if card.index == index), None)


@cache
def _ask_driver(tool: str) -> tuple[Card, ...]:
    try:
        for query in QUERIES:
            answer = _run(tool, f"--query-gpu={query}", FORMAT)
            if answer.returncode == 0:
                break
        else:
            reason = (answer.stdout + answer.stderr).strip().partition("\n")[0]
            log.warning("the NVIDIA driver names no card", error=reason)
            return ()
        rows = [line.split(", ") for line in answer.stdout.splitlines() if line.strip()]
        cards = [_card(row, query.count(",") + 1) for row in rows]
        if not any(row[-1].strip() == "Enabled" for row in rows):
            return tuple(cards)
        return tuple(_with_slices(cards, rows, _run(tool, "-L").stdout.splitlines()))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        log.warning("the NVIDIA driver does not respond, so no card is used", error=str(error))
        return ()


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool, *arguments], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )


def _card(row: Sequence[str], num_columns: int) -> Card:
    """Read a row of the driver's answer; a figure that is not a number is unknown."""
    index, uuid, *rest = (column.strip() for column in row)
    if num_columns == len(QUERIES[1].split(",")):
        return Card(int(index), uuid, ", ".join(rest))
    *name, memory, capability, _ = rest
    megabytes = memory.removesuffix(" MiB")
    major, _, minor = capability.partition(".")
    return Card(
        int(index),
        uuid,
        ", ".join(name),
        int(megabytes) if megabytes.isdecimal() else None,
        (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None,
    )


def _with_slices(
    cards: Sequence[Card], rows: Sequence[Sequence[str]], lines: Iterable[str]
) -> Iterable[Card]:
    """Replace each split card, which computes nothing as a whole, by its slices, which the lines
    of `nvidia-smi -L` name.
    """
    slices: dict[int, list[Card]] = {}
    by_index = {card.index: card for card in cards}
    holder: Card | None = None
    for line in lines:
        if match := _CARD_LINE.match(line):
            holder = by_index.get(int(match[1]))
        elif holder and (match := _SLICE_LINE.match(line)):
            part = holder.slice(match[1], int(match[2]), match[3])
            slices.setdefault(holder.index, []).append(part)
    for card, row in zip(cards, rows, strict=True):
        yield from slices.get(card.index, []) if row[-1].strip() == "Enabled" else [card]


def _select(cards: tuple[Card, ...], chosen: list[str]) -> Iterable[Card]:
    """Choose by index or by the beginning of a UUID; the first that is neither ends the list, as it
    does for CUDA.
    """
    for choice in map(str.strip, chosen):
        card = next((card for card in cards if _is_chosen(card, choice)), None)
        if card is None:
            return
        yield card


def _is_chosen(card: Card, choice: str) -> bool:
    """The number of a split card means its first slice, as for CUDA."""
    if choice.startswith(("GPU-", "MIG-")):
        return card.uuid.startswith(choice)
    return choice in (str(card.card_index), str(card.index))
