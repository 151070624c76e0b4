"""Regular expressions of JSON schemas: the ones that every engine here supports, at a bounded cost.

llama.cpp treats a pattern that it cannot parse as any string, with only a line in its log; so only
its part of the language is accepted.
"""

from dataclasses import dataclass

MAX_PATTERN_CHARACTERS = 500
MAX_PATTERN_DEPTH = 10
MAX_PATTERN_REPETITIONS = 1_000
MAX_PATTERN_SIZE = 2_000  # characters, each as often as its repetitions say
# Repetitions that may be open at the same character, each as often as the enclosing ones say: the
# engine tries all of them for every token.
MAX_PATTERN_CHOICES = 50
MAX_PATTERN_ALTERNATIVES = 200
ESCAPES = frozenset('\\^$.*+?()[]{}|"-ntr')
CLASS_ESCAPES = frozenset("\\]-[ntr")
HINTS = {"d": "[0-9]", "w": "[A-Za-z0-9_]", "s": "[ \\t\\n\\r]"}


@dataclass(frozen=True, slots=True)
class PatternCost:
    size: int
    choices: int


class PatternRefused(ValueError):
    pass


def cost_of(pattern: str) -> PatternCost:
    """Return the cost of the pattern. Raises `PatternRefused` for a pattern that must not reach an
    engine.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise PatternRefused(
            f"the pattern has more than {MAX_PATTERN_CHARACTERS} characters; write a shorter one"
        )
    if len(pattern) < 2 or pattern[0] != "^" or pattern[-1] != "$":
        raise PatternRefused("a pattern begins with ^ and ends with $; write .* for other text")
    reader = _PatternParser(pattern[1:-1])
    cost = reader.read_alternatives(depth=0)
    if not reader.is_at_end:
        raise PatternRefused("a closing bracket has none that opens it; write \\) for itself")
    return cost


class _PatternParser:
    """Parser of the text between the anchors, in one pass."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._num_alternatives = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._text)

    def read_alternatives(self, depth: int) -> PatternCost:
        """Return the cost of the text before a closing bracket, or the end."""
        if depth > MAX_PATTERN_DEPTH:
            raise PatternRefused(f"groups stand more than {MAX_PATTERN_DEPTH} deep; flatten them")
        total = PatternCost(0, 0)
        last: PatternCost | None = None
        while not self.is_at_end and self._text[self._at] != ")":
            character = self._text[self._at]
            if character in "*+?{":
                if last is None:
                    raise PatternRefused(f"nothing stands before '{character}'; escape it")
                total = _checked_sum(total, self._repeated(last))
                last = None
                continue
            if last is not None:
                total = _checked_sum(total, last)
            last = None
            if character == "|":
                self._at += 1
                self._count_alternative()
            else:
                last = self._read_element(depth)
        return total if last is None else _checked_sum(total, last)

    def _count_alternative(self) -> None:
        self._num_alternatives += 1
        if self._num_alternatives > MAX_PATTERN_ALTERNATIVES:
            raise PatternRefused(
                f"the pattern has more than {MAX_PATTERN_ALTERNATIVES} alternatives; "
                "write an enum, or fewer"
            )

    def _read_element(self, depth: int) -> PatternCost:
        character = self._text[self._at]
        self._at += 1
        match character:
            case "(":
                return self._read_group(depth)
            case "[":
                self._read_class()
            case "\\":
                self._read_escape(ESCAPES)
            case "^" | "$":
                raise PatternRefused(f"'{character}' stands inside the pattern; escape it")
            case "]" | "}" | "\0":
                raise PatternRefused(f"{character!r} is not read as itself; escape it")
        return PatternCost(1, 0)

    def _read_group(self, depth: int) -> PatternCost:
        if self._text.startswith("?", self._at):
            if not self._text.startswith("?:", self._at):
                raise PatternRefused("groups with ? are not supported, but for (?: and )")
            self._at += 2
        cost = self.read_alternatives(depth + 1)
        if self.is_at_end:
            raise PatternRefused("an opening bracket has none that closes it; write \\( for itself")
        self._at += 1
        return cost

    def _read_class(self) -> None:
        if self._text.startswith("^", self._at):
            self._at += 1
        start = self._at
        while not self.is_at_end and self._text[self._at] != "]":
            character = self._text[self._at]
            self._at += 1
            if character == "\\":
                self._read_escape(CLASS_ESCAPES)
            elif character == "\0":
                raise PatternRefused("a class holds a null character; leave it out")
        if self.is_at_end or self._at == start:
            raise PatternRefused("a class in [] is empty or has no end; write \\[ for itself")
        self._at += 1

    def _read_escape(self, escapes: frozenset[str]) -> None:
        character = self._text[self._at] if not self.is_at_end else ""
        if character not in escapes or not character:
            hint = HINTS.get(character, "the character itself")
            raise PatternRefused(f"'\\{character}' is not supported; write {hint}")
        self._at += 1

    def _repeated(self, element: PatternCost) -> PatternCost:
        """Return the cost of an element with the repetition that follows."""
        character = self._text[self._at]
        self._at += 1
        cost = PatternCost(element.size, element.choices + 1)
        if character == "{":
            least, most = self._read_counts()
            is_open = least != most
            cost = PatternCost(element.size * most, element.choices * most + is_open)
        if self._text.startswith("?", self._at):  # a lazy repetition takes the same texts
            self._at += 1
        if not self.is_at_end and self._text[self._at] in "*+?{":
            raise PatternRefused("one repetition follows another; put the first in brackets")
        return cost

    def _read_counts(self) -> tuple[int, int]:
        end = self._text.find("}", self._at)
        first, comma, second = self._text[self._at : max(end, self._at)].partition(",")
        is_number = first.isascii() and first.isdecimal() and len(first) <= 6
        is_second = not second or (second.isascii() and second.isdecimal() and len(second) <= 6)
        if not (is_number and is_second):
            raise PatternRefused("a repetition in {} is {2}, {2,} or {2,5}; write \\{ for itself")
        least = int(first)
        most = int(second) if second else least + bool(comma)
        if least > most:
            raise PatternRefused(f"a repetition of at least {least} and at most {most}")
        if most > MAX_PATTERN_REPETITIONS:
            raise PatternRefused(
                f"a repetition counts more than {MAX_PATTERN_REPETITIONS}; write + or *"
            )
        self._at = end + 1
        return least, most


def _checked_sum(first: PatternCost, second: PatternCost) -> PatternCost:
    cost = PatternCost(first.size + second.size, first.choices + second.choices)
    if cost.size > MAX_PATTERN_SIZE:
        raise PatternRefused(
            f"with its repetitions the pattern is longer than {MAX_PATTERN_SIZE} characters; "
            "repeat less"
        )
    if cost.choices > MAX_PATTERN_CHOICES:
        raise PatternRefused(
            f"with those around them the pattern has more than {MAX_PATTERN_CHOICES} repetitions "
            "without a fixed count; write fewer, and not one in another"
        )
    return cost
