"""Colours of 16 bits in PNG files, of which Pillow would keep 8 (W3C, Portable Network Graphics, third edition)."""

import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 4: 2, 6: 4}  # of each type of colour: RGB, gray with alpha, RGB with alpha


def is_deep(path: Path) -> bool:
    """Whether a PNG file holds several channels of 16 bits."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24:25] == b"\x10" and head[25] in _CHANNELS


def read(path: Path) -> npt.NDArray[np.uint16]:
    """Read a file that `is_deep` is true for: (rows, cols, channels)."""
    data, at = path.read_bytes(), len(SIGNATURE)
    packed, kind = [], b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise ValueError(f"the chunk {kind!r} is damaged")
        packed += [body] if kind == b"IDAT" else []
        at += 12 + length
    n_cols, n_rows, _, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if interlaced:
        raise ValueError("its colours of 16 bits are interlaced, which is not read")
    n_bytes = 2 * _CHANNELS[colour]
    size = n_rows * (1 + n_cols * n_bytes)
    data = zlib.decompressobj().decompress(b"".join(packed), size + 1)
    if len(data) != size:
        msg = f"its pixels unpack to {'more' if len(data) > size else 'less'} than the {size} bytes of its header"
        raise ValueError(msg)
    lines = np.frombuffer(data, np.uint8).reshape(n_rows, 1 + n_cols * n_bytes)
    pixels = np.zeros((1 + n_rows, 1 + n_cols, n_bytes), np.uint8)  # zero above the first row, and left of it
    pixels[1:, 1:] = lines[:, 1:].reshape(n_rows, n_cols, n_bytes)
    _undo(pixels, lines[:, 0])
    return pixels[1:, 1:].copy().view(">u2").astype(np.uint16)


def _undo(pixels: npt.NDArray[np.uint8], filters: npt.NDArray[np.uint8]) -> None:
    """Add to each byte what its row's filter predicts from the pixels to the left, above, and above to the left.

    By diagonals that run down to the left, whose pixels do not depend on one another: in memory they are a constant
    step apart.
    """
    n_rows, width = len(filters), pixels.shape[1]
    flat = pixels.reshape(-1, pixels.shape[2])
    for diagonal in range(2, n_rows + width):  # the pixels (row, diagonal - row), from row 1 and column 1
        top, bottom = max(1, diagonal - width + 1), min(n_rows, diagonal - 1)
        first, n = top * width + diagonal - top, bottom - top + 1

        def shifted(by: int, first: int = first, n: int = n) -> npt.NDArray[np.int16]:
            return flat[first - by :: width - 1][:n].astype(np.int16)

        left, up, corner = shifted(1), shifted(width), shifted(width + 1)
        far = [np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)]
        nearest = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
        guess = np.choose(filters[top - 1 : bottom, None], [0, left, up, (left + up) // 2, nearest])
        flat[first :: width - 1][:n] += guess.astype(np.uint8)


def write(file: BinaryIO, pixels: npt.NDArray[Any]) -> None:
    """Write 16-bit pixels (rows, cols, channels), each row as its difference from the one above."""
    n_rows, n_cols, n_channels = pixels.shape
    values = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(n_rows, -1)
    lines = np.full((n_rows, 1 + values.shape[1]), 2, np.uint8)
    lines[:, 1:] = np.diff(values, axis=0, prepend=np.uint8(0) * values[:1])
    colour = next(code for code, count in _CHANNELS.items() if count == n_channels)
    head = struct.pack(">IIBBBBB", n_cols, n_rows, 16, colour, 0, 0, 0)
    file.write(SIGNATURE)
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")):
        file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
