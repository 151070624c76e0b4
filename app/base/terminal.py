"""Text for a terminal: control characters in untrusted text would steer it."""

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(value: object) -> str:
    return CONTROL.sub("", str(value)).replace("\t", " ")


def one_line(value: object) -> str:
    return plain(value).replace("\n", " ")
