"""Kernels on disk: bare numbers (NPY, CSV, TXT), or with their conventions and errors (JSON, FITS, TIFF, NPZ)."""

import dataclasses
import io as std_io
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.channel_split import split_channels
from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.geometry import Convention, convention_from, default_origin
from ..core.npz import write_whole
from ..core.serialization import load_estimate, save_estimate
from .read import ImageFileError, read_image, require

Array = npt.NDArray[np.float64]
SUFFIXES = (".npy", ".csv", ".txt", ".tif", ".tiff", ".fits", ".json", ".npz")
_FITS_KEYS = {"mode": "KFMODE", "boundary": "KFBOUND", "fillvalue": "KFFILL", "operation": "KFOPER"}
_FITS_PAIRS = (("KFSTRD", 1), ("KFOFFS", 0))


@dataclass(frozen=True, eq=False)
class KernelFile:
    """What a kernel file holds.

    Attributes
    ----------
    kernel : ndarray
    stderr : ndarray or None
        The errors of the taps, where the file has them.
    convention : Convention or None
        How the kernel lies on an image, where the file says so.
    fit : KernelFit or None
        The whole result, from NPZ.
    verdict : str
        The verdict when it was found, empty if unknown.
    """

    kernel: Array
    stderr: Array | None = None
    convention: Convention | None = None
    fit: Estimate | None = None
    verdict: str = ""

    def as_fit(self) -> Estimate:
        """Return the whole result if the file has it, or one made of what there is, with the taps' own errors."""
        if self.fit is not None:
            return self.fit
        shape = self.kernel.shape
        return Estimate(
            kernel=self.kernel,
            factor=None if self.stderr is None else np.diag(self.stderr.ravel()),
            noise_std=math.nan,
            rank=self.kernel.size,
            condition=math.nan,
            rss=math.nan,
            r_squared=math.nan,
            n_pixels=0,
            convention=self.convention or Convention(origin=default_origin((shape[-2], shape[-1]))),
            uncertainty="posterior",
        )

    def planes(self) -> "dict[str, KernelFile]":
        """Return each kernel by itself where the file holds those of several channels, under the channels' names."""
        if self.kernel.ndim == 2:
            return {"": self}
        if self.fit is not None:
            fits = split_channels(self.fit)
            return {
                name: dataclasses.replace(self, kernel=one.kernel, stderr=one.stderr, fit=one)
                for name, one in fits.items()
            }
        found = {}
        for at in np.ndindex(self.kernel.shape[:-2]):
            errors = None if self.stderr is None else self.stderr[at]
            name = " from ".join(f"channel {channel}" for channel in at)
            found[name] = dataclasses.replace(self, kernel=self.kernel[at], stderr=errors)
        return found


def as_dict(fit: Estimate) -> dict[str, Any]:
    """Return a result as plain types for JSON, with None for what is not finite."""
    plain = (
        "noise_std rank condition rss r_squared n_pixels method method_reason refined iterations solver uncertainty "
        "freedom strength log_evidence"
    ).split()
    return {
        "kind": "kernelfit kernel",
        "kernel": fit.kernel.tolist(),
        "stderr": finite(fit.stderr.tolist()),
        "convention": dataclasses.asdict(fit.convention),
        "verdict": {"name": fit.verdict.name, "ok": fit.verdict.ok, "text": fit.verdict.value},
        "findings": [{"name": f.verdict.name, "detail": f.detail, "text": f.verdict.value} for f in fit.findings],
        "channels": fit.channels,
        "background": None
        if fit.background is None
        else {
            "degree": fit.background.degree,
            "coefficients": fit.background.coefficients.tolist(),
            "stderr": finite(fit.background.stderr.tolist()),
        },
        **{name: finite(getattr(fit, name)) for name in plain},
    }


def finite(value: Any) -> Any:
    """Return the value with None in the place of each number that JSON has no word for."""
    if isinstance(value, list):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_kernel(path: Path, fit: Estimate, *, overwrite: bool = False) -> None:
    """Write a kernel in the format that the name says, whole or not at all."""
    suffix, what = path.suffix.lower(), "the kernel"
    kernel = np.ascontiguousarray(fit.kernel)
    if suffix == ".npz":
        save_estimate(fit, path, overwrite=overwrite)
        return
    if suffix in (".csv", ".txt"):
        if kernel.ndim != 2:
            msg = f"got a kernel of shape {kernel.shape} for {path.name}, need rows and columns; write .npy or .json"
            raise ValueError(msg)
        text = std_io.StringIO()
        header = "" if suffix == ".csv" else f"kernel found by kernelfit: {fit.convention}\nverdict: {fit.verdict.name}"
        np.savetxt(text, kernel, fmt="%.17g", delimiter="," if suffix == ".csv" else " ", header=header)
        data = text.getvalue().encode()
    elif suffix == ".json":
        data = (json.dumps(as_dict(fit), indent=1, allow_nan=False) + "\n").encode()
    elif suffix in (".tif", ".tiff"):
        tifffile = require("tifffile", package="tifffile", extra="cli", purpose="writing TIFF")
        fields = {"kind": "kernelfit kernel", "convention": dataclasses.asdict(fit.convention)}
        note = json.dumps({**fields, "shape": kernel.shape})  # by which tifffile knows the axes of a stack of planes
        buffer = std_io.BytesIO()
        tifffile.imwrite(buffer, kernel, description=note, metadata=None, photometric="minisblack")
        data = buffer.getvalue()
    elif suffix == ".fits":
        data = _fits_bytes(kernel, fit)
    else:
        buffer = std_io.BytesIO()
        np.save(buffer, kernel, allow_pickle=False)
        data = buffer.getvalue()
    write_whole(path, lambda file: file.write(data), what, overwrite=overwrite)


def _fits_bytes(kernel: Array, fit: Estimate) -> bytes:
    """Return a FITS file: the kernel with its convention in the header, and an extension ERROR."""
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="writing FITS")
    first = fits.PrimaryHDU(kernel)
    for name, key in _FITS_KEYS.items():
        value = getattr(fit.convention, name)
        first.header[key] = ("none" if value is None else value, f"convention: {name}")
    first.header["KFORIG0"] = (fit.convention.origin[0], "tap over the output pixel: row")
    first.header["KFORIG1"] = (fit.convention.origin[1], "tap over the output pixel: column")
    for name, (key, _) in zip(("stride", "offset"), _FITS_PAIRS, strict=True):
        for axis in range(2):
            first.header[f"{key}{axis}"] = (getattr(fit.convention, name)[axis], f"convention: {name}")
    first.header["KFVERD"] = (fit.verdict.name, "verdict of kernelfit")
    if math.isfinite(fit.noise_std):
        first.header["KFNOISE"] = (fit.noise_std, "noise of a target pixel")
    buffer = std_io.BytesIO()
    fits.HDUList([first, fits.ImageHDU(fit.stderr, name="ERROR")]).writeto(buffer)
    return buffer.getvalue()


def read_kernel(path: str) -> KernelFile:
    """Read a kernel file that `write_kernel` wrote, or a bare array in NPY, CSV, TXT, TIFF or FITS.

    Raises
    ------
    OSError
        The file cannot be opened.
    ImageFileError
        It is damaged, of another format, or holds no kernel of finite numbers.
    """
    if path != "-":
        with open(path, "rb") as file:
            head = file.read(16)
    else:
        head = b""
    suffix = Path(path).suffix.lower()
    try:
        if head.lstrip()[:1] == b"{":
            found = _from_json(Path(path).read_text(encoding="utf-8"))
        elif head.startswith(b"PK"):
            fit = load_estimate(path)
            found = KernelFile(fit.kernel, fit.stderr, fit.convention, fit, fit.verdict.value)
        elif suffix in (".csv", ".txt") and head:
            found = KernelFile(_from_text(path, "," if suffix == ".csv" else None))
        elif head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
            msg = f"{path}: got a picture, need a kernel's numbers: {', '.join(SUFFIXES)}"
            raise ImageFileError(msg)
        elif head.startswith(b"SIMPLE  ="):
            found = _from_fits(path)
        elif head.startswith(b"\x93NUMPY"):
            found = KernelFile(np.load(path, allow_pickle=False))
        elif head[:2] in (b"II", b"MM"):
            found = _from_tiff(path)
        else:
            found = KernelFile(np.asarray(read_image(path)))
    except ImageFileError:
        raise
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        msg = f"{path}: got no kernel that can be read ({error}), need one of {', '.join(SUFFIXES)}"
        raise ImageFileError(msg) from error
    kernel = found.kernel
    if kernel.dtype.kind not in "biuf" or not kernel.size or not np.isfinite(kernel).all():
        msg = f"{path}: got taps that are not all finite real numbers, need a kernel of numbers"
        raise ImageFileError(msg)
    if kernel.ndim not in (2, 3, 4):
        msg = f"{path}: got an array of shape {kernel.shape}, need rows and columns, after axes of channels if any"
        raise ImageFileError(msg)
    return dataclasses.replace(found, kernel=np.asarray(found.kernel, dtype=np.float64))


def _from_json(text: str) -> KernelFile:
    fields = json.loads(text)
    kernel = np.array(fields["kernel"], dtype=np.float64)
    errors = fields.get("stderr")
    stderr = None if errors is None else np.array(errors, dtype=np.float64)
    convention = fields.get("convention")
    return KernelFile(
        kernel,
        None if stderr is None or not np.isfinite(stderr).all() else stderr,
        None if convention is None else convention_from(convention),
        verdict=str((fields.get("verdict") or {}).get("text", "")),
    )


def _from_text(path: str, delimiter: str | None) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a file without any numbers
        return np.loadtxt(path, delimiter=delimiter, ndmin=2, dtype=np.float64)


def _from_fits(path: str) -> KernelFile:
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="reading FITS")
    try:
        with fits.open(path, memmap=False) as hdus:
            first = next(hdu for hdu in hdus if getattr(hdu, "is_image", False) and hdu.shape)
            kernel, header = np.array(first.data), first.header
            errors = np.array(hdus["ERROR"].data, dtype=np.float64) if "ERROR" in hdus else None
    except (OSError, StopIteration, TypeError) as error:
        msg = f"{path}: got unreadable FITS data ({error}), need a whole file with an image"
        raise ImageFileError(msg) from error
    convention = None
    if "KFMODE" in header:
        fields = {name: header[key] for name, key in _FITS_KEYS.items()}
        fields["boundary"] = None if fields["boundary"] == "none" else fields["boundary"]
        stride, offset = ((header.get(f"{key}0", n), header.get(f"{key}1", n)) for key, n in _FITS_PAIRS)
        origin = (header["KFORIG0"], header["KFORIG1"])
        convention = Convention(origin=origin, stride=stride, offset=offset, **fields)
    if errors is not None and (errors.shape != kernel.shape or not np.isfinite(errors).all()):
        errors = None
    name = str(header.get("KFVERD", ""))
    return KernelFile(kernel, errors, convention, verdict=Verdict[name].value if name in Verdict.__members__ else name)


def _from_tiff(path: str) -> KernelFile:
    """Read a TIFF file, and the convention that one of ours carries in its description."""
    tifffile = require("tifffile", package="tifffile", extra="cli", purpose="reading TIFF")
    with tifffile.TiffFile(path) as file:
        kernel, note = np.asarray(file.asarray()), file.pages.first.description
    try:
        return KernelFile(kernel, convention=convention_from(json.loads(note)["convention"]))
    except (ValueError, KeyError, TypeError):
        if kernel.ndim != 2:
            msg = f"{path}: got an image of shape {kernel.shape}, need a kernel's rows and columns"
            raise ImageFileError(msg) from None
        return KernelFile(kernel)
