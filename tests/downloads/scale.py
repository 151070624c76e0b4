"""How much of everything: what every run of the suite affords, and what a release has to survive
(`make downloads`).
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    ranges: int
    server_kills: int
    client_kills: int
    damaged_blocks: int
    streamed_bytes: int


EVERY_RUN = Scale(
    ranges=60, server_kills=3, client_kills=3, damaged_blocks=300, streamed_bytes=250 * 10**6
)
RELEASE = Scale(
    ranges=1_000, server_kills=50, client_kills=50, damaged_blocks=300, streamed_bytes=5 * 10**9
)
SCALE = {"": EVERY_RUN, "release": RELEASE}[os.environ.get("DOWNLOADS", "")]
