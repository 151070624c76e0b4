"""Device that this machine trains on: from the settings or the driver. It is determined once, for
estimates, claims, bills and the trainer.
"""

import os

from app.base.processes.nvidia import Card, visible_cards
from app.base.settings import Settings
from falqon_core.estimate.devices import DEVICES, reported_device

CPU = "cpu"


def device_name(settings: Settings) -> str:
    """Return the entry of the price table: with `auto` the first card's; the CPU if there is no
    card, or none with a price.
    """
    if settings.device != "auto":
        return settings.device
    cards = _chosen_cards(settings)
    device = reported_device(cards[0].name) if cards else None
    return CPU if device is None else device.name


def training_cards(settings: Settings) -> tuple[int, ...]:
    """Return the indices of the cards that may train: all have the same price. On a CPU those of
    its slots, if it has several.
    """
    name = device_name(settings)
    if name == CPU:
        slots = range(settings.slots) if settings.slots > 1 else ()
        return tuple(slot for slot in slots if _is_chosen(slot, settings))
    return tuple(card.index for card in _chosen_cards(settings) if _counts_as(card, name, settings))


def cores_of_slot(settings: Settings) -> int:
    """Return the number of cores of this machine that one trainer process computes on."""
    cores = len(os.sched_getaffinity(0)) // settings.slots
    return settings.num_threads or max(1, cores)


def _chosen_cards(settings: Settings) -> list[Card]:
    return [card for card in visible_cards() if _is_chosen(card.index, settings)]


def _is_chosen(index: int, settings: Settings) -> bool:
    return settings.cards is None or index in settings.cards


def _counts_as(card: Card, name: str, settings: Settings) -> bool:
    """Return True if a card is charged as `name`; an unknown card counts as the configured one."""
    device = reported_device(card.name)
    return device == DEVICES.get(name) if device is not None else settings.device == name
