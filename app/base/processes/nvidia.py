"""NVIDIA cards of this machine as its driver names them. There is no torch here, because the
callers never train.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import structlog

QUERY = ["--query-gpu=index,uuid,name", "--format=csv,noheader"]
ANSWER_SECONDS = 60.0  # a driver without a persistence daemon takes seconds for each card

log = structlog.get_logger()


@dataclass(frozen=True)
class Card:
    """`index` counts in the order of the PCI bus; `name` is the driver's name of the card."""

    index: int
    uuid: str
    name: str


def visible_cards() -> tuple[Card, ...]:
    """Return the cards that programs started here may use, none without a driver."""
    tool = shutil.which("nvidia-smi")
    cards = () if tool is None else _ask_driver(tool)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return cards if visible is None else tuple(_select(cards, visible.split(",")))


def card_environment(indices: Iterable[int]) -> dict[str, str]:
    """Return the variables by which CUDA sees these cards only."""
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # same order as the driver's tool
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, indices)),
    }


@cache
def _ask_driver(tool: str) -> tuple[Card, ...]:
    try:
        answer = subprocess.run(
            [tool, *QUERY], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("the NVIDIA driver does not respond, so no card is used", error=str(error))
        return ()
    if answer.returncode != 0:
        reason = (answer.stdout + answer.stderr).strip().partition("\n")[0]
        log.warning("the NVIDIA driver names no card", error=reason)
        return ()
    rows = (line.split(", ", 2) for line in answer.stdout.splitlines() if line.strip())
    return tuple(Card(int(index), uuid, name.strip()) for index, uuid, name in rows)


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
    return choice == str(card.index) or (choice.startswith("GPU-") and card.uuid.startswith(choice))
