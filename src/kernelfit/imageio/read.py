"""Image files in: PNG, JPEG, TIFF, NPY, FITS, HDF5 and Zarr, one gray plane of each.

Files are told apart by their first bytes, never by their names. Reading raises `ImageFileError` for a file that is not
a single gray plane, ``OSError`` for one that cannot be reached, and `MissingExtraError` when the package that reads its
format is not installed. Pixels come back as stored, in the file's own type: nothing is scaled, and colours are refused
rather than averaged, unless a channel is asked for. Pictures that say how the camera was held are turned upright.
"""

import contextlib
import errno
import importlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .planes import (
    Choice,
    ImageFileError,
    MissingExtraError,
    judge_planes,
    pick_plane,
    require,
)

__all__ = ["ImageFileError", "MissingExtraError", "read_image", "require"]
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\x93NUMPY": "NPY",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
    b"\xff\xd8\xff": "JPEG",
    b"SIMPLE  =": "FITS",
    b"\x1f\x8b": "FITS",  # by gzip: astropy sees to it
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"PK\x03\x04": "ZIP",
}
_GRAY_MODES = {"1", "L", "F"}  # Pillow's names for one gray plane; 16- and 32-bit integers start with "I"


def read_image(
    path: str | os.PathLike[str],
    *,
    page: int | None = None,
    hdu: int | str | None = None,
    dataset: str | None = None,
    channel: int | str | None = None,
    colours: bool = False,
) -> Any:
    """Read one gray plane from an image file, in the type it is stored in.

    Parameters
    ----------
    path : path-like
        The file: PNG, JPEG, TIFF, NPY, FITS (gzipped or not), HDF5, or the folder of a Zarr array or group. Its first
        bytes decide the format. ``"-"`` reads NPY from the standard input.
    page : int, optional
        Which page of a TIFF file, or plane of a stack (first axis), from 0.
    hdu : int or str, optional
        Which HDU of a FITS file, by number from 0 or by name; the default is the only one that holds an image.
    dataset : str, optional
        Which array of an HDF5 or Zarr file; the default is the only one.
    channel : int or str, optional
        Which channel of a colour image (last axis): from 0, or "red", "green", "blue" or "alpha"; or "luma", the gray
        value of red, green and blue, ``0.299 r + 0.587 g + 0.114 b`` (Rec. ITU-R BT.601), or of gray with alpha. A luma
        of colours is of floats, which no longer tell whether a colour was saturated: give `find_kernel` a mask of that.
    colours : bool, optional
        Whether a colour image is returned whole, (rows, cols, 2 to 4 channels), rather than refused; default False.

    Returns
    -------
    array, shape (rows, cols)
        NPY files are memory-mapped read-only, HDF5 and Zarr arrays are read block by block when they are used, so that
        an image larger than memory can be used. An HDF5 file is open as long as its array is: ``image.file.close()``.

    Raises
    ------
    OSError
        The file cannot be opened.
    ImageFileError
        It is empty, damaged, of another format, or holds colours, a palette, several planes or Python objects, and no
        choice says which plane is meant.
    MissingExtraError
        The package that reads this format is not installed.
    """
    choice = Choice(page, hdu, dataset, channel, colours)
    path = Path(path)
    if str(path) == "-":
        name, kind, source = "<stdin>", "NPY", sys.stdin.buffer.read()
    else:
        name, source = str(path), b""
        kind = kind_of(path)
    from . import scientific

    try:
        with warnings.catch_warnings(), _quiet("tifffile", "PIL", "astropy"):
            warnings.simplefilter("ignore")
            if kind == "NPY":
                image = _read_npy(path, choice) if name != "<stdin>" else _from_stdin(source, choice)
            elif kind in _READERS:
                image = _READERS[kind](path, choice)
            else:
                image = {"FITS": scientific.read_fits, "HDF5": scientific.read_hdf5, "Zarr": scientific.read_zarr}[
                    kind
                ](path, choice)
    except (ImageFileError, MissingExtraError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything over a damaged file
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise
        msg = f"{name}: got unreadable {kind} data ({error}), need a whole file of plain numbers; save it anew"
        raise ImageFileError(msg) from error
    judge_planes(name, tuple(image.shape), colours)
    return image


def kind_of(path: Path) -> str:
    """Return the format of a file, by its first bytes, or of a folder that holds a Zarr array."""
    if path.is_dir():
        if is_zarr(path):
            return "Zarr"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.is_fifo():
        msg = f"{path}: got a pipe, need a file; or - for NPY on the standard input"
        raise ImageFileError(msg)
    with path.open("rb") as file:
        head = file.read(512)
    kind = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
    if kind == "ZIP" and path.name.lower().endswith(".zarr.zip"):
        return "Zarr"
    if kind is None or kind == "ZIP":
        what = "an empty file" if not head else "a NumPy archive" if kind == "ZIP" else "a file of another format"
        msg = f"{path}: got {what}, need PNG, JPEG, TIFF, NPY, FITS, HDF5 or Zarr; convert it without loss first"
        raise ImageFileError(msg)
    return kind


def is_zarr(path: Path) -> bool:
    """Say whether a folder holds a Zarr array or group."""
    return any((path / marker).exists() for marker in ("zarr.json", ".zarray", ".zgroup"))


_ORIENTATION = 274  # the tag of EXIF and TIFF


def _read_npy(path: Path, choice: Choice) -> Any:
    choice.refuse_unused(path, "NPY", page=True, channel=True)
    array: NDArray[Any]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an array without elements cannot be mapped; let the plain reader judge
        array = np.load(path, allow_pickle=False)
    return pick_plane(path, array, choice)


def _from_stdin(data: bytes, choice: Choice) -> Any:
    if not data.startswith(b"\x93NUMPY"):
        msg = f"<stdin>: got {'nothing' if not data else 'a file of another format'}, need NPY on the standard input"
        raise ImageFileError(msg)
    choice.refuse_unused("<stdin>", "NPY", page=True, channel=True)
    return pick_plane("<stdin>", np.load(io.BytesIO(data), allow_pickle=False), choice)


def _read_png(path: Path, choice: Choice) -> Any:
    return _read_with_pillow(path, "PNG", choice)


def _read_jpeg(path: Path, choice: Choice) -> Any:
    return _read_with_pillow(path, "JPEG", choice)


def _read_with_pillow(path: Path, kind: str, choice: Choice) -> Any:
    from . import png

    choice.refuse_unused(path, kind, page=kind == "TIFF", channel=True)
    pillow = require("PIL.Image", package="pillow", extra="cli", purpose=f"reading {kind}")
    try:
        with pillow.open(path, formats=[kind]) as picture:
            if choice.page is not None:
                picture.seek(choice.page)
            if kind == "PNG" and getattr(picture, "n_frames", 1) > 1:
                msg = f"{path}: got an animation of {picture.n_frames} frames, need one image; save a frame by itself"
                raise ImageFileError(msg)
            mode = str(picture.mode)
            if mode == "P":
                msg = f"{path}: got palette colours, need one gray plane; convert the image to gray first"
                raise ImageFileError(msg)
            if mode not in ("RGB", "RGBA", "LA") and mode not in _GRAY_MODES and not mode.startswith("I"):
                msg = f"{path}: got colours of the kind {mode}, need gray or RGB; convert the image first"
                raise ImageFileError(msg)
            if choice.channel is None and len(picture.getbands()) > 1:
                judge_planes(path, (*picture.size[::-1], len(picture.getbands())), choice.colours)
            array = png.read(path) if kind == "PNG" and png.is_deep(path) else np.array(picture)
            tags = picture.tag_v2 if kind == "TIFF" else picture.getexif()
            array = upright(array, tags.get(_ORIENTATION, 1))
            return pick_plane(path, array, Choice(channel=choice.channel))
    except pillow.DecompressionBombError as error:
        msg = f"{path}: got an image too large for Pillow ({error}); save it as NPY, which has no limit"
        raise ImageFileError(msg) from error


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image (rows, cols, ...) the way its orientation tag, 1 to 8, says that it is to be seen."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _read_tiff(path: Path, choice: Choice) -> Any:
    choice.refuse_unused(path, "TIFF", page=True, channel=True)
    tifffile = require("tifffile", package="tifffile", extra="cli", purpose="reading TIFF")
    with tifffile.TiffFile(path) as tiff:
        at = choice.page or 0
        if not 0 <= at < len(tiff.pages):
            msg = f"{path}: got page={at}, need 0 to {len(tiff.pages) - 1}"
            raise ImageFileError(msg)
        page = tiff.pages[at].aspage()
        kind = getattr(page.photometric, "name", "")
        if kind in _OTHER_TIFF and not (kind == "YCBCR" and page.compression in (6, 7)):  # JPEG comes out as RGB
            need = "RGB, or gray that grows with brightness"
            msg = f"{path}: got {_OTHER_TIFF[kind]}, need {need}; convert the image first"
            raise ImageFileError(msg)
        one = page
        if choice.page is None:
            if len(tiff.series) > 1:
                sizes = f"{len(tiff.series)} images in one file"
                msg = f"{path}: got {sizes}, need one gray plane; choose a page (--page 0, page=0)"
                raise ImageFileError(msg)
            one = tiff.series[0]
        colours = page.samplesperpixel > 1
        shape = one.shape
        if colours and len(shape) == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            shape = (*shape[1:], shape[0])
        if choice.channel is None:
            judge_planes(path, shape, choice.colours)
        if page.compression in _PLAIN_TIFF or _has_codecs():
            array = one.asarray()
            if shape != one.shape:
                array = np.moveaxis(array, 0, -1)
            if array.ndim == 2 or colours:
                tag = page.tags.get(_ORIENTATION)
                array = upright(array, 1 if tag is None else int(tag.value))
            return pick_plane(path, array, Choice(channel=choice.channel))
        if colours and page.bitspersample > 8:
            msg = (
                f"{path}: got colours of {page.bitspersample} bits packed by {page.compression.name}, need them packed "
                "by deflate or not at all; convert the file, or pip install imagecodecs"
            )
            raise ImageFileError(msg)
    return _read_with_pillow(path, "TIFF", choice)


_READERS = {"PNG": _read_png, "JPEG": _read_jpeg, "TIFF": _read_tiff}
_OTHER_TIFF = {  # what the numbers of a TIFF file may be beside gray and RGB
    "PALETTE": "palette colours",
    "MINISWHITE": "zero for white",
    "SEPARATED": "colours of the kind CMYK",
    **dict.fromkeys(("YCBCR", "CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV"), "luma and chroma"),
}
_PLAIN_TIFF = (1, 8, 32946)  # uncompressed, and the two names of deflate: what tifffile decodes on its own


def _has_codecs() -> bool:
    return importlib.util.find_spec("imagecodecs") is not None


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep the named loggers from writing to stderr, those that exist: what matters is raised.

    (To ask for one would make it, and astropy, imported later, could then not make its own.)
    """
    loggers = [each for name in names if isinstance(each := logging.root.manager.loggerDict.get(name), logging.Logger)]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
