"""No more is unpacked of a file than its header promises, and no file promises what cannot be in it."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zlib
from typing import Any

from ..core.npz import ImageFileError
from ..data.zarr_local import DamagedChunkError, blosc_size, zstd_size

#: Bytes that may be unpacked of any file.
FREE = 2**26
#: How often the size of its ZIP or gzip archive a file may be: pixels have noise.
TIGHTEST = 30
DEFLATE = 1100  # by how much deflate packs at most, and a little more


def require_possible(path: object, promised: int, length: int) -> None:
    """Refuse a header that promises more bytes of pixels than a file of this length can hold in any packing."""
    if promised > FREE + 2 * DEFLATE * length:
        raise ImageFileError(
            f"{path}: got a header that promises {promised} bytes of pixels in a file of {length} bytes, which cannot "
            "hold them; need a whole file, save it anew"
        )


def require_bounded(path: object, packed: Any, limit: int, codec: str = "zlib") -> None:
    """Refuse packed bytes that unpack to more than the `limit` that the header sets."""
    try:
        more = _unpacks_to_more(memoryview(packed), limit, codec)
    except DamagedChunkError as error:
        raise ImageFileError(f"{path}: {error}; write it anew") from None
    if more:
        raise ImageFileError(
            f"{path}: got packed pixels that unpack to more than the {limit} bytes that the header promises; the file "
            "is damaged or made to fill the memory: save it anew"
        )


def unpacked(path: str | os.PathLike[str]) -> io.BytesIO:
    """Return what a gzipped file holds; refuse what is packed more tightly than pixels ever are."""
    limit = max(FREE, TIGHTEST * os.path.getsize(path))
    with gzip.open(path) as file:
        data = io.BytesIO(file.read(limit + 1))
    if data.getbuffer().nbytes > limit:
        raise ImageFileError(
            f"{path}: got a file that unpacks to more than {TIGHTEST} times its size; unpack it (gunzip) and read that"
        )
    return data


def _unpacks_to_more(packed: Any, limit: int, codec: str) -> bool:
    if codec in ("blosc", "lz4"):
        return (blosc_size(packed) if codec == "blosc" else int.from_bytes(packed[:4], "little")) > limit
    if codec == "zstd":
        return _zstd_most(packed) > limit
    if codec in ("zlib", "gzip") and len(packed) * DEFLATE <= FREE:
        return False
    makers: dict[str, Any] = {"bz2": bz2.BZ2Decompressor, "lzma": lzma.LZMADecompressor}
    total = 0
    with contextlib.suppress(zlib.error, OSError, EOFError, lzma.LZMAError):  # whoever unpacks it will say so
        while packed and total <= limit:
            decoder = makers[codec]() if codec in makers else zlib.decompressobj(47)
            total += len(decoder.decompress(packed, limit + 1 - total))
            packed = b"" if codec == "zlib" else decoder.unused_data  # of gzip and others several may follow
    return total > limit


def _zstd_most(frame: memoryview) -> int:
    """Return the bytes that a Zstandard frame holds, or its blocks can (128 KiB each): RFC 8878, 3.1.1.2."""
    at, total = 0, 0
    while len(frame) > at + 5 and bytes(frame[at : at + 4]) == b"\x28\xb5\x2f\xfd":
        if (size := zstd_size(frame[at:])) >= 0:
            return total + size
        flags, last = frame[at + 4], 0
        at += 6 + (0, 1, 2, 4)[flags & 3]
        while not last and at + 3 <= len(frame):
            head = int.from_bytes(frame[at : at + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            total += size if kind < 2 else 2**17
            at += 3 + (1 if kind == 1 else size)
        at += 4 * (flags >> 2 & 1)
    return total if total > FREE else 0
