"""Formula of a `multi` grader: arithmetic on the scores of its graders, in OpenAI's grammar.
Python's parser reads it, and nothing of it is ever compiled.
"""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping

MAX_FORMULA = 500
MAX_DEPTH = 100  # of operations within each other; a sum of as many terms is as deep
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
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # of floats: no integer grows without bounds
}


class FormulaRefused(Exception):
    """With the reason."""


class Formula:
    """Raises `FormulaRefused` for a text that is no formula of these names."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self._names = names
        for unknown in ("#", "**"):
            if unknown in text:
                raise FormulaRefused(f"'{unknown}' cannot be read")
        self._source = " ".join(text.split()).replace("^", "**")
        try:
            tree = ast.parse(self._source, mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise FormulaRefused("it cannot be read as arithmetic") from None
        self._root = tree.body
        self._check(self._root, MAX_DEPTH)

    def __call__(self, scores: Mapping[str, float]) -> float:
        """Return the value, between 0 and 1; 0 where it is not defined."""
        try:
            value = _calculate(self._root, scores)
        except (ArithmeticError, ValueError):
            return 0.0
        return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0

    def _check(self, node: ast.expr, depth: int) -> None:
        if depth == 0:
            raise FormulaRefused(f"more than {MAX_DEPTH} operations lie within each other")
        match node:
            case ast.Constant(value=int() | float() as number) if type(number) is not bool:
                parts: list[ast.expr] = []
            case ast.Name(id=name) if name in self._names:
                parts = []
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                parts = [operand]
            case ast.BinOp(op=operation) if type(operation) in OPERATIONS:
                parts = [node.left, node.right]
            case ast.Call(func=ast.Name(id=name), args=[_, *others], keywords=[]) if (
                name in FUNCTIONS and (name in OF_SEVERAL or not others)
            ):
                parts = node.args
            case _:
                source = ast.get_source_segment(self._source, node) or ""
                written = source.replace("**", "^")[:20]
                raise FormulaRefused(f"'{written}' is no grader, number, operation or function")
        for part in parts:
            self._check(part, depth - 1)


def _calculate(node: ast.expr, scores: Mapping[str, float]) -> float:
    """Return the value of a part that has been checked."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return scores[name]
        case ast.UnaryOp(operand=operand):
            return -_calculate(operand, scores)
        case ast.BinOp(left=left, op=operation, right=right):
            return OPERATIONS[type(operation)](_calculate(left, scores), _calculate(right, scores))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_calculate(each, scores) for each in args]
            return float(FUNCTIONS[name](values if name in OF_SEVERAL else values[0]))
    raise AssertionError("the formula was checked")
