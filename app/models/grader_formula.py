"""Formula of a `multi` grader: arithmetic on the scores of its graders, in OpenAI's grammar."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_FORMULA = 500
MAX_DEPTH = 20  # of parentheses, signs and powers within each other
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
OF_SEVERAL = ("min", "max")
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|([A-Za-z_]\w*)|([-+*/^(),]))", re.ASCII)
OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}

Scores = Mapping[str, float]
Term = Callable[[Scores], float]


class FormulaRefused(Exception):
    """With the reason."""


class Formula:
    """Raises `FormulaRefused` for a text that is no formula of these names."""

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self._names = names
        self._tokens = _split(text)
        self._place = 0
        self._depth = 0
        self._term = self._sum()
        if self._place < len(self._tokens):
            raise FormulaRefused(f"'{self._tokens[self._place]}' is not expected there")

    def __call__(self, scores: Scores) -> float:
        """Return the value, between 0 and 1; 0 where it is not defined."""
        try:
            value = float(self._term(scores))
        except (ArithmeticError, ValueError):
            return 0.0
        return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0

    def _sum(self) -> Term:
        return self._chain("+-", self._product)

    def _product(self) -> Term:
        return self._chain("*/", self._signed)

    def _chain(self, operators: str, part: Callable[[], Term]) -> Term:
        first = part()
        others = []
        while self._peek() and self._peek() in operators:
            operation = OPERATIONS[self._take()]
            others.append((operation, part()))

        def calculate(scores: Scores) -> float:
            value = first(scores)
            for operation, term in others:
                value = operation(value, term(scores))
            return value

        return calculate

    def _signed(self) -> Term:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaRefused(f"more than {MAX_DEPTH} terms lie within each other")
        term = self._negative() if self._peek() == "-" else self._power()
        self._depth -= 1
        return term

    def _negative(self) -> Term:
        self._take()
        term = self._signed()
        return lambda scores: -term(scores)

    def _power(self) -> Term:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._take()
        exponent = self._signed()
        return lambda scores: math.pow(base(scores), exponent(scores))

    def _atom(self) -> Term:
        token = self._take()
        if token == "(":
            term = self._sum()
            self._expect(")")
            return term
        if token[0].isdigit() or token[0] == ".":
            number = float(token)
            return lambda _scores: number
        if token in FUNCTIONS:
            return self._call(token)
        if token in self._names:
            return lambda scores: scores[token]
        raise FormulaRefused(f"'{token}' is no grader, number or function")

    def _call(self, name: str) -> Term:
        self._expect("(")
        terms = [self._sum()]
        while name in OF_SEVERAL and self._peek() == ",":
            self._take()
            terms.append(self._sum())
        self._expect(")")
        function = FUNCTIONS[name]
        if name in OF_SEVERAL:
            return lambda scores: function([term(scores) for term in terms])
        return lambda scores: function(terms[0](scores))

    def _peek(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        if not token:
            raise FormulaRefused("it ends too early")
        self._place += 1
        return token

    def _expect(self, expected: str) -> None:
        if self._take() != expected:
            raise FormulaRefused(f"'{expected}' is missing")


def _split(text: str) -> list[str]:
    tokens: list[str] = []
    end = 0
    text = text.rstrip()
    while end < len(text):
        match = TOKEN.match(text, end)
        if match is None:
            raise FormulaRefused(f"'{text[end:].strip()[:20]}' cannot be read")
        tokens.append(match[0].strip())
        end = match.end()
    return tokens
