"""Kernels on disk: bare numbers (NPY, CSV, TXT), or with their conventions and errors (JSON, FITS, TIFF, NPZ)."""

import dataclasses
import io as std_io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..analysis.channel_split import split_channels
from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.geometry import Convention, convention_from, default_origin
from ..core.npz import ImageFileError, Writer, reading, require_length, require_plain, write_whole
from ..core.serialization import estimate_writer, load_estimate, require_kernel
from ..core.validation import Array, complex_of
from .planes import Choice, require
from .read import is_of_another_format, open_tiff, quiet, read_image, read_table, tiff_pixels
from .scientific import fits_pixels, open_fits
from .signals import is_wav, load, number_format, signal_writer

SUFFIXES = (".npy", ".csv", ".txt", ".tif", ".tiff", ".fits", ".json", ".npz")
_FITS_KEYS = {"mode": "KFMODE", "boundary": "KFBOUND", "fillvalue": "KFFILL", "operation": "KFOPER"}
_FITS_PAIRS = {"origin": ("KFORIG", None), "stride": ("KFSTRD", 1), "offset": ("KFOFFS", 0)}
_MOST_TEXT = 2**28
_COMPLEX = (".npz", ".npy", ".json", ".csv", ".txt")  # formats that hold complex numbers


@dataclass(frozen=True, eq=False)
class KernelFile:
    """What a kernel file holds."""

    kernel: Array
    stderr: Array | None = None  # the errors of the taps, where the file has them
    convention: Convention | None = None  # how the kernel lies on an image, where the file says so
    fit: Estimate | None = None  # the whole result, from NPZ
    verdict: str = ""  # the verdict when it was found, empty if unknown

    @property
    def of_signals(self) -> bool:
        """Whether it is a kernel of signals."""
        return self.kernel.ndim == 1 or (self.convention is not None and self.convention.ndim == 1)

    @property
    def of_volumes(self) -> bool:
        """Whether it is a kernel of volumes."""
        return self.kernel.ndim == 3 and (self.convention is None or self.convention.ndim == 3)

    def as_fit(self) -> Estimate:
        """Return the whole result if the file has it, or one made of what there is, with the taps' own errors."""
        if self.fit is not None:
            return self.fit
        if self.of_signals:
            side: Any = ((self.kernel.shape[-1] - 1) // 2,)
            plain = Convention(origin=side, stride=cast(Any, (1,)), offset=cast(Any, (0,)), ndim=1)
        else:
            plain = Convention(origin=default_origin((self.kernel.shape[-2], self.kernel.shape[-1])))
        if self.kernel.dtype.kind == "c":
            plain = dataclasses.replace(plain, numbers="complex")
        return Estimate(
            kernel=self.kernel,
            root=None if self.stderr is None else np.diag(_parts(self.stderr)),
            noise_std=math.nan,
            rank=self.kernel.size,
            condition=math.nan,
            rss=math.nan,
            r_squared=math.nan,
            n_pixels=0,
            convention=self.convention or plain,
            uncertainty="posterior",
        )

    def like(self, other: "KernelFile") -> "KernelFile":
        """Return bare numbers as a kernel of what another file says: of a volume, or of samples whose lags it knows."""
        theirs, shape, numbers = other.convention, self.kernel.shape, self.kernel.dtype.kind
        if theirs is None or self.convention is not None:
            return self
        if theirs.ndim == 1 and (shape, numbers) == (other.kernel.shape, other.kernel.dtype.kind):
            return dataclasses.replace(self, convention=theirs)  # numbers have no lags of their own
        if theirs.ndim != 3 or len(shape) != 3:
            return self
        sides: Any = tuple((side - 1) // 2 for side in shape)
        plain: Any = {"stride": (1, 1, 1), "offset": (0, 0, 0), "ndim": 3}
        return dataclasses.replace(self, convention=Convention(origin=sides, **plain))

    def planes(self) -> "dict[str, KernelFile]":
        """Return each kernel by itself where the file holds those of several channels, under the channels' names."""
        own = 1 if self.of_signals else 2
        whole = self.kernel.dtype.kind == "c"
        if not whole and (self.kernel.ndim == own or (self.of_volumes and self.convention is not None)):
            return {"": self}
        if whole or self.fit is not None or (self.convention is not None and self.convention.field is not None):
            fits = split_channels(self.as_fit())
            return {
                name: dataclasses.replace(self, kernel=one.kernel, stderr=one.stderr, fit=one)
                for name, one in fits.items()
            }
        found = {}
        for at in np.ndindex(self.kernel.shape[:-own]):
            errors = None if self.stderr is None else self.stderr[at]
            name = " from ".join(f"channel {channel}" for channel in at)
            found[name] = dataclasses.replace(self, kernel=self.kernel[at], stderr=errors)
        return found


def _parts(values: Any) -> Array:
    """Return numbers as a vector, of complex ones the real parts and then the others."""
    flat = np.ravel(values)
    return np.concatenate([flat.real, flat.imag]) if flat.dtype.kind == "c" else flat


def as_dict(fit: Estimate) -> dict[str, Any]:
    """Return a result as plain types for JSON, with None for what is not finite."""
    plain = (
        "noise_std rank condition rss r_squared n_pixels method method_reason refined iterations solver uncertainty "
        "df_model strength log_evidence"
    ).split()
    return {
        "kind": "kernelfit kernel",
        "kernel": finite(fit.kernel.tolist()),
        "stderr": finite(fit.stderr.tolist()),
        "convention": fit.convention.stored(),
        "verdict": {"name": fit.verdict.name, "ok": fit.verdict.ok, "text": fit.verdict.value},
        "findings": [{"name": f.verdict.name, "detail": f.detail, "text": f.text} for f in fit.findings],
        "found": list(fit.found),
        "channels": fit.channels,
        "background": None
        if fit.background is None
        else {
            "degree": fit.background.degree,
            "coefficients": finite(fit.background.coefficients.tolist()),
            "stderr": finite(fit.background.stderr.tolist()),
        },
        "curve": None
        if fit.curve is None
        else {
            "family": fit.curve.family,
            "side": fit.curve.side,
            "scale": list(fit.curve.scale),
            "parameters": dict(zip(fit.curve.names, fit.curve.parameters.tolist(), strict=True)),
            "stderr": dict(zip(fit.curve.names, fit.curve.stderr.tolist(), strict=True)),
        },
        "registration": None
        if fit.registration is None
        else {
            "kind": fit.registration.kind,
            "matrix": fit.registration.matrix.tolist(),
            "stderr": fit.registration.stderr.tolist(),
            "displacement": fit.registration.displacement.tolist(),
            "displacement_stderr": fit.registration.displacement_stderr.tolist(),
            "parameters": {name: list(both) for name, both in fit.registration.parameters.items()},
        },
        "freedom": finite(fit.df_model),  # its name until 0.13
        **{name: finite(getattr(fit, name)) for name in plain},
    }


def finite(value: Any) -> Any:
    """Return the value with None for each number that JSON has no word for, and complex ones as real and imag."""
    if isinstance(value, list):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, complex):
        return {"real": finite(value.real), "imag": finite(value.imag)}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_kernel(path: Path, fit: Estimate, *, overwrite: bool = False) -> None:
    """Write a kernel in the format that the name says, whole or not at all."""
    write_whole(path, kernel_writer(path, fit), "the kernel", overwrite=overwrite)


def kernel_writer(path: Path, fit: Estimate, rate: int | None = None) -> Writer:
    """Return what writes a kernel in the format that the name says; `rate` is that of a WAV file."""
    suffix = path.suffix.lower()
    kernel = np.ascontiguousarray(fit.kernel)
    require_complex(path.name, fit.kernel.dtype)
    if suffix == ".npz":
        return estimate_writer(fit)
    if suffix == ".wav":
        if fit.convention.ndim > 1:
            raise ValueError(f"got the kernel of images for {path.name}, need one of signals; write .npy or .npz")
        return signal_writer(path, kernel.reshape(-1, kernel.shape[-1]).T if kernel.ndim > 1 else kernel, rate)
    if suffix in (".csv", ".txt"):
        if kernel.ndim != fit.convention.ndim or kernel.ndim > 2:
            msg = f"got a kernel of shape {kernel.shape} for {path.name}, need rows and columns; write .npy or .json"
            raise ValueError(msg)
        text = std_io.StringIO()
        header = "" if suffix == ".csv" else f"kernel found by kernelfit: {fit.convention}\nverdict: {fit.verdict.name}"
        np.savetxt(text, kernel, fmt=number_format(kernel), delimiter="," if suffix == ".csv" else " ", header=header)
        data = text.getvalue().encode()
    elif suffix == ".json":
        data = (json.dumps(as_dict(fit), indent=1, allow_nan=False) + "\n").encode()
    elif suffix in (".tif", ".tiff"):
        if fit.convention.ndim == 1:
            raise ValueError(f"got a signal's kernel for {path.name}, need .wav, .npy, .npz, .json, .csv or .fits")
        tifffile = require("tifffile", package="tifffile", extra="cli", purpose="writing TIFF")
        fields = {"kind": "kernelfit kernel", "convention": fit.convention.stored()}
        note = json.dumps({**fields, "shape": kernel.shape})  # by which tifffile knows the axes of a stack of planes
        buffer = std_io.BytesIO()
        tifffile.imwrite(buffer, kernel, description=note, metadata=None, photometric="minisblack")
        data = buffer.getvalue()
    elif suffix == ".fits":
        data = _fits_bytes(kernel, fit)
    else:
        return lambda file: np.save(file, kernel, allow_pickle=False)
    return lambda file: file.write(data)


def require_complex(name: str, *dtypes: Any) -> None:
    """Refuse a name whose format does not hold the kernel that complex numbers give."""
    if any(np.dtype(one).kind == "c" for one in dtypes) and not name.lower().endswith(_COMPLEX):
        raise ValueError(f"got {name} for a complex kernel, need {', '.join(_COMPLEX)}; choose another name")


def _fits_bytes(kernel: Array, fit: Estimate) -> bytes:
    """Return a FITS file: the kernel with its convention in the header, and an extension ERROR."""
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="writing FITS")
    if fit.convention.field is not None:
        raise ValueError(
            "got a kernel that varies over the image, of which FITS headers cannot tell; write .npz or .json"
        )
    first = fits.PrimaryHDU(kernel)
    for name, key in _FITS_KEYS.items():
        value = getattr(fit.convention, name)
        first.header[key] = ("none" if value is None else value, f"convention: {name}")
    for name, (key, _) in _FITS_PAIRS.items():
        for axis, value in enumerate(getattr(fit.convention, name)):
            first.header[f"{key}{axis}"] = (value, f"convention: {name}")
    first.header["KFVERD"] = (fit.verdict.name, "verdict of kernelfit")
    if math.isfinite(fit.noise_std):
        first.header["KFNOISE"] = (fit.noise_std, "noise of a target pixel")
    buffer = std_io.BytesIO()
    fits.HDUList([first, fits.ImageHDU(fit.stderr, name="ERROR")]).writeto(buffer)
    return buffer.getvalue()


def read_kernel(path: str) -> KernelFile:
    """Read a kernel file that `write_kernel` wrote, or a bare array in NPY, CSV, TXT, TIFF or FITS."""
    # Raises OSError: the file cannot be opened. Raises ImageFileError: it is damaged, of another format, or holds no
    # kernel of finite numbers.
    head = b""
    if path != "-":
        require_plain(path)
        with open(path, "rb") as file:
            head = file.read(16)
    need = f"one of {', '.join(SUFFIXES)}"
    with reading(path, "no kernel that can be read", need, memory=True), quiet():
        if is_wav(path):
            causal: Any = {name: (value,) for name, value in (("origin", 0), ("stride", 1), ("offset", 0))}
            samples = np.asarray(load(path).samples, dtype=np.float64)
            return KernelFile(samples if samples.ndim == 1 else samples.T, convention=Convention(**causal, ndim=1))
        if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM", b"RIFF")):
            raise ImageFileError(f"{path}: got a picture, need a kernel's numbers: {', '.join(SUFFIXES)}")
        if head.lstrip()[:1] == b"{":
            found = _from_json(Path(path))
        elif head.startswith(b"PK"):
            fit = load_estimate(path)
            found = KernelFile(fit.kernel, fit.stderr, fit.convention, fit, fit.verdict.value)
        elif Path(path).suffix.lower() in (".csv", ".txt") and head:
            found = KernelFile(read_table(path))
        elif head.startswith(b"SIMPLE  ="):
            found = _from_fits(Path(path))
        elif head.startswith(b"\x93NUMPY"):
            with open(path, "rb") as file:
                require_length(file, os.fstat(file.fileno()).st_size)
                found = KernelFile(np.load(file, allow_pickle=False))
        elif head[:2] in (b"II", b"MM"):
            found = _from_tiff(Path(path))
        else:
            if path != "-" and is_of_another_format(Path(path)):
                raise ImageFileError(f"{path}: got a file of another format, need a kernel's numbers, {need}")
            found = KernelFile(np.asarray(read_image(path)))
        kernel = found.kernel
        if kernel.ndim not in (2, 3, 4) and not found.of_signals:
            msg = f"{path}: got an array of shape {kernel.shape}, need rows and columns, after axes of channels if any"
            raise ImageFileError(msg)
        require_kernel(kernel, None if found.fit is not None else found.stderr)
    number: Any = np.complex128 if kernel.dtype.kind == "c" else np.float64
    return dataclasses.replace(found, kernel=np.asarray(kernel, dtype=number))


def _from_json(path: Path) -> KernelFile:
    if path.stat().st_size > _MOST_TEXT:
        raise ImageFileError(
            f"{path}: got a JSON text of {path.stat().st_size} bytes, need at most {_MOST_TEXT}; save the kernel as NPZ"
        )
    fields = json.loads(path.read_text(encoding="utf-8"))
    errors, convention, verdict = (fields.get(name) for name in ("stderr", "convention", "verdict"))
    stderr = None if errors is None else _numbers(errors)
    return KernelFile(
        _numbers(fields["kernel"]),
        None if stderr is None or not np.isfinite(stderr).all() else stderr,
        None if convention is None else convention_from(convention),
        verdict=str(verdict.get("text", "") if isinstance(verdict, dict) else verdict or ""),
    )


def _numbers(value: Any) -> Any:
    """Return the numbers of a table in JSON, of complex ones with both parts."""
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    if not isinstance(first, dict):
        return np.array(value, dtype=np.float64)

    def part(one: Any, name: str) -> Any:
        return [part(v, name) for v in one] if isinstance(one, list) else one[name]

    real, imaginary = (np.array(part(value, name), dtype=np.float64) for name in ("real", "imag"))
    return complex_of(real, imaginary)


def _from_fits(path: Path) -> KernelFile:
    with open_fits(path) as hdus:
        first = next((hdu for hdu in hdus if getattr(hdu, "is_image", False) and hdu.shape), None)
        if first is None:
            raise ImageFileError(f"{path}: got unreadable FITS data, need a whole file with an image")
        kernel, header = np.array(fits_pixels(path, hdus, first)), first.header
        errors = np.array(fits_pixels(path, hdus, hdus["ERROR"]), dtype=np.float64) if "ERROR" in hdus else None
    convention = None
    if "KFMODE" in header:
        fields = {name: header[key] for name, key in _FITS_KEYS.items()}
        fields["boundary"] = None if fields["boundary"] == "none" else fields["boundary"]
        fields["ndim"] = next(n for n in (3, 2, 1) if f"KFORIG{n - 1}" in header)
        for name, (key, default) in _FITS_PAIRS.items():
            fields[name] = [header.get(f"{key}{axis}", default) for axis in range(fields["ndim"])]
        convention = convention_from(fields)
    if errors is not None and (errors.shape != kernel.shape or not np.isfinite(errors).all()):
        errors = None
    name = str(header.get("KFVERD", ""))
    return KernelFile(kernel, errors, convention, verdict=Verdict[name].value if name in Verdict.__members__ else name)


def _from_tiff(path: Path) -> KernelFile:
    """Read a TIFF file, and the convention that one of ours carries in its description."""
    with open_tiff(path, Choice()) as file:
        kernel, note = tiff_pixels(path, file, file.series[0]), file.pages.first.description
    try:
        fields = json.loads(note)["convention"]
    except (ValueError, KeyError, TypeError, RecursionError):  # somebody else's
        if kernel.ndim != 2:
            msg = f"{path}: got an image of shape {kernel.shape}, need a kernel's rows and columns"
            raise ImageFileError(msg) from None
        return KernelFile(kernel)
    return KernelFile(kernel, convention=convention_from(fields))
