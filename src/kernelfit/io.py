"""Image files in, kernel files out: PNG, TIFF and NPY are read, NPY is written.

Files are told apart by their first bytes, never by their names. Reading raises `ImageFileError` for a file that is not
a single gray plane, ``OSError`` for one that cannot be reached, and `MissingExtraError` when the package that reads its
format is not installed. Pixels come back as stored, in the file's own type: nothing is scaled, and colours are refused
rather than averaged.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import secrets
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageFileError", "MissingExtraError", "check_output", "read_image", "require", "write_npy"]

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\x93NUMPY": "NPY",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
_GRAY_MODES = {"1", "L", "F"}  # Pillow's names for one gray plane; 16- and 32-bit integers start with "I"


class ImageFileError(ValueError):
    """A file is damaged, of another format, or not one gray plane; the message says which and what to do."""


class MissingExtraError(ImportError):
    """A package that belongs to one of kernelfit's extras is not installed; the message names the extra."""


def require(module: str, *, package: str, extra: str, purpose: str) -> Any:
    """Import `module`, or raise a `MissingExtraError` that says which extra brings it.

    Parameters
    ----------
    module : str
        The module to import, such as ``"PIL.Image"``.
    package : str
        The name of its distribution, such as ``"pillow"``.
    extra : str
        The extra of kernelfit that installs it.
    purpose : str
        What it is needed for, as the start of a sentence.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f"{purpose} needs {package}, which cannot be imported; do: pip install 'kernelfit[{extra}]'"
        raise MissingExtraError(msg) from error


def read_image(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read one gray plane from a PNG, TIFF or NPY file, in the type it is stored in.

    Parameters
    ----------
    path : path-like
        The file. Its first bytes decide the format.

    Returns
    -------
    ndarray, shape (rows, cols)
        NPY files are memory-mapped read-only, so that an image larger than memory can be used.

    Raises
    ------
    OSError
        The file cannot be opened.
    ImageFileError
        It is empty, damaged, of another format, or holds colours, a palette, several planes or Python objects.
    MissingExtraError
        The package that reads this format is not installed.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(8)
    kind = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
    if kind is None:
        what = "an empty file" if not head else "a file of another format"
        msg = f"{path}: got {what}, need PNG, TIFF or NPY; convert it without loss first"
        raise ImageFileError(msg)
    reader = {"PNG": _read_png, "TIFF": _read_tiff, "NPY": _read_npy}[kind]
    try:
        with warnings.catch_warnings(), _quiet("tifffile", "PIL"):
            warnings.simplefilter("ignore")
            image = reader(path)
    except (ImageFileError, MissingExtraError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything over a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        msg = f"{path}: got unreadable {kind} data ({error}), need a whole file of plain numbers; save it anew"
        raise ImageFileError(msg) from error
    _judge_planes(path, image.shape)
    return image


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Say, before any work is done, whether `write_npy` could write to `path`; return it as a ``Path``.

    Raises
    ------
    ValueError
        The name does not end in ``.npy``, or something other than a plain file has it.
    FileExistsError
        The file exists and `overwrite` is false.
    OSError
        Its folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".npy":
        msg = f"got {path} for the kernel, need a name that ends in .npy; rename it"
        raise ValueError(msg)
    path = Path(os.path.realpath(path))  # a link is written through, not replaced
    if path.exists():
        if not stat.S_ISREG(path.stat().st_mode):
            msg = f"got {path} for the kernel, which is no plain file; choose another name"
            raise ValueError(msg)
        if not overwrite:
            raise FileExistsError(_exists(path))
    if not path.parent.is_dir():
        msg = f"got {path} for the kernel, but there is no folder {path.parent}; make it first"
        raise FileNotFoundError(msg)
    if not os.access(path.parent, os.W_OK):
        msg = f"got {path} for the kernel, but the folder {path.parent} is not writable; choose another"
        raise PermissionError(msg)
    return path


def write_npy(path: str | os.PathLike[str], array: NDArray[Any], *, overwrite: bool = False) -> None:
    """Write `array` as NPY, whole or not at all.

    The bytes go to a new file beside `path`, which then takes its name in one step: no reader sees half a kernel, and
    a failure leaves what was there before. Without `overwrite` an existing file is refused, also one that appeared
    meanwhile. Raises what `check_output` raises, and ``OSError`` when the disk does.
    """
    path = check_output(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _take_free_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _take_free_name(temporary: Path, path: Path) -> None:
    """Give `temporary` the name `path` unless that is taken, in one step where the file system has hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(_exists(path)) from None
    except OSError:
        if path.exists():
            raise FileExistsError(_exists(path)) from None
        os.replace(temporary, path)


def _exists(path: Path) -> str:
    return f"got {path} for the kernel, which exists already; choose another name or pass --force (overwrite=True)"


def _judge_planes(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse anything but one plane, saying what it looks like."""
    if len(shape) == 2:
        return
    sides = " x ".join(map(str, shape))
    if len(shape) == 3 and shape[-1] in (2, 3, 4):
        what = f"a colour image or one with alpha ({sides}, {shape[-1]} channels)"
        msg = f"{path}: got {what}, need one gray plane; choose a channel or convert both images to gray"
    elif len(shape) == 3:
        msg = f"{path}: got {shape[0]} planes ({sides}), need one gray plane; save the one you mean"
    else:
        msg = f"{path}: got an array of {len(shape)} dimensions ({sides}), need 2; save one gray plane"
    raise ImageFileError(msg)


def _read_npy(path: Path) -> NDArray[Any]:
    array: NDArray[Any]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an array without elements cannot be mapped; let the plain reader judge
        array = np.load(path, allow_pickle=False)
    return array


def _read_png(path: Path) -> NDArray[Any]:
    return _read_with_pillow(path, "PNG")


def _read_with_pillow(path: Path, kind: str) -> NDArray[Any]:
    pillow = require("PIL.Image", package="pillow", extra="cli", purpose=f"reading {kind}")
    try:
        with pillow.open(path, formats=[kind]) as picture:
            mode = str(picture.mode)
            if mode == "P":
                msg = f"{path}: got palette colours, need one gray plane; convert the image to gray first"
                raise ImageFileError(msg)
            if mode not in _GRAY_MODES and not mode.startswith("I"):
                _judge_planes(path, (*picture.size[::-1], len(picture.getbands())))
            return np.array(picture)
    except pillow.DecompressionBombError as error:
        msg = f"{path}: got an image too large for Pillow ({error}); save it as NPY, which has no limit"
        raise ImageFileError(msg) from error


def _read_tiff(path: Path) -> NDArray[Any]:
    tifffile = require("tifffile", package="tifffile", extra="cli", purpose="reading TIFF")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if page.photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE):
            what = "palette colours" if page.photometric == tifffile.PHOTOMETRIC.PALETTE else "zero for white"
            msg = f"{path}: got {what}, need gray values that grow with brightness; convert the image first"
            raise ImageFileError(msg)
        if len(tiff.series) > 1:
            msg = f"{path}: got {len(tiff.series)} images in one file, need one gray plane; save the one you mean"
            raise ImageFileError(msg)
        _judge_planes(path, tiff.series[0].shape)
        if page.compression in _PLAIN_TIFF or _has_codecs():
            image: NDArray[Any] = tiff.series[0].asarray()
            return image
    return _read_with_pillow(path, "TIFF")


_PLAIN_TIFF = (1, 8, 32946)  # uncompressed, and the two names of deflate: what tifffile decodes on its own


def _has_codecs() -> bool:
    return importlib.util.find_spec("imagecodecs") is not None


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep the named loggers from writing to stderr: what matters is raised."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
