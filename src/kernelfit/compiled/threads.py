"""Work shared among threads, whose results come in order; and BLAS kept to one thread meanwhile.

The threads of BLAS spin while they wait for more work. On a busy machine each of its small steps then waits for a core
that its own threads hold, and the passes over the pixels, which have threads of their own, wait with it.
"""

import _thread
import functools
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Part = TypeVar("Part")
Work = TypeVar("Work")
_IDLE_SECONDS = 1.0
_idle: "list[_Helper]" = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # no thread but the one that forked lives on


P = ParamSpec("P")
R = TypeVar("R")


class _Limit:
    """One limit for all calls at a time: the first that comes sets it, the last that goes takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._controller: Any = None
        self._limited: Any = None
        self._setter: threading.Thread | None = None
        self._n_inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                if self._controller is None:  # it looks at every library that is loaded, which takes milliseconds
                    import scipy.linalg  # noqa: F401
                    import threadpoolctl

                    self._controller = threadpoolctl.ThreadpoolController()
                self._limited = self._controller.limit(limits=1, user_api="blas")
                self._setter = threading.current_thread()
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                self._let_go(force=self._setter is not threading.current_thread())
                self._limited.restore_original_limits()
                self._let_go()

    def _let_go(self, *, force: bool = False) -> None:
        """Let any thread set the limits; newer versions of threadpoolctl keep that to the thread that did it first."""
        for kind in {type(one) for one in self._controller.lib_controllers}:
            if hasattr(kind, "clear_controlling_thread"):
                kind.clear_controlling_thread(force=force)


_limit = _Limit()


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Keep BLAS to one thread while a function runs, whoever calls it, also from several threads at a time."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _limit:
            return function(*args, **kwargs)

    return limited


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
