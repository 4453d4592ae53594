"""Memory that is used over and over: to get it anew can cost more than to read the pixels into it."""

import collections
import math
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bytes that are in use and kept for later, together; what is needed beyond is not used again.
KEPT = 2**27
#: Arrays of fewer bytes are not worth it, and the allocator keeps their memory by itself.
LEAST = 2**16


class _Lent(weakref.ref["npt.NDArray[Any]"]):
    """What is told when the last view of an array is gone."""

    __slots__ = ("memory",)
    memory: memoryview


class BufferPool:
    """Where memory waits for its next use."""

    def __init__(self) -> None:
        self.free: list[memoryview] = []  # what was used last stands last
        self.lent: dict[int, _Lent] = {}
        self.n_bytes = 0  # of both
        self.returned: collections.deque[_Lent] = collections.deque()
        self.lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array like `numpy.empty`, whose memory serves others once nothing refers to it or a view of it."""
        kind = np.dtype(dtype)
        n_bytes = math.prod(shape) * kind.itemsize
        if not LEAST <= n_bytes <= KEPT // 4:
            return np.empty(shape, kind)
        unit = 1 << (n_bytes.bit_length() - 4)  # few different sizes
        size = -(-n_bytes // unit) * unit
        with self.lock:
            memory = self._take(size)
            if memory is None:
                return np.empty(shape, kind)
            whole = np.frombuffer(memory, np.uint8)  # of all views of it the base, since its own is no array
            # No code of Python's may run when it goes, at any moment and in any thread: a Ctrl-C would be lost in it.
            lent = _Lent(whole, self.returned.append)
            lent.memory = memory
            self.lent[id(lent)] = lent
        return whole[:n_bytes].view(kind).reshape(shape)

    def _take(self, size: int) -> memoryview | None:
        """Return memory, used before if there is some of that size; None if too much is in use."""
        while self.returned:
            lent = self.returned.popleft()
            del self.lent[id(lent)]
            self.free.append(lent.memory)
        found = next((i for i in reversed(range(len(self.free))) if len(self.free[i]) == size), None)
        if found is not None:
            return self.free.pop(found)
        while self.free and self.n_bytes + size > KEPT:
            self.n_bytes -= len(self.free.pop(0))  # not used for longest
        if self.n_bytes + size > KEPT:
            return None
        memory = np.empty(size, np.uint8).data
        self.n_bytes += size
        return memory


_pool = BufferPool()
empty = _pool.empty
