"""The one loop that refines a solution against the pixels."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from ..core.validation import Array

#: Passes over the pixels after the first, at most.
MOST_REFINEMENTS = 3


class Solution(Protocol):
    """What a solver finds."""

    @property
    def taps(self) -> Array:
        """The kernel."""


Equations = TypeVar("Equations")
Found = TypeVar("Found", bound=Solution)


def refine(
    equations: Sequence[Equations],
    solve: Callable[[Equations], Found],
    recenter: Callable[[Sequence[Equations], Sequence[Found]], Sequence[Equations]],
    matters: Callable[[int, Equations, Found], bool],
) -> tuple[list[Equations], list[Found], int]:
    """Solve the equations of some targets and, where rounding could matter to one of them, correct all."""
    # `recenter` returns the equations with the residual of solutions, by a pass over the pixels; `matters` says, of a
    # target's number, equations and solution, whether rounding could matter. Also returns the number of passes.
    found = [solve(one) for one in equations]
    refined = 0
    if any(matters(t, *both) for t, both in enumerate(zip(equations, found, strict=True))):
        while refined < MOST_REFINEMENTS:
            before = [one.taps for one in found]
            equations = recenter(equations, found)
            found = [solve(one) for one in equations]
            refined += 1
            if all(_settled(one.taps, old) for one, old in zip(found, before, strict=True)):
                break
    return list(equations), found, refined


def _settled(taps: Array, before: Array) -> bool:
    """Say whether a refinement changed no more than rounding does."""
    return bool(np.linalg.norm(taps - before) <= 1e-6 * np.linalg.norm(taps))
