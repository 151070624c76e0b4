"""Failed keys, counted per address: after a few failures, unknown keys from that address are
refused for a while without a query.

The count is kept in this process alone, so that guessing stays slow while Redis is unavailable;
each of several API processes allows that many. A key that authenticated before is still accepted,
because many users may share the address of a proxy.
"""

import ipaddress
import threading
import time
from collections import OrderedDict

MAX_ADDRESSES = 10_000
MAX_KNOWN_KEYS = 10_000
# Prefix length of an IPv6 network; the owner of one address has the whole network.
NETWORK_BITS = 64


class Failures:
    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._interval = 60 / per_minute
        # Time at which the address has its full allowance of failures again.
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def wait_seconds(self, address: str, digest: str) -> float:
        """Return the seconds for which no key with this digest is looked up from this address;
        mostly 0.
        """
        now = time.monotonic()
        with self._lock:
            if digest in self._known:
                return 0.0
            full_at = max(now, self._full_at.get(_network(address), now))
        # Exactly 0 where nothing failed, independently of the clock.
        return max(0.0, full_at - now - (self.per_minute - 1) * self._interval)

    def record_failure(self, address: str) -> None:
        now = time.monotonic()
        network = _network(address)
        with self._lock:
            self._full_at[network] = max(now, self._full_at.get(network, now)) + self._interval
            _keep_newest(self._full_at, network, MAX_ADDRESSES)

    def record_success(self, digest: str) -> None:
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
