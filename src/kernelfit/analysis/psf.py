"""A kernel as a point spread function: the numbers that people ask for, each with its error."""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled.blas import one_blas_thread
from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.geometry import Shape
from ..core.model import Model
from .psf_shape import ANGLE, ENCIRCLED, MTF, PeakShape

Array = npt.NDArray[np.float64]
_DRAWS = 100
_FINE = 2.0  # pixels of width below which the spline between the taps tells: 4 % at a Gaussian's 1.6, 2 % at 2.4
_NONE = 1e-6  # an error so much smaller than those of the taps is none: the solver left no freedom
_DOUBTS = {
    Verdict.RANK_DEFICIENT: "the image leaves part of this kernel open, so that its numbers have no errors",
    Verdict.NOISE_DOMINATES: "the errors of the taps are as large as the kernel: it may be noise that is measured here",
}


class Measured(NamedTuple):
    """A number and its standard error; NaN where there is none."""

    value: float
    stderr: float = math.nan

    def __str__(self) -> str:
        """Write the number to the digits that its error leaves."""
        if not math.isfinite(self.value):
            return "not defined"
        if not (math.isfinite(self.stderr) and self.stderr > 0):
            return f"{self.value:.4g}"
        digits = 1 - math.floor(math.log10(self.stderr))
        if digits > 8 or abs(self.value) >= 1e6 or (self.value != 0 and abs(self.value) < 1e-4):
            return f"{self.value:.6g} +/- {self.stderr:.2g}"
        return f"{self.value:.{max(0, digits)}f} +/- {self.stderr:.{max(0, digits)}f}"


@dataclass(frozen=True)
class PsfMeasurements:
    """What a kernel does to a point of light; made by `measure_psf`.

    Lengths are in pixels. The kernel is looked at as what it makes of a single bright pixel, so that a kernel of
    ``operation="correlation"`` is turned by 180 degrees first.

    Attributes
    ----------
    sum : Measured
        The sum of the taps: the factor by which a flat area gets brighter.
    shift_rows, shift_cols : Measured
        By how many pixels the image is moved, down and to the right: the centroid of all taps less the origin.
    fwhm_along, fwhm_across : Measured
        Full width at half of the maximum, on cuts along the long axis and across it.
    ellipticity : Measured
        ``1 - b / a`` with a and b the longer and the shorter axis of the moments; 0 is round.
    angle : Measured
        Of the long axis, in degrees from the columns' direction (to the right) towards the top of the image, from
        -90 to 90. Of a round kernel it means nothing, and its error says so.
    radii : dict of float to Measured
        Radius of the circle about the centre that holds this fraction of the sum (encircled energy).
    mtf50_along, mtf50_across : Measured
        Frequency, in cycles per pixel, at which the response (modulation transfer function) is half of that to a
        flat area, for waves along the long axis and across it; not defined where it is higher at all frequencies.
    notes : tuple of str
        What limits the numbers: why some are not defined, or what was cut off.
    """

    sum: Measured
    shift_rows: Measured
    shift_cols: Measured
    fwhm_along: Measured
    fwhm_across: Measured
    ellipticity: Measured
    angle: Measured
    radii: dict[float, Measured]
    mtf50_along: Measured
    mtf50_across: Measured
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, Measured, str]]:
        """Return the numbers as rows of a table.

        Returns
        -------
        list of (str, Measured, str)
            What it is, the number, and its unit.
        """
        return [
            ("sum", self.sum, ""),
            ("shift down", self.shift_rows, "pixels"),
            ("shift right", self.shift_cols, "pixels"),
            ("FWHM along", self.fwhm_along, "pixels"),
            ("FWHM across", self.fwhm_across, "pixels"),
            ("ellipticity", self.ellipticity, ""),
            ("angle", self.angle, "degrees"),
            *((f"radius of {share:.0%}", radius, "pixels") for share, radius in self.radii.items()),
            ("MTF50 along", self.mtf50_along, "cycles/pixel"),
            ("MTF50 across", self.mtf50_across, "cycles/pixel"),
        ]

    def __str__(self) -> str:
        """Return a table of the numbers, and the notes."""
        lines = [f"{name:14s}{number}{' ' + unit if unit and math.isfinite(number.value) else ''}".rstrip()
                 for name, number, unit in self.rows()]  # fmt: skip
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, object]:
        """Return the numbers as plain types for JSON.

        Returns
        -------
        dict
            Each number as ``{"value": ..., "stderr": ...}``, None where there is none.
        """

        def plain(number: Measured) -> dict[str, float | None]:
            return {k: v if math.isfinite(v) else None for k, v in number._asdict().items()}

        names = [f.name for f in dataclasses.fields(self) if f.name not in ("radii", "notes")]
        found: dict[str, object] = {name: plain(getattr(self, name)) for name in names}
        found["radii"] = {f"{share:g}": plain(radius) for share, radius in self.radii.items()}
        return {**found, "notes": list(self.notes)}


@one_blas_thread
def measure_psf(
    kernel: Estimate | npt.ArrayLike,
    *,
    origin: int | Shape | None = None,
    operation: str | None = None,
    draws: int = _DRAWS,
    rng: np.random.Generator | int | None = 0,
) -> PsfMeasurements:
    """Measure a kernel as a point spread function: sum, shift, widths, shape, encircled energy, MTF50.

    The errors of the sum and the shift are those of the delta method, ``g' C g`` with the gradient g and the
    covariance C of the taps; those of the other numbers are the scatter over kernels drawn from that covariance
    (`KernelFit.sample`), half of the range that holds 68.3 %.

    Parameters
    ----------
    kernel : KernelFit or array_like, shape (rows, cols)
        The kernel. A bare array has no errors.
    origin : int or (int, int), optional
        The tap over the output pixel, for an array; the default is SciPy signal's centre, ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        How the kernel is laid on the image, for an array; the default is convolution.
    draws : int, optional
        Number of kernels drawn for the errors, default 100; 0 for none.
    rng : numpy.random.Generator or int, optional
        Generator or seed of the draws; the default 0 gives the same errors every time.

    Returns
    -------
    PsfMeasurements
        The numbers; ``print`` it for a table.

    Raises
    ------
    TypeError
        If the kernel is not real, or `draws` no int.
    ValueError
        If the kernel is not 2-D or not finite, or an origin or operation is given beside a `KernelFit`, which has
        its own.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> y, x = np.mgrid[-10:11, -12:13]
    >>> blur = np.exp(-((x - 0.25) ** 2) / (2 * 2.0**2) - y**2 / (2 * 1.5**2))
    >>> found = kernelfit.measure_psf(blur / blur.sum())
    >>> print(f"{found.fwhm_along.value:.2f} x {found.fwhm_across.value:.2f}, moved by {found.shift_cols.value:.2f}")
    4.71 x 3.54, moved by 0.25
    """
    fit = kernel if isinstance(kernel, Estimate) else None
    if fit is not None and (origin is not None or operation is not None):
        msg = "got an origin or operation with a KernelFit, need one or the other: the fit has its own convention"
        raise ValueError(msg)
    taps = np.asarray(fit.kernel if fit is not None else kernel)
    if taps.dtype.kind not in "biuf":
        msg = f"got a kernel of dtype {taps.dtype}, need real numbers"
        raise TypeError(msg)
    if taps.ndim != 2 or 0 in taps.shape:
        msg = f"got a kernel of shape {taps.shape}, need rows and columns; pass one plane of it"
        raise ValueError(msg)
    taps = taps.astype(np.float64)
    if not np.isfinite(taps).all():
        msg = "got a kernel with NaN or infinite taps, need finite ones"
        raise ValueError(msg)
    shape = (taps.shape[0], taps.shape[1])
    if fit is not None:
        conv = fit.convention
    else:
        conv = Model(shape, origin=origin, operation=operation or "convolution").convention("same")
    turned = conv.operation == "correlation"
    at = tuple(k - 1 - o if turned else o for k, o in zip(shape, conv.origin, strict=True))
    doubts = [] if fit is None else [_DOUBTS[f.verdict] for f in fit.findings if f.verdict in _DOUBTS]
    unknown = fit is not None and any(f.verdict is Verdict.RANK_DEFICIENT for f in fit.findings)
    factor = None if fit is None or unknown else fit.factor
    samples = np.empty((0, *shape))
    if fit is not None and factor is not None and draws:
        samples = fit.sample(draws, rng)
    if turned:
        taps, samples = taps[::-1, ::-1], samples[:, ::-1, ::-1]
        factor = None if factor is None else factor[::-1]

    def linear(gradient: Array) -> float:
        return math.nan if factor is None else float(np.linalg.norm(gradient.ravel() @ factor))

    ones = np.ones(shape)
    total = Measured(float(taps.sum()), linear(ones))
    gross = float(np.abs(taps).sum())
    unsure = math.isfinite(total.stderr) and abs(total.value) < 3 * total.stderr
    if not abs(total.value) > 0.05 * gross or unsure:
        return _without_shape(
            total,
            *doubts,
            "the sum of the taps is small beside their size or its error, so that there is no centre and no width: a "
            "derivative filter, a kernel that the image does not determine, or one that sharpens strongly",
        )
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    shifts, given = [], False
    for place, start in ((y, at[0]), (x, at[1])):
        centroid = float((taps * place).sum()) / total.value
        gradient = (place - centroid) / total.value
        error = linear(gradient)
        if factor is not None and error < _NONE * float(np.linalg.norm(gradient.ravel()[:, None] * factor)):
            error, given = math.nan, True
        shifts.append(Measured(centroid - start, error))
    if given:
        doubts.append("the kernel was taken to be symmetric about the middle of its support: its shift is not measured")
    found = PeakShape.of(np.sign(total.value) * taps, None)
    if found is None:
        note = "the taps near the centre do not form one peak that has a width (negative or scattered taps)"
        return dataclasses.replace(_without_shape(total, *doubts, note), shift_rows=shifts[0], shift_cols=shifts[1])
    others = [PeakShape.of(np.sign(total.value) * sample, found) for sample in samples]
    numbers = found.numbers()
    columns = np.array([np.full(len(numbers), math.nan) if o is None else o.numbers() for o in others])
    measured = [Measured(value, _scatter(columns[:, i] if len(columns) else columns, value, i == ANGLE))
                for i, value in enumerate(numbers)]  # fmt: skip
    notes = doubts
    edge = np.concatenate([taps[0], taps[-1], taps[1:-1, 0], taps[1:-1, -1]]) if min(shape) > 2 else np.zeros(1)
    level = 0.0 if fit is None or factor is None else 4 * float(np.max(fit.stderr))
    lobes = np.sign(total.value) * taps < -max(level, 0.01 * float(np.abs(taps).max()))
    if np.abs(taps[lobes]).sum() > 0.02 * gross:
        notes.append("some taps are negative, so that a circle may hold more than the sum: a radius is the first one")
    if measured[1].value < _FINE:
        notes.append("narrower than 2 pixels: what is taken for the kernel between its taps tells in the widths")
    if np.abs(edge).max() > max(0.1 * np.abs(taps).max(), level):
        notes.append("the kernel reaches the edge of its support, so that widths and radii are cut off: ask for more")
    if not math.isfinite(numbers[MTF]) or not math.isfinite(numbers[MTF + 1]):
        notes.append("the response stays above one half up to the highest frequency, so that there is no MTF50")
    return PsfMeasurements(
        total,
        shift_rows=shifts[0],
        shift_cols=shifts[1],
        fwhm_along=measured[0],
        fwhm_across=measured[1],
        ellipticity=measured[2],
        angle=measured[3],
        radii=dict(zip(ENCIRCLED, measured[MTF + 2 :], strict=True)),
        mtf50_along=measured[MTF],
        mtf50_across=measured[MTF + 1],
        notes=tuple(notes),
    )


def _without_shape(total: Measured, *notes: str) -> PsfMeasurements:
    none = Measured(math.nan)
    return PsfMeasurements(total, none, none, none, none, none, none, dict.fromkeys(ENCIRCLED, none), none, none, notes)


def _scatter(values: Array, center: float, angle: bool) -> float:
    """Return half of the range that holds the middle 68.3 % of the values; NaN if one in ten is missing."""
    kept = values[np.isfinite(values)]
    if len(kept) < max(2, 0.9 * len(values)) or not math.isfinite(center):
        return math.nan
    if angle:
        kept = (kept - center + 90) % 180 - 90
    low, high = np.quantile(kept, [0.1587, 0.8413])
    return float(high - low) / 2
