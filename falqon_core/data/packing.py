"""Best-fit-decreasing packing: lengths go into as few bins of one capacity as a greedy rule finds
(at most 11/9 of the best, plus one).

The longest comes first and goes into the fullest bin that still has room; ties go to the oldest
bin, so the result depends on the lengths alone.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return bins of indices into `lengths`. Raises `ValueError` for a length above `capacity`."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, bin), ascending
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"length {length} exceeds the capacity {capacity}")
        place = bisect_left(room, (length, 0))
        if place < len(room):
            free, target = room.pop(place)
        else:
            free = capacity
            target = len(bins)
            bins.append([])
        bins[target].append(index)
        insort(room, (free - length, target))
    return bins
