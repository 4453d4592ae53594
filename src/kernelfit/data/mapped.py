"""Arrays mapped from files, looked at before each reading: of a file that was cut meanwhile the process would die."""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.npz import ImageFileError


class Mapped(np.ndarray):
    """A view of pixels that lie in a file; a slice of it is a plain array, and an error if the file ends before."""

    _file: mmap.mmap
    _end: int

    def __getitem__(self, key: Any) -> Any:
        """Return pixels, if the file still holds them."""
        require_whole(self)
        return super().__getitem__(key).view(np.ndarray)


def plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array without the extras of its class; if it lies in a file, as one that looks before it reads."""
    out = array.view(np.ndarray)
    base: Any = array
    start = 0
    while base is not None and not isinstance(base, mmap.mmap):
        if isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap):
            start = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if base is None:
        return out
    view = out.view(Mapped)
    view._file, view._end = base, start + len(base)
    require_whole(view)
    return view


def require_whole(array: Mapped) -> None:
    """Refuse an array whose file has become shorter than it was when it was mapped."""
    file, end = getattr(array, "_file", None), getattr(array, "_end", 0)
    if file is None:
        return
    try:
        length = file.size()
    except (OSError, ValueError):  # memory without a file
        return
    if length < end:
        msg = f"got pixels mapped from a file of {end} bytes that has been cut to {length}; write it anew"
        raise ImageFileError(msg)
