"""Work shared among threads, whose results come in order."""

import _thread
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Part = TypeVar("Part")
Work = TypeVar("Work")
_IDLE_SECONDS = 1.0
_idle: "list[_Helper]" = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # no thread but the one that forked lives on


class _Helper:
    """A thread that sleeps between tasks, and ends when there has been none for a second.

    A thread that is started while the one before is still ending, which happens where passes follow each other, is put
    on the processor of the one that starts it, and waits for some 4 ms; one that is woken runs where it ran last.
    """

    def __init__(self) -> None:
        self._given: tuple[Callable[[], None], _thread.LockType] | None = None
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        _thread.start_new_thread(self._run, ())

    def give(self, task: Callable[[], None]) -> _thread.LockType:
        """Let the thread do something that raises nothing; return what is held until it is done."""
        done = _thread.allocate_lock()
        done.acquire()
        self._given = task, done
        self._wake.release()
        return done

    def _run(self) -> None:
        while True:
            if not self._wake.acquire(timeout=_IDLE_SECONDS):
                try:
                    _idle.remove(self)
                except ValueError:  # it has just been taken
                    continue
                return
            given, self._given = self._given, None
            assert given is not None
            task, done = given
            task()
            _idle.append(self)  # by itself, since who waits for it may be interrupted; and before that one goes on
            done.release()
            del given, task, done  # what they hold may be large


def in_order(work: Sequence[Work], do: Callable[[Work], Part], workers: int) -> Iterable[Part]:
    """Yield ``do(item)`` for each item, in order, computed by at most `workers` threads, the caller's among them."""
    # Each takes the next item when it is done with its last one: they meet once an item, since every meeting of threads
    # that need the interpreter costs a wake-up. For the same reason nobody waits for a thread to have started.
    if workers == 1 or len(work) == 1:
        yield from map(do, work)
        return
    left = iter(range(len(work)))  # next() of it is atomic
    parts: dict[int, Part] = {}
    failures: list[BaseException] = []
    helpers: list[_thread.LockType] = []
    n_done = 0

    def take() -> None:
        try:
            for i in left:
                parts[i] = do(work[i])
        except BaseException as error:  # noqa: BLE001  # raised below, by the thread that asked
            failures.append(error)

    try:
        for _ in range(min(workers, len(work)) - 1):
            try:
                helper = _idle.pop()
            except IndexError:
                helper = _Helper()
            helpers.append(helper.give(take))
        for i in left:
            parts[i] = do(work[i])
            if failures:
                break
            while n_done in parts:
                yield parts.pop(n_done)
                n_done += 1
    finally:
        for _ in left:  # nothing is begun any more, should this have been broken off
            pass
        for done in helpers:
            done.acquire()
    if failures:
        raise failures[0]
    for i in range(n_done, len(work)):
        yield parts.pop(i)


#: At most so many partial sums; their number depends on the problem alone, so every number of workers gives the same
# bits.
N_BANDS = 32
#: Called with the name of a stage, the number of steps done and their total.
Progress = Callable[[str, int, int], object]


def counted(parts: Iterable[Part], total: int, progress: Progress | None) -> Iterable[Part]:
    """Pass parts on, and tell `progress` of each."""
    for done, part in enumerate(parts, 1):
        if progress is not None:
            progress("reading pixels", done, total)
        yield part


def bands(tiles: list[Work], least: int = 1) -> list[list[Work]]:
    """Split tiles into at most N_BANDS runs of neighbours, of at `least` so many each, by their number alone."""
    per_band = max(1, least, math.ceil(len(tiles) / N_BANDS))
    return [tiles[i : i + per_band] for i in range(0, len(tiles), per_band)]


def add(parts: Iterable[tuple[Array, ...]]) -> list[Array]:
    """Add up tuples of arrays in the order in which they come."""
    sums: list[Array] = []
    for part in parts:
        if sums:
            for s, p in zip(sums, part, strict=True):
                s += p
        else:
            sums = [np.array(p) for p in part]
    return sums
