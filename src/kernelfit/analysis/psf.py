"""A kernel as a point spread function: the numbers that people ask for, each with its error."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.estimate import Estimate, require_real
from ..core.findings import Verdict
from ..core.model import Model
from ..core.validation import Array
from ..data.observation import as_array
from .measured import DOUBTS, NONE, SYMMETRY, Measured, Measurements
from .psf_shape import ENCIRCLED, PeakShape
from .psf_volume import VolumePsfMeasurements, measured

_FINE = 2.0  # pixels of width below which the spline between the taps tells: 4 % at a Gaussian's 1.6, 2 % at 2.4
_ROUND, _WIDER = 2.45, 1.25  # a length of two normal numbers, and 1.96 times this, that 95 % of such lengths stay below
_ANY = 45.9  # degrees: 1.96 times this are all directions
_LOOSE = 0.2  # radians: for a round kernel, whose axes the noise picks, what makes the widths' intervals right


@dataclass(frozen=True)
class PsfMeasurements(Measurements):
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
        """Return the numbers as rows of a table: what each is, the number, and its unit."""
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


@one_blas_thread
def measure_psf(
    kernel: Estimate | npt.ArrayLike, *, origin: int | tuple[int, ...] | None = None, operation: str | None = None
) -> PsfMeasurements | VolumePsfMeasurements:
    """Measure a kernel as a point spread function: sum, shift, widths, shape, encircled energy, MTF50.

    The errors are those of the delta method, ``g' C g`` with the derivatives g of a number by the taps and their
    covariance C, the move of centre and axes included, so that ``value -+ 1.96 stderr`` holds the truth in 95 of 100
    cases. Near a round kernel, where that fails, the errors of ellipticity and angle are widened to do so: an angle of
    +/- 46 degrees means any. What the solver ruled out is told "by symmetry", without an error.

    Parameters
    ----------
    kernel : KernelFit or array_like, shape (rows, cols), or (planes, rows, cols) of a volume
        The kernel. A bare array has no errors.
    origin : int or (int, int), optional
        The tap over the output pixel, for an array; the default is SciPy signal's centre, ``(side - 1) // 2``. Three
        numbers say that an array is a kernel of a volume.
    operation : {"convolution", "correlation"}, optional
        How the kernel is laid on the image, for an array; the default is convolution.

    Returns
    -------
    PsfMeasurements or VolumePsfMeasurements
        The numbers, those of a volume's kernel along three axes; ``print`` it for a table.

    Raises
    ------
    TypeError
        If the kernel is not real.
    ValueError
        If the kernel is not of an image or a volume or not finite, or an origin or operation is given beside a
        `KernelFit`, which has its own.

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
    require_real(fit)
    taps = np.asarray(fit.kernel if fit is not None else as_array(kernel, "kernel"))
    volume = isinstance(origin, tuple) and len(origin) == 3 and taps.ndim > 2
    deep = volume if fit is None else fit.convention.ndim == 3
    if taps.ndim != 2 + deep or 0 in taps.shape:
        varies = fit is not None and fit.convention.field is not None
        plane = "pass one plane of it, or an origin of three numbers if it is of a volume"
        plane = "take each kernel by itself, split_channels(fit)" if deep else plane
        remedy = "take it at a place of the field, fit.at(row, col)" if varies else plane
        raise ValueError(f"got a kernel of shape {taps.shape}, need {'planes, ' * deep}rows and columns; {remedy}")
    taps = taps.astype(np.float64)
    if not np.isfinite(taps).all():
        raise ValueError("got a kernel with NaN or infinite taps, need finite ones")
    shape: Any = taps.shape
    if fit is not None:
        conv = fit.convention
    else:
        conv = Model(shape, origin=origin, operation=operation or "convolution").convention("same")
    turned = conv.operation == "correlation"
    at = tuple(k - 1 - o if turned else o for k, o in zip(shape, conv.origin, strict=True))
    doubts = [] if fit is None else [DOUBTS[f.verdict] for f in fit.findings if f.verdict in DOUBTS]
    unknown = fit is not None and any(f.verdict is Verdict.RANK_DEFICIENT for f in fit.findings)
    factor = None if fit is None or unknown else fit.factor
    if turned:
        taps = np.flip(taps)
        factor = None if factor is None else factor[::-1]
    if deep:
        return measured(taps, at, factor, fit)

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

    def none(gradient: Array, error: float) -> bool:
        """Say whether nothing could have moved a number: it has no error, though its taps have."""
        return factor is not None and error < NONE * float(np.linalg.norm(gradient.ravel()[:, None] * factor))

    alike = factor is None and np.allclose(taps, taps[::-1, ::-1], rtol=0.0, atol=1e-12 * gross)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    shifts = []
    for place, start in ((y, at[0]), (x, at[1])):
        centroid = float((taps * place).sum()) / total.value
        gradient = (place - centroid) / total.value
        error = linear(gradient)
        if alike or none(gradient, error):
            shifts.append(Measured(round(2 * (centroid - start)) / 2, math.nan, SYMMETRY))
        else:
            shifts.append(Measured(centroid - start, error))
    if fit is not None and any(shift.fixed for shift in shifts):
        doubts.append("the kernel was taken to be symmetric about the middle of its support: its shift is not measured")
    found = PeakShape.of(np.sign(total.value) * taps)
    if found is None:
        note = "the taps near the centre do not form one peak that has a width (negative or scattered taps)"
        return dataclasses.replace(_without_shape(total, *doubts, note), shift_rows=shifts[0], shift_cols=shifts[1])
    numbers = found.numbers(found.center, found.angle, slopes=factor is not None)
    along, across, mtf_along, mtf_across, *radii = (Measured(number.value) for number in numbers)
    ratio = math.sqrt((1 - found.distortion) / (1 + found.distortion))
    angle = Measured((math.degrees(found.angle) + 90) % 180 - 90)
    ellipticity = Measured(1 - ratio)
    if factor is not None:
        centers, (longer, turn) = found.place_by_taps()
        radial, tangential = linear(longer), linear(turn)
        about = math.hypot(radial, tangential) / math.sqrt(2)
        known = found.distortion > _ROUND * about
        slope = 1 / (ratio * (1 + found.distortion) ** 2)
        ellipticity = Measured(1 - ratio, slope * (radial if known else _WIDER * about))
        swing = 0.5 / max(found.distortion, 1e-12)  # radians by distortion across
        angle = Measured(angle.value, min(math.degrees(swing * tangential), _ANY) if known else _ANY)
        if none(turn, tangential):
            angle = Measured(round(angle.value / 45) * 45.0, math.nan, SYMMETRY)
            if none(longer, radial):
                ellipticity = Measured(0.0, math.nan, SYMMETRY)
                angle = Measured(math.nan)
        swing = swing if known or not tangential else min(swing, _LOOSE / tangential)
        moves = np.vstack([centers, swing * turn])
        size = 1e-3
        every = []
        for number in range(3):
            step = size * np.eye(3)[number]
            both = [
                np.array([n.value for n in found.numbers(found.center + sign * step[:2], found.angle + sign * step[2])])
                for sign in (1, -1)
            ]
            every.append((both[0] - both[1]) / (2 * size))
        slopes = np.array(every).T @ moves
        along, across, mtf_along, mtf_across, *radii = (
            Measured(n.value, math.nan if n.gradient is None else linear(n.gradient + by))
            for n, by in zip(numbers, slopes, strict=True)
        )
    notes = doubts
    edge = np.concatenate([taps[0], taps[-1], taps[1:-1, 0], taps[1:-1, -1]]) if min(shape) > 2 else np.zeros(1)
    level = 0.0 if fit is None or factor is None else 4 * float(np.max(fit.stderr))
    lobes = np.sign(total.value) * taps < -max(level, 0.01 * float(np.abs(taps).max()))
    if np.abs(taps[lobes]).sum() > 0.02 * gross:
        notes.append("some taps are negative, so that a circle may hold more than the sum: a radius is the first one")
    if across.value < _FINE:
        notes.append("narrower than 2 pixels: what is taken for the kernel between its taps tells in the widths")
    if np.abs(edge).max() > max(0.1 * np.abs(taps).max(), level):
        notes.append("the kernel reaches the edge of its support, so that widths and radii are cut off: ask for more")
    if not math.isfinite(mtf_along.value) or not math.isfinite(mtf_across.value):
        notes.append("the response stays above one half up to the highest frequency, so that there is no MTF50")
    return PsfMeasurements(
        total,
        shift_rows=shifts[0],
        shift_cols=shifts[1],
        fwhm_along=along,
        fwhm_across=across,
        ellipticity=ellipticity,
        angle=angle,
        radii=dict(zip(ENCIRCLED, radii, strict=True)),
        mtf50_along=mtf_along,
        mtf50_across=mtf_across,
        notes=tuple(notes),
    )


def _without_shape(total: Measured, *notes: str) -> PsfMeasurements:
    none = Measured(math.nan)
    return PsfMeasurements(total, none, none, none, none, none, none, dict.fromkeys(ENCIRCLED, none), none, none, notes)
