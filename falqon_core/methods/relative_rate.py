"""The rate of single parameters, as a factor of the recipe's."""

from collections.abc import Callable

# Factor at an optimizer step, counted from 0.
RelativeRate = Callable[[int], float]
