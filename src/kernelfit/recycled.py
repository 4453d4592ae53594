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


class Shelf:
    """Where memory waits for its next use."""

    def __init__(self) -> None:
        self.free: list[memoryview] = []  # what was used last stands last
        self.n_bytes = 0
        self.returned: collections.deque[memoryview] = collections.deque()
        self.lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array like `numpy.empty`, whose memory serves others once nothing refers to it or a view of it."""
        kind = np.dtype(dtype)
        n_bytes = math.prod(shape) * kind.itemsize
        if not LEAST <= n_bytes <= KEPT // 2:
            return np.empty(shape, kind)
        unit = 1 << (n_bytes.bit_length() - 4)  # few different sizes
        size = -(-n_bytes // unit) * unit
        memory = None
        with self.lock:
            self._sort()
            found = next((i for i in reversed(range(len(self.free))) if len(self.free[i]) == size), None)
            if found is not None:
                memory = self.free.pop(found)
                self.n_bytes -= size
        if memory is None:
            memory = np.empty(size, np.uint8).data
        whole = np.frombuffer(memory, np.uint8)  # of all views of it the base, since its own is no array
        weakref.finalize(whole, self._give_back, memory)
        return whole[:n_bytes].view(kind).reshape(shape)

    def _give_back(self, memory: memoryview) -> None:
        """Take memory back; garbage may be collected at any moment, so never wait for the lock here."""
        self.returned.append(memory)
        if self.lock.acquire(blocking=False):  # otherwise whoever holds it, or comes next, takes this along
            try:
                self._sort()
            finally:
                self.lock.release()

    def _sort(self) -> None:
        """Put what has come back with the rest, and let go of what has not been used for longest."""
        while self.returned:
            self.free.append(self.returned.popleft())
            self.n_bytes += len(self.free[-1])
        while self.n_bytes > KEPT:
            self.n_bytes -= len(self.free.pop(0))


_shelf = Shelf()
empty = _shelf.empty
