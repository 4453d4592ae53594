"""Binary PGM and PPM files, as they are: one or three planes of 8 or 16 bits."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..core.npz import ImageFileError
from .planes import Choice, judge_planes, pick_plane

_HEADER = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:#[^\n]*\n)*\s")


def read_netpbm(path: Path, choice: Choice) -> Any:
    """Read one image; of 16 bits the first byte is the higher (the format's own page, netpbm.sourceforge.net/doc)."""
    choice.refuse_unused(path, "PGM or PPM", channel=True)
    data = path.read_bytes()
    found = _HEADER.match(data[:4096])
    if found is None:
        raise ImageFileError(f"{path}: got a PGM or PPM file with a damaged header, need width, height and white")
    cols, rows, white = (int(found[i]) for i in (2, 3, 4))
    bands = 1 if found[1] == b"5" else 3
    kind = np.dtype(np.uint8 if white < 256 else ">u2")
    count = rows * cols * bands
    if not 0 < white < 65536 or count == 0 or len(data) - found.end() < count * kind.itemsize:
        raise ImageFileError(f"{path}: got {len(data)} bytes for {rows} x {cols} x {bands} pixels, need a whole file")
    pixels = np.frombuffer(data, kind, count, found.end()).reshape(rows, cols, bands).astype(kind.newbyteorder("="))
    if bands == 1:
        return pick_plane(path, pixels[..., 0], choice)
    if choice.channel is None:
        judge_planes(path, pixels.shape, choice.colours)
    return pick_plane(path, pixels, choice)
