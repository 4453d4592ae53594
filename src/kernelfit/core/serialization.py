"""A result as a header of plain values and arrays, as files hold it, and back."""

import dataclasses
import os
from typing import Any

import numpy as np

from . import curve, labels, npz, registration
from .background import Background
from .estimate import Estimate, Prior, Spectrum, StrengthPath
from .field import Omitted
from .findings import Finding, Verdict
from .geometry import convention_from
from .validation import Array, require_fields

#: Fields of a fit that a file holds in a form of their own.
_APART = (
    *("kernel", "root", "convention", "findings", "path", "priors", "spectrum", "background", "parts", "weights"),
    *("registration", "curve", "labels", "least_squares", "omitted"),
)

_LEAST_SQUARES = ("least_squares_taps", "least_squares_factor")


def packed(fit: Estimate) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what is stored of a result: a header of plain values, and the arrays."""
    header = {f.name: getattr(fit, f.name) for f in dataclasses.fields(fit) if f.name not in _APART}
    if not fit.call:  # which versions before 0.20 do not know
        del header["call"]
    header["convention"] = fit.convention.stored()
    header["findings"] = [[f.verdict.name, f.detail, *filter(None, [f.remedy])] for f in fit.findings]
    arrays = {"kernel": fit.kernel} | ({} if fit.root is None else {"factor": fit.root})
    header |= {name: _plain(getattr(fit, name)) for name in ("priors", "registration", "curve")}
    if fit.path is not None:
        header["criterion"] = fit.path.criterion
        for name in ("strength", "df_model", "rss", "score"):
            arrays[f"path_{name}"] = getattr(fit.path, name)
    if fit.least_squares is not None:
        arrays |= dict(zip(_LEAST_SQUARES, fit.least_squares, strict=True))
    if fit.omitted is not None:
        arrays |= {"omitted_shapes": fit.omitted.shapes, "omitted_mix": fit.omitted.mix}
    if fit.spectrum is not None:
        header["spectrum"] = _plain(fit.spectrum)
    if fit.weights is not None:
        several = isinstance(fit.weights, tuple)
        header["weights"] = len(fit.weights) if several else 0
        arrays |= {f"weights_{i}": w for i, w in enumerate(fit.weights if several else (fit.weights,))}
    if fit.background is not None:
        fields = {name: getattr(fit.background, name) for name in ("degree", "shapes", "channel_axis")}
        header["background"] = fields
        arrays |= {f"background_{name}": getattr(fit.background, name) for name in ("coefficients", "stderr")}
    header["labels"], more = labels.packed(fit.labels)
    arrays |= more
    header["parts"] = []
    for i, part in enumerate(fit.parts):
        fields, more = packed(part)
        header["parts"].append(fields)
        arrays |= {f"part{i}_{name}": array for name, array in more.items()}
    return header, arrays


def _plain(value: Any) -> Any:
    """Return a record, a tuple of records, an array or a plain value as files hold it."""
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def unpacked(header: dict[str, Any], arrays: dict[str, Array]) -> Estimate:
    """Undo `packed`; refuse values that no result can have."""
    if "freedom" in header:  # until 0.13
        header["df_model"] = header.pop("freedom")
    if "path_freedom" in arrays:
        arrays = {**arrays, "path_df_model": arrays["path_freedom"]}
    require_fields(Estimate, header)
    header["convention"] = convention_from(header["convention"])
    header["findings"] = tuple(Finding(Verdict[name], *said) for name, *said in header["findings"])
    several = (
        {**p, "center": tuple(p["center"]), "scales": tuple(p.get("scales", ()))} for p in header.pop("priors", ())
    )
    header["priors"] = tuple(Prior(**prior) for prior in several)
    criterion = header.pop("criterion", None)
    if criterion is not None:
        names = ("strength", "df_model", "rss", "score")
        header["path"] = StrengthPath(**{name: arrays[f"path_{name}"] for name in names}, criterion=criterion)
    if _LEAST_SQUARES[0] in arrays:
        header["least_squares"] = tuple(arrays[name] for name in _LEAST_SQUARES)
    if "omitted_mix" in arrays:
        header["omitted"] = Omitted(arrays["omitted_shapes"], arrays["omitted_mix"])
    header |= {name: tuple(header.get(name, ())) for name in ("found", "call", "notes")}
    count = header.pop("weights", None)
    if count is not None:
        header["weights"] = tuple(arrays[f"weights_{i}"] for i in range(count)) if count else arrays["weights_0"]
    spectrum = header.pop("spectrum", None)
    if spectrum is not None:
        arrays_of = {k: np.array(v, dtype=np.float64) for k, v in spectrum.items() if isinstance(v, list)}
        spectrum = Spectrum(**{**spectrum, **arrays_of})
    header["registration"] = registration.registration_from(header.get("registration"))
    header["curve"] = curve.curve_from(header.get("curve"))
    header["labels"] = labels.unpacked(header.get("labels"), arrays)
    background = header.pop("background", None)
    if background is not None:
        background["shapes"] = tuple(tuple(shape) for shape in background["shapes"])
        for name in ("coefficients", "stderr"):
            background[name] = arrays[f"background_{name}"]
        header["background"] = Background(**background)
    header["parts"] = tuple(
        unpacked(part, {k.removeprefix(f"part{i}_"): v for k, v in arrays.items() if k.startswith(f"part{i}_")})
        for i, part in enumerate(header.pop("parts", ()))
    )
    fit = Estimate(kernel=arrays["kernel"], root=arrays.get("factor"), spectrum=spectrum, **header)
    require_kernel(fit.kernel, None if fit.factor is None else fit.stderr)
    if fit.uncertainty not in ("sampling", "posterior") or fit.channels not in (None, "shared", "separate", "mixed"):
        raise ValueError(f"uncertainty={fit.uncertainty!r} and channels={fit.channels!r}")
    return fit


def require_kernel(kernel: Array, stderr: Array | None) -> None:
    """Refuse a kernel from a file that is not finite, and errors that are none."""
    if kernel.dtype.kind not in "biufc" or not kernel.size or not np.isfinite(kernel).all():
        raise ValueError("taps that are not all finite numbers")
    parts = () if stderr is None else (stderr.real, stderr.imag)
    if any(part.shape != kernel.shape or not (np.isfinite(part) & (part >= 0)).all() for part in parts):
        raise ValueError("errors of the taps that are not one finite number of at least 0 for each")


def estimate_writer(fit: Estimate) -> npz.Writer:
    """Return what writes an estimate as an NPZ file."""
    return npz.writer("KernelFit", *packed(fit))


def load_estimate(path: str | os.PathLike[str]) -> Estimate:
    """Read a saved result."""
    return npz.load(path, "KernelFit", unpacked)
