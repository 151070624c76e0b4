"""Device that this machine trains on: from the settings or the driver. It is determined once, for
estimates, claims, bills and the trainer.
"""

import os

from app.base.processes.nvidia import Card, present_cards, visible_cards
from app.base.settings import Settings
from falqon_core.estimate.cards import MIN_CAPABILITY, device_of_card
from falqon_core.estimate.devices import DeviceSpec, reported_device

CPU = "cpu"


def device_name(settings: Settings) -> str:
    """Return the name of the device: with `auto` that of the first card that can train; the CPU if
    there is none.
    """
    if settings.device != "auto":
        return settings.device
    devices = (_device(card) for card in _chosen_cards(settings))
    return next((device.name for device in devices if device is not None), CPU)


def training_cards(settings: Settings) -> tuple[int, ...]:
    """Return the indices of the cards that may train: all have the same price. On a CPU those of
    its slots, if it has several.
    """
    name = device_name(settings)
    if name == CPU:
        slots = range(settings.slots) if settings.slots > 1 else ()
        return tuple(slot for slot in slots if _is_chosen(slot, settings))
    return tuple(card.index for card in _chosen_cards(settings) if _counts_as(card, name, settings))


def why_cards_are_unused(settings: Settings) -> str | None:
    """Return the reason why no card of this machine trains, and the remedy; None if a card trains,
    if there is no card, or if the CPU was chosen.
    """
    cards = present_cards()
    if settings.device != "auto" or not cards or device_name(settings) != CPU:
        return None
    names = ", ".join(sorted({card.name for card in cards}))
    chosen = _chosen_cards(settings)
    if not visible_cards():
        return (
            f"the driver names {names}, and CUDA_VISIBLE_DEVICES="
            f"'{os.environ.get('CUDA_VISIBLE_DEVICES', '')}' leaves every card out; unset it, or "
            "name a card as `nvidia-smi -L` does"
        )
    if not chosen:
        return f"the driver names {names}, and FALQON_CARDS leaves every card out; correct it"
    needed = ".".join(map(str, MIN_CAPABILITY))
    return (
        f"the driver names {names}, and a card needs compute capability {needed} or later (bf16): "
        "trainings take the CPU; set FALQON_DEVICE=cpu if that is meant"
    )


def cores_of_slot(settings: Settings) -> int:
    """Return the number of cores of this machine that one trainer process computes on."""
    cores = len(os.sched_getaffinity(0)) // settings.slots
    return settings.num_threads or max(1, cores)


def _chosen_cards(settings: Settings) -> list[Card]:
    return [card for card in visible_cards() if _is_chosen(card.index, settings)]


def _is_chosen(index: int, settings: Settings) -> bool:
    return settings.cards is None or index in settings.cards


def _counts_as(card: Card, name: str, settings: Settings) -> bool:
    """Return True if a card is charged as `name`; an unlisted card also counts as the configured
    device.
    """
    device = _device(card)
    if device is None:
        return False
    is_listed = reported_device(card.name) is not None
    return device.name == name or (not is_listed and settings.device == name)


def _device(card: Card) -> DeviceSpec | None:
    return device_of_card(card.name, card.memory_mib, card.capability)
