"""Work shared among threads, whose results come in order."""

import _thread
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Part = TypeVar("Part")
Work = TypeVar("Work")


def in_order(work: Sequence[Work], do: Callable[[Work], Part], workers: int) -> Iterable[Part]:
    """Yield ``do(item)`` for each item, in order, computed by at most `workers` threads, the caller's among them.

    Each takes the next item when it is done with its last one: they meet once an item, since every meeting of threads
    that need the interpreter costs a wake-up. For the same reason nobody waits for a thread to have started.
    """
    if workers == 1 or len(work) == 1:
        yield from map(do, work)
        return
    left = iter(range(len(work)))  # next() of it is atomic
    parts: dict[int, Part] = {}
    failures: list[BaseException] = []

    def take(done: _thread.LockType) -> None:
        try:
            for i in left:
                parts[i] = do(work[i])
        except BaseException as error:  # noqa: BLE001  # raised below, by the thread that asked
            failures.append(error)
        finally:
            done.release()

    helpers: list[_thread.LockType] = []
    n_done = 0
    try:
        for _ in range(min(workers, len(work)) - 1):
            done = _thread.allocate_lock()
            done.acquire()
            _thread.start_new_thread(take, (done,))
            helpers.append(done)
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
