"""Positions of values in a line of JSON, so that a fault comes with its field and column.

The line is read again from its start, which only happens for a line that is at fault.
"""

import json
import re

_COLON = re.compile(r"\s*:")
_MARK = re.compile(r'["{}\[\]]')


def field_of(path: tuple[int | str, ...]) -> str:
    """Return the path as people write it: `messages[0].role`."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in path
    ).removeprefix(".")


def column_of(text: str, path: tuple[int | str, ...]) -> int:
    """Return the column, from 1, where the value at `path`, or its nearest parent, starts."""
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    for part in path:
        if text[position] not in "{[":  # JSON in a text, whose parts have no column of their own
            return position + 1
        inner = position + 1
        index = 0
        while True:
            inner = _skip(text, inner)
            if inner >= len(text) or text[inner] in "]}":
                return position + 1
            key: int | str = index
            if isinstance(part, str):
                if text[position] != "{":
                    return position + 1
                key, inner = decoder.raw_decode(text, inner)
                inner = _skip(text, inner)
            if key == part:
                break
            _, inner = decoder.raw_decode(text, inner)
            index += 1
        position = inner
    return position + 1


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,:":
        position += 1
    return position


def column_of_second(text: str, key: str) -> int:
    """Return the column where `key` stands the second time in an object of sound JSON, else 1."""
    decoder = json.JSONDecoder()
    position = 0
    seen: list[bool] = []  # For each open object and array: the key was there.
    while mark := _MARK.search(text, position):
        start, position = mark.span()
        if mark.group() in "{[":
            seen.append(False)
        elif mark.group() in "}]":
            seen.pop()
        else:
            string, position = decoder.raw_decode(text, start)
            if string == key and _COLON.match(text, position):
                if seen[-1]:
                    return start + 1
                seen[-1] = True
    return 1
