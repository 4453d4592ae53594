"""Difference images out: FITS with variance and mask in extensions, NPZ, TIFF, or the pixels alone."""

from pathlib import Path
from typing import Any

import numpy as np

from ..core.npz import Writer
from . import fits_headers
from .planes import require
from .write import fits_writer

SUFFIXES = (".fits", ".npz", ".tif", ".tiff", ".npy")
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
