"""Cache of what names stand for, so that a conversation does not query the database with every
request. A change is followed within the lifetime.
"""

import hashlib
import random
import time

from app.models.alias import AliasTargets

LIFETIME_SECONDS = 0.5
MAX_KNOWN = 10_000
POINTS = 2**64


class KnownAliases:
    """Targets by project and name; a name that is no alias has none."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str], tuple[AliasTargets | None, float]] = {}

    def is_known(self, project_id: str, name: str) -> bool:
        _, known_at = self._targets.get((project_id, name), (None, -LIFETIME_SECONDS))
        return time.monotonic() < known_at + LIFETIME_SECONDS

    def find(self, project_id: str, name: str) -> AliasTargets | None:
        return self._targets[project_id, name][0]

    def keep(self, project_id: str, name: str, targets: AliasTargets | None) -> None:
        if len(self._targets) >= MAX_KNOWN:
            self._targets.clear()
        self._targets[project_id, name] = targets, time.monotonic()


def choose(targets: AliasTargets, name: str, sticky_key: str | None) -> str:
    """Return a model by the weights: the same one for the same key, as long as the targets stay.

    A model whose weight grows keeps the keys that it had.
    """
    if len(targets.models) == 1:
        return targets.models[0].model
    total = sum(target.weight for target in targets.models)
    point = _point(name, sticky_key) * total
    for target in targets.models[:-1]:
        point -= target.weight * POINTS
        if point < 0:
            return target.model
    return targets.models[-1].model


def _point(name: str, sticky_key: str | None) -> int:
    if sticky_key is None:
        return random.randrange(POINTS)
    digest = hashlib.sha256(f"{name}\0{sticky_key}".encode()).digest()
    return int.from_bytes(digest[:8])
