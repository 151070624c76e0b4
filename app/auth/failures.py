"""Wrong keys, counted per address: after a few, unknown keys from there are not even looked up for
a while.

Counted in this process alone, so that guessing is slow also while Redis is away; of several API
processes each allows that many. A key that has opened the door before still does, because many
users may share the address of a proxy.
"""

import ipaddress
import threading
import time
from collections import OrderedDict

MAX_ADDRESSES = 10_000
MAX_KNOWN_KEYS = 10_000
NETWORK_BITS = 64  # of an IPv6 address; whoever has one has all of its network


class Failures:
    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._interval = 60 / per_minute
        # when an address may fail as often again as at first
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def wait_seconds(self, address: str, digest: str) -> float:
        """Return how long no key with this digest may be looked up from there; mostly 0."""
        now = time.monotonic()
        with self._lock:
            if digest in self._known:
                return 0.0
            full_at = max(now, self._full_at.get(_network(address), now))
        # exactly 0 where nothing failed, whatever the clock says
        return max(0.0, full_at - now - (self.per_minute - 1) * self._interval)

    def failed(self, address: str) -> None:
        now = time.monotonic()
        network = _network(address)
        with self._lock:
            self._full_at[network] = max(now, self._full_at.get(network, now)) + self._interval
            _keep_newest(self._full_at, network, MAX_ADDRESSES)

    def opened(self, digest: str) -> None:
        with self._lock:
            self._known[digest] = None
            _keep_newest(self._known, digest, MAX_KNOWN_KEYS)


def _keep_newest(
    entries: "OrderedDict[str, float] | OrderedDict[str, None]", newest: str, most: int
) -> None:
    entries.move_to_end(newest)
    if len(entries) > most:
        entries.popitem(last=False)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        network = ipaddress.ip_network((parsed, NETWORK_BITS), strict=False)
        return str(parsed.ipv4_mapped or network)
    return str(parsed)
