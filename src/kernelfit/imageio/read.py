"""Image files in: PNG, JPEG, BMP, WebP, TIFF, NPY, FITS, HDF5, Zarr and tables of numbers, one gray plane of each.

Files are told apart by their first bytes, never by their names. Reading raises `ImageFileError` for a file that is not
a single gray plane, ``OSError`` for one that cannot be reached, and `MissingExtraError` when the package that reads its
format is not installed. Pixels come back as stored, in the file's own type: nothing is scaled, and colours are refused
rather than averaged, unless a channel is asked for. Pictures that say how the camera was held are turned upright.
"""

import contextlib
import errno
import functools
import io
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.npz import ImageFileError, reading, require_length, require_plain
from . import limits, scientific
from .planes import Choice, MissingExtraError, judge_planes, pick_plane, require

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
    b"BM": "BMP",
    b"P5": "PGM",
    b"P6": "PGM",
}
_FORMATS = "PNG, JPEG, BMP, WebP, PGM, TIFF, NPY, FITS, HDF5, Zarr or a table of numbers"
_TABLE = re.compile(rb"(\xef\xbb\xbf)?(\s*#[^\n]*\n)*\s*([-+.\d]|nan|inf)[\t\n\r\x20-\x7e]*", re.IGNORECASE)
_GRAY_MODES = {"1", "L", "F"}  # Pillow's names for one gray plane; 16- and 32-bit integers start with "I"


def read_image(
    path: str | os.PathLike[str],
    *,
    page: int | None = None,
    hdu: int | str | None = None,
    dataset: str | None = None,
    channel: int | str | None = None,
    colours: bool = False,
    allow_external: bool = False,
) -> Any:
    """Read one gray plane from an image file, in the type it is stored in.

    Parameters
    ----------
    path : path-like
        The file: PNG, JPEG, BMP, WebP, PGM or PPM (binary), TIFF, NPY, FITS (gzipped or not), HDF5, the folder of a
        Zarr array or group, or a text of numbers (CSV, TXT), a row in each line. Its first bytes decide the format.
        ``"-"`` reads NPY from the standard input.
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
    allow_external : bool, optional
        Whether pixels that lie in other files, which this one names, are read: external storage and virtual datasets of
        HDF5, companions of an OME-TIFF, links inside a Zarr folder that lead outside. The default refuses them.

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
        It is empty, damaged, of another format, would unpack to more than its header promises, or holds colours,
        several planes or Python objects, and no choice says which plane is meant. Damage of what is read when it is
        used comes out then.
    MissingExtraError
        The package that reads this format is not installed.
    """
    choice = Choice(page, hdu, dataset, channel, colours, allow_external)
    path = Path(path)
    stdin = str(path) == "-"
    name, kind = ("<stdin>", "NPY") if stdin else (str(path), kind_of(path))
    with reading(name, f"unreadable {kind} data", "a whole file of plain numbers; save it anew"), quiet():
        image = (
            _from_stdin(sys.stdin.buffer.read() if sys.stdin else b"", choice)
            if stdin
            else _READERS[kind](path, choice)
        )
    judge_planes(name, tuple(image.shape), colours)
    return image


def read_array(path: Path, choice: Choice) -> Any:
    """Return the whole array of a file, of however many axes it is."""
    return _READERS[kind_of(path)](path, choice)


def is_of_another_format(path: Path) -> bool:
    """Return whether a file is none that is read."""
    try:
        return not kind_of(path)
    except ImageFileError:
        return True


def kind_of(path: Path) -> str:
    """Return the format of a file, by its first bytes, or of a folder that holds a Zarr array."""
    if path.is_dir():
        if is_zarr(path):
            return "Zarr"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    require_plain(path)
    with path.open("rb") as file:
        head = file.read(512)
    kind = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
    if kind == "ZIP" and path.name.lower().endswith(".zarr.zip"):
        return "Zarr"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if kind is None and _TABLE.fullmatch(head):
        return "table"
    names, _, rows = head.partition(b"\n")
    if kind is None and rows.strip() and _TABLE.fullmatch(rows) and names.decode("latin-1").strip().isprintable():
        raise ImageFileError(
            f"{path}: got a table with names in its first line, as signals have, need numbers alone for a picture; "
            "--lags FIRST,LAST finds the kernel of signals, kernelfit.io.read_signal reads them"
        )
    if kind is None or kind == "ZIP":
        what = "an empty file" if not head else "a NumPy archive" if kind == "ZIP" else "a file of another format"
        raise ImageFileError(f"{path}: got {what}, need {_FORMATS}; convert it without loss first")
    return kind


def is_zarr(path: Path) -> bool:
    """Say whether a folder holds a Zarr array or group."""
    return any((path / marker).exists() for marker in ("zarr.json", ".zarray", ".zgroup"))


_ORIENTATION = 274  # the tag of EXIF and TIFF


def _read_npy(path: Path, choice: Choice) -> Any:
    choice.refuse_unused(path, "NPY", page=True, channel=True)
    with path.open("rb") as file:
        require_length(file, os.fstat(file.fileno()).st_size)
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
    require_length(file := io.BytesIO(data), len(data))
    return pick_plane("<stdin>", np.load(file, allow_pickle=False), choice)


def read_table(path: str | Path) -> NDArray[Any]:
    """Read a text of numbers, complex ones as ``1.5-2j``, between commas, semicolons (1,5), tabs or blanks."""
    text = Path(path).read_text(encoding="utf-8-sig")
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = next((mark for mark in ";,\t" if mark in first), None)
    text = text.replace(",", ".") if delimiter == ";" else text
    number = np.complex128 if "j" in first.lower() else np.float64
    return np.loadtxt(io.StringIO(text), delimiter=delimiter, ndmin=2, dtype=number)


def _read_table(path: Path, choice: Choice) -> Any:
    choice.refuse_unused(path, "a table of numbers")
    return read_table(path)


def _read_with_pillow(path: Path, choice: Choice, kind: str) -> Any:
    choice.refuse_unused(path, kind, channel=True)
    pillow = require("PIL.Image", package="pillow", extra="cli", purpose=f"reading {kind}")
    try:
        with pillow.open(path, formats=[kind]) as picture:
            if kind in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) > 1:
                msg = f"{path}: got an animation of {picture.n_frames} frames, need one image; save a frame by itself"
                raise ImageFileError(msg)
            mode, n_bands = str(picture.mode), len(picture.getbands())
            if mode not in ("P", "RGB", "RGBA", "LA") and mode not in _GRAY_MODES and not mode.startswith("I"):
                msg = f"{path}: got colours of the kind {mode}, need gray or RGB; convert the image first"
                raise ImageFileError(msg)
            n_bytes = n_bands * (4 if mode[0] in "IF" else 1)
            limits.require_possible(path, picture.width * picture.height * n_bytes, path.stat().st_size)
            if choice.channel is None and n_bands > 1:
                judge_planes(path, (*picture.size[::-1], n_bands), choice.colours)
            if mode == "P":
                array = _gray_if_possible(  # the colours that it stands for
                    np.array(picture.convert("RGBA" if "transparency" in picture.info else "RGB"))
                )
            else:
                deep = _deep_png(path) if kind == "PNG" and n_bands > 1 else None
                array = np.array(picture) if deep is None else deep
            array = upright(array, picture.getexif().get(_ORIENTATION, 1))
            return pick_plane(path, array, Choice(channel=choice.channel))
    except pillow.DecompressionBombError as error:
        msg = f"{path}: got an image too large for Pillow ({error}); save it as NPY, which has no limit"
        raise ImageFileError(msg) from error


def _deep_png(path: Path) -> Any:
    """Return colours of 16 bits, of which Pillow would keep 8; None for those of 8."""
    data = path.read_bytes()
    if data[24:25] != b"\x10":
        return None
    codecs = require("imagecodecs", package="imagecodecs", extra="cli", purpose="reading PNG files of 16-bit colours")
    return codecs.png_decode(data)


def _gray_if_possible(pixels: NDArray[Any]) -> NDArray[Any]:
    gray = (pixels[..., :3] == pixels[..., :1]).all()
    opaque = pixels.shape[-1] == 3 or (pixels[..., 3] == 255).all()
    if gray:
        return pixels[..., 0] if opaque else pixels[..., [0, 3]]
    return pixels[..., :3] if opaque else pixels


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image (rows, cols, ...) the way its orientation tag, 1 to 8, says that it is to be seen."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _read_tiff(path: Path, choice: Choice) -> Any:
    choice.refuse_unused(path, "TIFF", page=True, channel=True)
    with open_tiff(path, choice) as tiff:
        at = choice.page or 0
        if not 0 <= at < len(tiff.pages):
            raise ImageFileError(f"{path}: got page={at}, need 0 to {len(tiff.pages) - 1}")
        page = tiff.pages[at].aspage()
        kind = getattr(page.photometric, "name", "")
        if kind in _OTHER_TIFF and not (kind == "YCBCR" and page.compression in (6, 7)):  # JPEG comes out as RGB
            need = "RGB, or gray that grows with brightness"
            raise ImageFileError(f"{path}: got {_OTHER_TIFF[kind]}, need {need}; convert the image first")
        one = page
        if choice.page is None:
            if len(tiff.series) > 1:
                sizes = f"{len(tiff.series)} images in one file"
                raise ImageFileError(f"{path}: got {sizes}, need one gray plane; choose a page (--page 0, page=0)")
            one = tiff.series[0]
        colours = page.samplesperpixel > 1
        shape = one.shape
        if colours and len(shape) == 3 and getattr(page.planarconfig, "name", "") == "SEPARATE":
            shape = (*shape[1:], shape[0])
        if choice.channel is None:
            judge_planes(path, shape, choice.colours)
        if page.compression not in (1, *_DEFLATE_TIFF):  # which tifffile decodes on its own
            require("imagecodecs", package="imagecodecs", extra="cli", purpose="reading packed TIFF")
        array = tiff_pixels(path, tiff, one)
        if shape != one.shape:
            array = np.moveaxis(array, 0, -1)
        if kind == "PALETTE" and page.colormap is not None:
            array = _gray_if_possible(np.moveaxis(_palette_of(page)[:, array], 0, -1))
            colours = array.ndim == 3
            judge_planes(path, array.shape, choice.colours or choice.channel is not None)
        if array.ndim == 2 or colours:
            tag = page.tags.get(_ORIENTATION)
            array = upright(array, 1 if tag is None else int(tag.value))
        return pick_plane(path, array, Choice(channel=choice.channel))


def _palette_of(page: Any) -> NDArray[Any]:
    """Return the colours of a TIFF's palette, in 8 bits if it holds no more."""
    table = np.asarray(page.colormap)
    for step in (257, 256):
        if not (table % step).any():
            return (table // step).astype(np.uint8)
    return table


@contextlib.contextmanager
def open_tiff(path: Path, choice: Choice) -> Iterator[Any]:
    """Open a TIFF file, and nothing beside it unless that is allowed."""
    tifffile = require("tifffile", package="tifffile", extra="cli", purpose="reading TIFF")
    alone: dict[str, Any] = {} if choice.allow_external else {"is_mmstack": False, "is_ndtiff": False}
    with tifffile.TiffFile(path, _multifile=choice.allow_external, **alone) as tiff:
        if not len(tiff.pages):
            raise ImageFileError(f"{path}: got a TIFF file without an image, need one with a page")
        text = tiff.ome_metadata or "" if choice.page is None else ""
        own = set(re.findall(r"<(?:\w+:)?OME\b[^>]*\bUUID=[\"']([^\"']+)", text))
        files = set(re.findall(r"<(?:\w+:)?UUID\b[^>]*\bFileName=[^>]*>\s*([^<\s]+)", text)) - own
        if len(files) > (not own) or "BinaryOnly" in text:
            choice.refuse_external(path, "planes of an OME-TIFF in other files")
        yield tiff


def tiff_pixels(path: Path, tiff: Any, one: Any) -> NDArray[Any]:
    """Return the pixels of a page or a series of pages, none of whose strips unpacks to more than it should."""
    length = path.stat().st_size
    limits.require_possible(path, one.nbytes, length)
    for page in [one] if hasattr(one, "dataoffsets") else one.pages:
        if page is not None and len(page.dataoffsets) < (whole := math.prod(page.keyframe.chunked)):
            some = f"{len(page.dataoffsets)} of the {whole} strips or tiles"  # the rest would be zeros
            raise ImageFileError(f"{path}: got {some} of an image, the file is damaged or cut short; save it anew")
        if page is not None and page.keyframe.compression in _DEFLATE_TIFF:
            key = page.keyframe
            if not isinstance(key.bitspersample, int):
                raise ImageFileError(f"{path}: got samples of {key.bitspersample} bits, need one size; save it anew")
            limit = (math.prod(key.chunks) * key.bitspersample + 7) // 8 + 1024
            for start, size in zip(page.dataoffsets, page.databytecounts, strict=False):
                if start < length:
                    tiff.filehandle.seek(start)
                    limits.require_bounded(path, tiff.filehandle.read(min(size, length - start)), limit)
    return np.asarray(one.asarray())


_OTHER_TIFF = {  # what the numbers of a TIFF file may be beside gray and RGB
    "MINISWHITE": "zero for white",
    "SEPARATED": "colours of the kind CMYK",
    **dict.fromkeys(("YCBCR", "CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV"), "luma and chroma"),
}
_DEFLATE_TIFF = (8, 32946)
_LAST_RESORT = logging.lastResort


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep decoders from warning on stderr: what matters is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logging.lastResort = logging.NullHandler()
            yield
        finally:
            logging.lastResort = _LAST_RESORT


_READERS: dict[str, Callable[[Path, Choice], Any]] = {
    **{kind: functools.partial(_read_with_pillow, kind=kind) for kind in ("PNG", "JPEG", "BMP", "WEBP")},
    "PGM": read_netpbm,
    "TIFF": _read_tiff,
    "NPY": _read_npy,
    "table": _read_table,
    "FITS": scientific.read_fits,
    "HDF5": scientific.read_hdf5,
    "Zarr": scientific.read_zarr,
}
