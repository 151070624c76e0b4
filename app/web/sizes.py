"""Numbers of bytes as people write them: 10 GB, 512 MiB."""

import re
from decimal import Decimal

_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*(?:([KMGTP]?)(I?)B?|BYTES?)", re.IGNORECASE)
_PREFIXES = "KMGTP"


def read_size(text: str) -> int:
    """Raises `ValueError` with what to write instead."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("Write a size, such as 10 GB, 512 MiB or a number of bytes.")
    number, prefix, binary = match.groups()
    power = 1 + _PREFIXES.index(prefix.upper()) if prefix else 0
    factor = (1024 if binary else 1000) ** power
    return int(Decimal(number) * factor)


def write_size(num_bytes: int) -> str:
    """Return the shortest writing that means exactly so many bytes."""
    writings = [
        f"{num_bytes // base**power} {prefix}{ending}"
        for base, ending in ((1000, "B"), (1024, "iB"))
        for power, prefix in enumerate(_PREFIXES, 1)
        if num_bytes > 0 and num_bytes % base**power == 0
    ]
    return min([*writings, f"{num_bytes} B"], key=len)
