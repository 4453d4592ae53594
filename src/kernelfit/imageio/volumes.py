"""Volumes from and to files: arrays of three axes in NPY, HDF5, Zarr and FITS, and stacks of pages in TIFF."""

import collections
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.npz import ImageFileError, reading
from .planes import Choice
from .read import kind_of, open_tiff, quiet, read_array, tiff_pixels

SUFFIXES = (".npy", ".tif", ".tiff", ".fits")
#: Bytes of pages that are kept.
_KEPT = 2**26


def read_volume(
    path: str | os.PathLike[str],
    *,
    hdu: int | str | None = None,
    dataset: str | None = None,
    allow_external: bool = False,
) -> Any:
    """Read an array of three axes, (planes, rows, columns), in the type it is stored in.

    Parameters
    ----------
    path : path-like
        The file: a TIFF of several gray pages, NPY, HDF5, FITS, or the folder of a Zarr array or group. Its first bytes
        decide the format.
    hdu : int or str, optional
        Which HDU of a FITS file, by number from 0 or by name; the default is the only one that holds an image.
    dataset : str, optional
        Which array of an HDF5 or Zarr file; the default is the only one.
    allow_external : bool, optional
        Whether pixels that lie in other files, which this one names, are read; the default refuses them.

    Returns
    -------
    array, shape (planes, rows, columns)
        NPY files and plain TIFF files are memory-mapped read-only, pages of others and the blocks of HDF5 and Zarr
        arrays are read when they are used, so that a volume larger than memory can be used.

    Raises
    ------
    OSError
        The file cannot be opened.
    ImageFileError
        It is damaged, of another format, or holds no array of three axes.
    MissingExtraError
        The package that reads this format is not installed.
    """
    path, choice = Path(path), Choice(None, hdu, dataset, None, False, allow_external)
    kind = kind_of(path)
    with reading(str(path), f"unreadable {kind} data", "a whole file of plain numbers; save it anew"), quiet():
        array = _of_pages(path, choice) if kind == "TIFF" else read_array(path, choice)
    shape = tuple(array.shape)
    if len(shape) != 3 or 0 in shape:
        sides = " x ".join(map(str, shape))
        raise ImageFileError(f"{path}: got an array of {sides}, need planes, rows and columns for a volume")
    return array


def _of_pages(path: Path, choice: Choice) -> Any:
    """Return the pages of a TIFF file."""
    choice.refuse_unused(path, "TIFF")
    with open_tiff(path, choice) as tiff:
        series = tiff.series
        shape = tuple(n for n in series[0].shape if n > 1) if series else ()
        key = tiff.pages.first
        gray = key.samplesperpixel == 1 and getattr(key.photometric, "name", "") == "MINISBLACK"
        if len(series) != 1 or len(shape) != 3 or not gray:
            kinds = f"{len(series)} images" if len(series) > 1 else f"pages of shape {series[0].shape}"
            raise ImageFileError(f"{path}: got {kinds} in one file, need a stack of gray pages of one size")
        dtype = np.dtype(series[0].dtype).newbyteorder(tiff.byteorder)
        if series[0].dataoffset is not None:  # all of it lies together
            if series[0].dataoffset + math.prod(shape) * dtype.itemsize > path.stat().st_size:
                raise ImageFileError(f"{path}: got a file that ends before its pixels do; save it anew")
            return np.memmap(path, dtype, "r", series[0].dataoffset, shape)
        if len(tiff.pages) != shape[0]:
            raise ImageFileError(f"{path}: got {len(tiff.pages)} pages for {shape[0]} planes, need one for each")
    return _Pages(path, choice, shape, dtype)


class _Pages:
    """A stack of TIFF pages that are unpacked when they are asked for; the last ones are kept."""

    def __init__(self, path: Path, choice: Choice, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
        self.shape, self.dtype = shape, dtype
        self._path, self._choice, self._lock = path, choice, threading.Lock()
        self._kept: collections.OrderedDict[int, NDArray[Any]] = collections.OrderedDict()
        self._most = max(2, _KEPT // max(1, math.prod(shape[1:]) * dtype.itemsize))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        planes, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(planes, slice):
            return np.asarray(self._page(range(self.shape[0])[planes])[tuple(rest)])
        wanted = range(*planes.indices(self.shape[0]))
        parts = [self._page(at)[tuple(rest)] for at in wanted]
        return np.stack(parts) if parts else np.zeros((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _page(self, at: int) -> NDArray[Any]:
        with self._lock:
            if at not in self._kept:
                with reading(str(self._path), "unreadable TIFF data", "a whole file; save it anew"), quiet():
                    with open_tiff(self._path, self._choice) as tiff:
                        found = tiff_pixels(self._path, tiff, tiff.pages[at].aspage())
                if found.shape != self.shape[1:]:
                    raise ImageFileError(f"{self._path}: got a page of shape {found.shape}, need {self.shape[1:]}")
                self._kept[at] = found
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(at)
            kept: NDArray[Any] = self._kept[at]
            return kept
