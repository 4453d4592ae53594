"""Work shared among threads, whose results come in order."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Work = TypeVar("Work")


def in_order(work: Sequence[Work], do: Callable[[Work], Part], workers: int) -> Iterable[Part]:
    """Yield ``do(item)`` for each item, in order, computed by at most `workers` threads, the caller's among them.

    Each takes the next item when it is done with its last one: they meet once an item, since every meeting of threads
    that need the interpreter costs a wake-up.
    """
    if workers == 1 or len(work) == 1:
        yield from map(do, work)
        return
    left = iter(range(len(work)))  # next() of it is atomic
    parts: dict[int, Part] = {}

    def take() -> None:
        for i in left:
            parts[i] = do(work[i])

    n_done = 0
    with ThreadPoolExecutor(min(workers, len(work)) - 1, thread_name_prefix="kernelfit") as pool:
        helpers = [pool.submit(take) for _ in range(min(workers, len(work)) - 1)]
        try:
            for i in left:
                parts[i] = do(work[i])
                while n_done in parts:
                    yield parts.pop(n_done)
                    n_done += 1
        finally:
            for _ in left:  # nothing is begun any more, should this have been broken off
                pass
        for helper in helpers:
            helper.result()
    for i in range(n_done, len(work)):
        yield parts.pop(i)
