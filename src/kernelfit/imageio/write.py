"""Files out: checked before any work, and written in the format that their names say."""

import io
import os
import stat
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..core.npz import Writer, exists, write_whole
from . import fits_headers
from .planes import require

IMAGE_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".fits")
_NONE: Mapping[str, Any] = {}
_PICTURES = {".png": (1, 2, 3, 4), ".jpg": (1, 3), ".jpeg": (1, 3)}  # how many channels they hold


def check_output(
    path: str | os.PathLike[str], suffixes: Sequence[str], what: str, *, overwrite: bool = False
) -> Path | None:
    """Judge a file that is to be written, without writing; return its path, None for "-", the standard output."""
    # Other endings, files that exist unless `overwrite`, folders that cannot be written to, and terminals are refused.
    if str(path) == "-" and ".npy" in suffixes:
        if sys.stdout is None or sys.stdout.isatty():
            where = "a standard output that is closed" if sys.stdout is None else "a terminal, which bytes would fill"
            raise ValueError(f"got - for {what} on {where}; need a pipe, as in | program")
        return None
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        msg = f"got {path} for {what}, need a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}; rename it"
        raise ValueError(msg.replace("in  or ", "in "))
    path = Path(os.path.realpath(path))  # a link is written through, not replaced
    if path.exists():
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"got {path} for {what}, which is no plain file; choose another name")
        if not overwrite:
            raise FileExistsError(exists(path, what))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"got {path} for {what}, but there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"got {path} for {what}, but the folder {path.parent} is not writable; choose another")
    return path


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


def white_of(path: Path, image: Any, n_channels: int) -> int:
    """Say before any work what a file will hold for white, by the image's type; 0 for formats of plain numbers."""
    suffix, dtype = path.suffix.lower(), np.dtype(image.dtype)
    if suffix not in _PICTURES:
        return 0
    if n_channels not in _PICTURES[suffix]:
        others = ".png, .tif, .npy or .fits" if n_channels in _PICTURES[".png"] else ".tif, .npy or .fits"
        msg = f"got {n_channels} channels for {path.name}, which cannot hold them (alpha among them); write {others}"
        raise ValueError(msg)
    if dtype.kind == "b" or dtype.itemsize == 1:
        return 1 if dtype.kind == "b" else 255
    white = peak = 65535.0
    if dtype.kind == "f" or dtype.itemsize > 2:
        pixels = np.asarray(image)
        peak = float(np.abs(pixels[np.isfinite(pixels)]).max(initial=0))
        white = 255 if peak <= 255 else 65535
    if peak > white or (white > 255 and suffix != ".png") or (dtype.kind == "f" and peak <= 4.0):
        more = "" if peak > 65535 or suffix == ".png" else ".png (16 bits), "
        holds = f"whole numbers from 0 to {65535 if suffix == '.png' else 255}"
        raise ValueError(
            f"got pixels of type {dtype} up to {peak:.3g} for {path.name}, which holds {holds}; write "
            f"{more}.tif, .npy or .fits, which hold them as they are"
        )
    return int(white)


def representable(
    path: Path | None, image: NDArray[Any], white: int, *, holes: bool, nan: float | None = None
) -> NDArray[Any]:
    """Return the pixels with the value `nan` for NaN; refuse what the file has no value for, or overflows."""
    missing, name = np.isnan(image), "-" if path is None else path.name
    single = path is not None and path.suffix.lower() in (".tif", ".tiff")
    most = float(np.finfo(np.float32 if single else np.float64).max)
    beyond = ~(np.abs(image) <= most) & ~(missing & holes)
    if beyond.any():
        need = "write .npy or .fits, which hold 64 bits" if single else "need an image and a kernel of smaller numbers"
        msg = f"got {np.count_nonzero(beyond)} pixels that are infinite or larger than {most:.3g} for {name}; {need}"
        raise ValueError(msg)
    if nan is not None and missing.any():
        image, missing = np.where(missing, nan, image), np.isnan([nan])
    if white and missing.any():
        msg = f"got {np.count_nonzero(missing)} pixels that are NaN for {name}, which has no value for them"
        raise ValueError(f"{msg}; say what to write there (--nan VALUE), or write .tif, .npy or .fits")
    return image


def fits_writer(image: NDArray[Any], header: Any = None, extensions: Mapping[str, Any] = _NONE) -> Writer:
    """Return what writes a FITS file: an image with a header, and arrays with headers in extensions of some names."""
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="writing FITS")
    data = io.BytesIO()  # astropy asks for a mode of the file that ours has not
    hdus = [fits.PrimaryHDU(np.asarray(image), header)]
    hdus += [fits.ImageHDU(array, cards, name=name) for name, (array, cards) in extensions.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cards that were not to the letter before
        fits.HDUList(hdus).writeto(data, output_verify="silentfix+ignore")
    return lambda file: file.write(data.getvalue())


def array_writer(path: Path, array: NDArray[Any], header: Any = None, photometric: str = "minisblack") -> Writer:
    """Return what writes an array as the name says: TIFF in float32; FITS, with a header, and NPY as it is."""
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        tifffile = require("tifffile", package="tifffile", extra="cli", purpose="writing TIFF")
        pixels = np.ascontiguousarray(array, dtype=np.float32)
        return lambda file: tifffile.imwrite(file, pixels, photometric=photometric)
    return fits_writer(array, header) if suffix == ".fits" else lambda file: np.save(file, array, allow_pickle=False)


def write_image(path: Path, image: NDArray[Any], white: int = 0, *, overwrite: bool = False, header: Any = None) -> int:
    """Write an image in the format that the name says, PNG and JPEG rounded and cut off; return how many were cut."""
    suffix, cut = path.suffix.lower(), 0
    if image.dtype.kind == "c" and suffix != ".npy":
        raise ValueError(f"got complex pixels for {path.name}, need .npy, which holds them; choose another name")
    if white:
        pillow = require("PIL.Image", package="pillow", extra="cli", purpose="writing pictures")
        top = max(white, 255)
        rounded = np.rint(image * 255.0 if white == 1 else image)
        cut = int(np.count_nonzero((rounded < 0) | (rounded > top)))
        pixels = np.clip(rounded, 0, top).astype(np.uint16 if white > 255 else np.uint8)
        kind = "PNG" if suffix == ".png" else "JPEG"

        def write(file: BinaryIO) -> None:
            if white > 255 and pixels.ndim == 3:
                codecs = require("imagecodecs", package="imagecodecs", extra="cli", purpose="writing 16-bit colours")
                file.write(codecs.png_encode(np.ascontiguousarray(pixels)))
            else:
                pillow.fromarray(pixels).save(file, kind, quality=95)

        writer: Writer = write
    else:
        photometric = "rgb" if image.ndim == 3 and image.shape[-1] in (3, 4) else "minisblack"
        writer = array_writer(path, image, header, photometric)
    write_whole(path, writer, "the image", overwrite=overwrite)
    return cut


DIFFERENCE_SUFFIXES = (".fits", ".npz", ".tif", ".tiff", ".npy")
#: Bits of the extension MASK.
_MASKED, _OUTLIER = 1, 2


def difference_writer(path: Path, made: Any, header: Any) -> Writer:
    """Return what writes a `DifferenceImage` as the name says, `header` being the science image's for FITS."""
    suffix = path.suffix.lower()
    flags = (_MASKED * made.mask + _OUTLIER * made.rejected).astype(np.uint8)
    decorrelation = {} if made.decorrelation is None else {"decorrelation": made.decorrelation}
    if suffix == ".npz":
        planes = {"image": made.image, "variance": made.variance, "mask": made.mask, "rejected": made.rejected}
        return lambda file: np.savez(file, allow_pickle=False, **planes, **decorrelation, kernel=made.fit.kernel)
    if suffix == ".npy":
        return lambda file: np.save(file, made.image, allow_pickle=False)
    if suffix in (".tif", ".tiff"):
        tifffile = require("tifffile", package="tifffile", extra="cli", purpose="writing TIFF")
        stack = np.stack([made.image, made.variance, flags]).astype(np.float32)
        return lambda file: tifffile.imwrite(file, stack, photometric="minisblack")
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="writing FITS")
    cards = fits.Header() if header is None else header.copy()
    places = fits_headers.sky_of(cards)
    for key, value, words in (
        ("KFWHICH", made.which, "exposure that was convolved"),
        ("KFFACTOR", made.factor, "light of it in the other exposure"),
        ("KFNOISES", made.noise_std[0], "noise of a pixel of the science image"),
        ("KFNOISER", made.noise_std[1], "noise of a pixel of the reference"),
        ("KFDECORR", made.decorrelation is not None, "whether the noise was made white"),
        ("KFVERD", made.verdict.name, "verdict of kernelfit"),
    ):
        cards[key] = (value if not isinstance(value, float) or np.isfinite(value) else str(value), words)
    bits = places.copy()
    bits["KFBIT0"], bits["KFBIT1"] = (_MASKED, "bad, or reached by what is"), (_OUTLIER, "left out of the fit")
    extensions = {"VARIANCE": (made.variance, places), "MASK": (flags, bits), "KERNEL": (made.fit.kernel, None)}
    if made.decorrelation is not None:
        extensions["DECORRELATION"] = (made.decorrelation, None)
    return fits_writer(made.image, cards, extensions)
