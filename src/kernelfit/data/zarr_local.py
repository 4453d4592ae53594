"""Chunks of Zarr arrays that are files of this machine, read as they are.

Zarr hands each chunk from thread to thread, into memory that the kernel has to map and clear first, which takes as long
as a fit. Here a chunk is one read and at most one call of its codec, into memory used before. Whatever is not exactly
as expected, a missing or a damaged chunk for instance, is left to Zarr, which knows what that means, or says so.

The package tensorstore reads as quickly and is not taken: it ends a process that was forked, unpacks whatever a Blosc
buffer says it holds, and waits for ever for a chunk that is a pipe. CONTRIBUTING has the figures.
"""

import importlib
import itertools
import math
import os
import stat
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.npz import ImageFileError
from . import buffer_pool

Pixels = npt.NDArray[Any]


class DamagedChunkError(ImageFileError):
    """The file of a chunk is incomplete."""


def direct(array: Any) -> Any:
    """Return a reader of the files of a Zarr array, if it is of a kind that is known here; otherwise the array."""
    zarr = sys.modules.get("zarr")
    try:
        stored = getattr(array, "stored", array)  # what `read_image` returns has a store behind one that judges
        store = stored.store if stored is array else stored.store._store
        folder = None if zarr is None or type(stored) is not zarr.Array else _folder(store, zarr.storage)
        if folder is None:
            return array
        known = _codec(stored.metadata.to_dict())
        plain = array.dtype.kind in "biuf" and array.dtype.isnative
        root = os.path.join(folder, stored.store_path.path)
        return ChunkFiles(array, root, *known) if plain and known is not None else array
    except Exception:  # a Zarr of another version, say: it is still an array
        return array


def _folder(store: Any, kinds: Any) -> Any:
    """Return where a store lies on this machine, None for others; Dask opens folders by fsspec."""
    if type(store) is kinds.LocalStore:
        return store.root
    system = getattr(store, "fs", None)
    local = type(getattr(system, "sync_fs", system)).__module__ == "fsspec.implementations.local"
    return store.path if local and type(store) is kinds.FsspecStore else None


def _codec(facts: dict[str, Any]) -> tuple[str | None] | None:
    """Return the codec that all chunks have gone through, if any; None if more has been done to them."""
    if facts["zarr_format"] == 2:
        packed = facts["compressor"]
        name, known = packed and packed["id"], facts["order"] == "C" and not facts["filters"]
    else:
        first, *more = facts["codecs"]
        name = more[0]["name"] if more else None
        endian = first.get("configuration", {}).get("endian", sys.byteorder)
        known = first["name"] == "bytes" and endian == sys.byteorder and len(more) < 2
        known = known and facts["chunk_grid"]["name"] == "regular" and not facts["storage_transformers"]
    return (name,) if known and name in (None, *_SIZES) else None


def zstd_size(frame: memoryview) -> int:
    """Return the number of bytes that a Zstandard frame says it holds, -1 if it does not say (RFC 8878, 3.1.1.1)."""
    flags = frame[4]
    alone = flags >> 5 & 1
    start, n_bytes = 6 - alone + (0, 1, 2, 4)[flags & 3], (alone, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(frame[start : start + n_bytes], "little")
    return size + 256 * (n_bytes == 2) if n_bytes else -1


def blosc_size(block: memoryview) -> int:
    """Return the number of bytes that a Blosc buffer says it holds, -1 if more follows it."""
    n_bytes = int.from_bytes(block[12:16], "little") if len(block) >= 16 else 16
    if n_bytes > len(block):  # not left to Zarr: the decoder would read on behind the end, and may crash
        raise DamagedChunkError(f"got a chunk of {len(block)} bytes, need the {n_bytes} that its header tells of")
    return int.from_bytes(block[4:8], "little") if n_bytes == len(block) else -1


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; one that is a pipe at once, too, and not when somebody comes to write."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


#: The codecs that decode into given memory, and the size of what they would write there.
_SIZES = {"zstd": zstd_size, "blosc": blosc_size}


class ChunkFiles:
    """A Zarr array, read from its files.

    `array`: the array, whose chunks are stored in C order, in native bytes, and may be compressed. `root`: the folder
    of its chunks. `codec`: with what they are compressed, one of those of `_SIZES`.
    """

    def __init__(self, array: Any, root: str, codec: str | None) -> None:
        self.array, self.root = array, root
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, array.chunks
        self.n_bytes = math.prod(self.chunks) * self.dtype.itemsize
        self.decode = self.size = None
        if codec is not None:
            self.decode = importlib.import_module("numcodecs").get_codec({"id": codec}).decode
            self.size = _SIZES[codec]

    def __getitem__(self, key: tuple[slice, ...]) -> Pixels:
        """Return the pixels of one slice for each axis, not to be written to."""
        ends = [s.indices(n) for s, n in zip(key, self.shape, strict=True)]
        shape = tuple(max(0, end - start) for start, end, _ in ends)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        touched = [range(a // side, -(-b // side)) for (a, b, _), side in zip(ends, self.chunks, strict=True)]
        out: Pixels | None = None
        for place in itertools.product(*touched):
            begins = [i * side for i, side in zip(place, self.chunks, strict=True)]
            both = [
                (max(a, begin), min(b, begin + side))
                for (a, b, _), begin, side in zip(ends, begins, self.chunks, strict=True)
            ]
            part = self._part(
                place, tuple(slice(a - begin, b - begin) for (a, b), begin in zip(both, begins, strict=True))
            )
            if part is None:
                return np.asarray(self.array[key])
            if part.shape == shape and 2 * part.nbytes >= self.n_bytes:  # less would keep too much memory
                return part
            if out is None:
                out = buffer_pool.empty(shape, self.dtype)
            out[tuple(slice(a - start, b - start) for (a, b), (start, _, _) in zip(both, ends, strict=True))] = part
        assert out is not None
        return out

    def _part(self, place: tuple[int, ...], key: tuple[slice, ...]) -> Pixels | None:
        """Return a part of the chunk at a place; None if its file is not as it should be."""
        n_rows, skipped = self.chunks[0], 0
        if self.decode is None:  # other rows need not be read
            n_rows, skipped = key[0].stop - key[0].start, key[0].start
            key = (slice(0, n_rows), *key[1:])
        n_bytes = self.n_bytes // self.chunks[0] * n_rows
        pixels = buffer_pool.empty((n_bytes,), np.uint8)
        path = os.path.join(self.root, self.array.metadata.encode_chunk_key(place))
        try:
            with open(path, "rb", buffering=0, opener=_without_waiting) as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise DamagedChunkError("got a pipe or a device, need a file")
                size = facts.st_size
                if self.decode is None or self.size is None:
                    file.seek(n_bytes // n_rows * skipped)
                    complete = size == self.n_bytes and file.readinto(pixels.data) == n_bytes
                else:
                    packed = buffer_pool.empty((size,), np.uint8)
                    complete = file.readinto(packed.data) == size and self.size(packed.data) == n_bytes
                    if complete:
                        self.decode(packed, pixels)
        except DamagedChunkError as error:
            raise DamagedChunkError(f"{path}: {error}; write it anew") from None
        except Exception:  # Zarr will meet it again
            complete = False
        return pixels.view(self.dtype).reshape(n_rows, *self.chunks[1:])[key] if complete else None
