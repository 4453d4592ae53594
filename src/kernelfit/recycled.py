"""Memory that is used over and over: to get it anew can cost more than to read the pixels into it."""

import collections
import math
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bytes that are kept for later.
KEPT = 2**26
#: Arrays of fewer bytes are not worth it, and the allocator keeps their memory by itself.
LEAST = 2**16

_free: list[memoryview] = []  # what was used last stands last
_returned: "collections.deque[memoryview]" = collections.deque()
_lock = threading.Lock()


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array like `numpy.empty`, whose memory serves others once nothing refers to it, nor to a view of it."""
    kind = np.dtype(dtype)
    n_bytes = math.prod(shape) * kind.itemsize
    if not LEAST <= n_bytes <= KEPT // 2:
        return np.empty(shape, kind)
    unit = 1 << (n_bytes.bit_length() - 4)  # few different sizes
    size = -(-n_bytes // unit) * unit
    with _lock:
        _sort()
        found = next((i for i in reversed(range(len(_free))) if len(_free[i]) == size), None)
        memory = None if found is None else _free.pop(found)
    if memory is None:
        memory = np.empty(size, np.uint8).data
    whole = np.frombuffer(memory, np.uint8)  # of all views of it the base, since its own is no array
    weakref.finalize(whole, _give_back, memory)
    return whole[:n_bytes].view(kind).reshape(shape)


def _give_back(memory: memoryview) -> None:
    """Take memory back; garbage may be collected at any moment, so never wait for the lock here."""
    _returned.append(memory)
    if _lock.acquire(blocking=False):  # otherwise whoever holds it, or comes next, takes this along
        try:
            _sort()
        finally:
            _lock.release()


def _sort() -> None:
    """Put what has come back with the rest, and let go of what has not been used for longest."""
    while _returned:
        _free.append(_returned.popleft())
    excess = sum(map(len, _free)) - KEPT
    while excess > 0:
        excess -= len(_free.pop(0))
