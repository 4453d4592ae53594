"""Files out: checked before any work, written whole or not at all, never over an existing file unasked."""

import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..io import require

IMAGE_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".fits")


def check_output(
    path: str | os.PathLike[str], suffixes: Sequence[str], what: str, *, overwrite: bool = False
) -> Path | None:
    """Say, before any work is done, whether a file could be written; return its path, None for the standard output.

    Parameters
    ----------
    path : path-like
        The file, or "-" for the standard output.
    suffixes : sequence of str
        The endings that a name may have.
    what : str
        What is to be written, for the message: "the kernel".
    overwrite : bool, optional
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        The name has another ending, or something other than a plain file has it, or the standard output is a terminal.
    FileExistsError
        The file exists and `overwrite` is false.
    OSError
        Its folder does not exist or cannot be written to.
    """
    if str(path) == "-" and ".npy" in suffixes:
        if sys.stdout.isatty():
            msg = f"got - for {what}, which would fill the terminal with bytes; need a pipe, as in | program"
            raise ValueError(msg)
        return None
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        msg = f"got {path} for {what}, need a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}; rename it"
        raise ValueError(msg.replace("in  or ", "in "))
    path = Path(os.path.realpath(path))  # a link is written through, not replaced
    if path.exists():
        if not stat.S_ISREG(path.stat().st_mode):
            msg = f"got {path} for {what}, which is no plain file; choose another name"
            raise ValueError(msg)
        if not overwrite:
            raise FileExistsError(_exists(path, what))
    if not path.parent.is_dir():
        msg = f"got {path} for {what}, but there is no folder {path.parent}; make it first"
        raise FileNotFoundError(msg)
    if not os.access(path.parent, os.W_OK):
        msg = f"got {path} for {what}, but the folder {path.parent} is not writable; choose another"
        raise PermissionError(msg)
    return path


def write_whole(path: Path, write: Callable[[BinaryIO], object], what: str, *, overwrite: bool = False) -> None:
    """Let `write` fill a new file beside `path`, which then takes its name in one step.

    No reader sees half a file, and a failure leaves what was there before. Without `overwrite` an existing file is
    refused, also one that appeared meanwhile.
    """
    path = Path(os.path.realpath(path))
    if not overwrite and path.exists():
        raise FileExistsError(_exists(path, what))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _take_free_name(temporary, path, what)
    finally:
        temporary.unlink(missing_ok=True)


def _take_free_name(temporary: Path, path: Path, what: str) -> None:
    """Give `temporary` the name `path` unless that is taken, in one step where the file system has hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(_exists(path, what)) from None
    except OSError:
        if path.exists():
            raise FileExistsError(_exists(path, what)) from None
        os.replace(temporary, path)


def _exists(path: Path, what: str) -> str:
    return f"got {path} for {what}, which exists already; choose another name or pass --force (overwrite=True)"


def write_stdout(array: NDArray[Any]) -> None:
    """Write an array as NPY to the standard output."""
    np.save(sys.stdout.buffer, array, allow_pickle=False)
    sys.stdout.buffer.flush()


def require_writer(path: str | os.PathLike[str]) -> None:
    """Import what writes a file of this name, or say which extra brings it, before any work."""
    suffix = Path(path).suffix.lower()
    if suffix in (".png", ".jpg", ".jpeg"):
        require("PIL.Image", package="pillow", extra="cli", purpose="writing pictures")
    elif suffix in (".tif", ".tiff"):
        require("tifffile", package="tifffile", extra="cli", purpose="writing TIFF")
    elif suffix == ".fits":
        require("astropy.io.fits", package="astropy", extra="io", purpose="writing FITS")


def write_image(path: Path, image: NDArray[Any], like: np.dtype[Any], *, overwrite: bool = False) -> int:
    """Write an image (rows, cols) or (rows, cols, channels) in the format that the name says.

    PNG and JPEG hold whole numbers: the pixels are rounded to the type `like` (8 bits for JPEG, 8 or 16 for PNG) and
    cut off at its ends. The other formats hold them as they are, in float32 (TIFF) or float64.

    Parameters
    ----------
    path : Path
        The file, as `check_output` returns it.
    image : ndarray
        The pixels.
    like : dtype
        The type of the image that it was made of.
    overwrite : bool, optional
        Whether an existing file may be replaced.

    Returns
    -------
    int
        How many pixels were cut off.
    """
    suffix, cut = path.suffix.lower(), 0
    if suffix in (".png", ".jpg", ".jpeg"):
        pillow = require("PIL.Image", package="pillow", extra="cli", purpose="writing pictures")
        wide = suffix == ".png" and like.kind in "ui" and like.itemsize == 2 and image.ndim == 2
        top = 65535 if wide else 255
        if like.kind == "b":
            image = image * 255.0
        elif like.kind == "f" and image.size and np.nanmax(np.abs(image)) <= 4.0:
            msg = (
                f"got pixels of type {like} up to {np.nanmax(np.abs(image)):.3g} for {path.name}, which holds whole "
                "numbers from 0; write .tif, .npy or .fits, which hold them as they are"
            )
            raise ValueError(msg)
        rounded = np.rint(image)
        cut = int(np.count_nonzero((rounded < 0) | (rounded > top)))
        pixels = np.clip(rounded, 0, top).astype(np.uint16 if wide else np.uint8)
        kind = "PNG" if suffix == ".png" else "JPEG"
        write_whole(
            path, lambda file: pillow.fromarray(pixels).save(file, kind, quality=95), "the image", overwrite=overwrite
        )
    elif suffix in (".tif", ".tiff"):
        tifffile = require("tifffile", package="tifffile", extra="cli", purpose="writing TIFF")
        pixels = np.ascontiguousarray(image, dtype=np.float32)
        photometric = "rgb" if image.ndim == 3 and image.shape[-1] in (3, 4) else "minisblack"
        write_whole(
            path, lambda file: tifffile.imwrite(file, pixels, photometric=photometric), "the image", overwrite=overwrite
        )
    elif suffix == ".fits":
        fits = require("astropy.io.fits", package="astropy", extra="io", purpose="writing FITS")
        data = io.BytesIO()  # astropy asks for a mode of the file that ours has not
        fits.PrimaryHDU(np.asarray(image)).writeto(data)
        write_whole(path, lambda file: file.write(data.getvalue()), "the image", overwrite=overwrite)
    else:
        write_whole(path, lambda file: np.save(file, image, allow_pickle=False), "the image", overwrite=overwrite)
    return cut
