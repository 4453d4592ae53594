"""Sums over blocks of Dask arrays, all at once or portion by portion.

Between two portions there is something to tell and to keep. A portion is long enough that its end, where workers wait
for one another, costs little.
"""

import itertools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..compiled.threads import Progress
from ..data import blocks
from . import dask_tasks
from .checkpoint import Checkpoint, Sums

#: Tasks of a portion at least, and seconds that it shall last where nothing is kept.
_LEAST, SECONDS = 16, 2.0


def added(dask: Any, parts: list[Any]) -> Any:
    """Return the sum of parts, to be computed."""
    return fewer(dask, parts, 1)[0]


def fewer(dask: Any, parts: list[Any], most: int) -> list[Any]:
    """Return so many sums of parts at most, to be computed, whose sum is that of all."""
    while len(parts) > most:
        parts = [dask.delayed(dask_tasks.added, pure=False)(group) for group in blocks.groups(parts)]
    return parts


def sums(dask: Any, parts: Sequence[list[Any]], progress: Progress | None) -> list[Any]:
    """Compute the sum of each list of parts."""
    if progress is None:
        return list(dask.compute(*(added(dask, own) for own in parts)))
    trees: list[blocks.Tree[Any]] = [blocks.Tree(operator.add) for _ in parts]
    ends = list(itertools.accumulate(map(len, parts), initial=0))
    for index, done in portions(dask, parts, lambda i, one, level, _: trees[i].push(one, level), SECONDS):
        progress("reading pixels", ends[index] + done, ends[-1])
    return [tree.total() for tree in trees]


class Unit(NamedTuple):
    """A sum to be kept: of how many parts, what makes these, and for which kernel each of its values is."""

    n: int
    parts: Callable[[], list[Any]]
    places: list[tuple[int, int]]


def kept_sums(dask: Any, units: Sequence[Unit], state: Checkpoint, asked: str, progress: Progress | None) -> Sums:
    """Compute the sums of a pass that their file, if it is for what is `asked`, does not hold; and keep them there."""
    state.begin_pass(asked)
    parts = [unit.parts() if u >= state.pairs else [] for u, unit in enumerate(units)]
    ends = list(itertools.accumulate((unit.n for unit in units), initial=0))

    def push(u: int, found: Any, level: int, last: bool) -> None:  # noqa: FBT001
        state.begins()
        for place, one in zip(units[u].places, found, strict=True):
            state.sums.at(*place).add(one, last=last, level=level)

    seconds = state.every if progress is None else min(state.every, SECONDS)
    with state.running():
        for at, done in portions(dask, parts, push, seconds, (state.pairs, state.blocks)):
            state.goes_on(at, done)
            if progress is not None:
                progress("reading pixels", ends[at] + done, ends[-1])
    return state.sums


def portions(
    dask: Any,
    parts: Sequence[list[Any]],
    push: Callable[[int, Any, int, bool], object],
    seconds: float,
    start: tuple[int, int] = (0, 0),
) -> Iterator[tuple[int, int]]:
    """Compute lists of parts, some seconds' worth at a time, and yield which is next: its list, its number there."""
    # `push` takes each sum: of which list it is, its level (`Tree.push`), and whether it is the last of its list.
    (at, first), n = start, _LEAST
    while at < len(parts):
        runs: list[tuple[int, int, int, int]] = []
        room, began = n, time.monotonic()
        while room > 0 and at < len(parts):
            last = min(first + room, len(parts[at]))
            runs += [(at, *run) for run in blocks.runs(first, last)]
            room -= last - first
            at, first = (at + 1, 0) if last == len(parts[at]) else (at, last)
        computed = dask.compute(*(added(dask, parts[i][a:b]) for i, a, b, _ in runs))
        for (i, _, b, level), one in zip(runs, computed, strict=True):
            push(i, one, level, b == len(parts[i]))
        n = max(_LEAST, min(4 * n, int(n * seconds / max(time.monotonic() - began, 1e-3))))
        yield at, first
