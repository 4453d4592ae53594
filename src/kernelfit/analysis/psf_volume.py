"""A kernel of a volume as a point spread function: its sum, its place, its widths along three axes, with errors.

Centre and covariance are those of an elliptical Gaussian weight that is matched to the peak, as `psf_shape` has them of
images: G. Bernstein and M. Jarvis, Astron. J. 123 (2002), section 3, doi:10.1086/338085.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.estimate import Estimate
from ..core.validation import Array
from .measured import DOUBTS, NONE, SYMMETRY, Measured, Measurements
from .psf_shape import ENCIRCLED, at_rest, encircled, half_response, spline_at, spline_grid

_AXES = ("planes", "rows", "cols")
#: Points between taps; rounds of the search; pixels between points of a cut and of shells.
_FINER, _ROUNDS, _STEP, _SHELL = 3, 80, 0.02, 0.05
_FREQUENCIES = np.linspace(0.0, 0.5, 201)
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
_UPPER = tuple(np.array(index) for index in np.triu_indices(3))


@dataclass(frozen=True, eq=False)
class Peak:
    """A peak of three axes: the taps, the spline through them on a finer grid, its centre and its covariance."""

    taps: Array
    surface: Array
    places: tuple[Array, ...]
    center: Array
    moments: Array

    @classmethod
    def of(cls, taps: Array) -> "Peak | None":
        """Find centre and covariance; None where there is no peak that has them."""
        grids = [spline_grid(n, _FINER) for n in taps.shape]
        surface = _through(taps, [matrix for _, matrix in grids])
        places = tuple(place for place, _ in grids)
        top = np.unravel_index(int(np.argmax(surface)), surface.shape)
        center = np.array([place[i] for place, i in zip(places, top, strict=True)])
        volume = np.count_nonzero(surface > surface.max() / 2) / _FINER**3
        # a Gaussian is above half of its top in a ball of radius sqrt(2 log 2) times its standard deviation
        width = (volume / (4 / 3 * math.pi)) ** (2 / 3) / (2 * math.log(2))
        peak = cls(taps, surface, places, center, np.eye(3) * max(0.1, width))
        for _ in range(_ROUNDS):
            found = peak.next()
            if found is None or not np.linalg.eigvalsh(found[1])[0] > 2e-3:
                return None
            change = float(np.abs(found[1] - peak.moments).max() + np.abs(found[0] - peak.center).max())
            peak = dataclasses.replace(peak, center=found[0], moments=found[1])
            outside = any(not -1 <= c <= n for c, n in zip(peak.center, taps.shape, strict=True))
            if outside or np.linalg.eigvalsh(peak.moments)[2] > 4 * max(taps.shape) ** 2:
                return None
            if change < 1e-8:
                break
        return peak

    def weighted(self) -> tuple[Array, list[Array]]:
        """Return the weight, and the places of all points along each axis about the centre."""
        apart = [place - c for place, c in zip(self.places, self.center, strict=True)]
        every: list[Array] = list(np.meshgrid(*apart, indexing="ij"))
        inverse = np.linalg.inv(self.moments)
        square = sum(inverse[i, j] * every[i] * every[j] for i in range(3) for j in range(3))
        return np.exp(-0.5 * np.asarray(square)), every

    def next(self) -> tuple[Array, Array] | None:
        """Return centre and covariance as the weight of these makes them: twice what it finds, half being its own."""
        weight, every = self.weighted()
        weight = weight * self.surface
        total = float(weight.sum())
        if not total > 0:
            return None
        step = np.array([float((weight * d).sum()) for d in every]) / total
        both = np.array([[float((weight * a * b).sum()) for b in every] for a in every]) / total
        return self.center + 2 * step, 2 * (both - np.outer(step, step))

    def by_taps(self, field: Array) -> Array:
        """Return what a weighted sum over the surface owes to each tap."""
        return _through(field, [spline_grid(n, _FINER)[1].T for n in self.taps.shape]).ravel()

    def moved(self, change: Array) -> "Peak":
        """Return it at another centre, with another covariance: three numbers, and six."""
        more = np.zeros((3, 3))
        more[_UPPER] = change[3:]
        more = more + more.T - np.diag(np.diag(more))
        return dataclasses.replace(self, center=self.center + change[:3], moments=self.moments + more)

    def place_by_taps(self) -> Array:
        """Return the derivatives by taps of the centre and of the covariance, (9, taps), all further steps included."""
        weight, every = self.weighted()
        total = float((weight * self.surface).sum())
        fields = [*every, *(every[i] * every[j] - self.moments[i, j] / 2 for i, j in zip(*_UPPER, strict=True))]
        own = np.stack([self.by_taps(2 * weight * field / total) for field in fields])

        def stepped(change: Array) -> Array:
            center, moments = self.moved(change).next() or (self.center, self.moments)
            return np.concatenate([center, moments[_UPPER]])

        return at_rest(own, stepped, 1e-4 * math.sqrt(float(np.trace(self.moments))))

    def numbers(self) -> Array:
        """Return FWHM and MTF50 along three axes, and the radii, at this centre."""
        return np.array([one[0] for one in self._every()])

    def numbers_by_taps(self) -> list[tuple[float, Array]]:
        """Return them with their derivatives by taps, the move of the centre included."""
        own, place = self._every(), self.place_by_taps()[:3]
        size, slopes = 1e-3, []
        for at in range(3):
            change = np.zeros(9)
            change[at] = size
            slopes.append((self.moved(change).numbers() - self.moved(-change).numbers()) / (2 * size))
        moves = np.array(slopes).T @ place
        return [(value, gradient + move) for (value, gradient), move in zip(own, moves, strict=True)]

    def principal_by_taps(self) -> tuple[Array, Array, Array]:
        """Return widths of the matched Gaussian along its axes, the longest first, these axes, and the derivatives."""
        values, vectors = np.linalg.eigh(self.moments)
        values, vectors = values[::-1], vectors[:, ::-1].T
        place = self.place_by_taps()[3:]
        rows, cols = _UPPER
        double = np.where(rows == cols, 1.0, 2.0)
        by = np.array([(double * v[rows] * v[cols]) @ place for v in vectors])  # of an eigenvalue: v' dM v
        widths = _FWHM * np.sqrt(values)
        return widths, vectors, by * (_FWHM / (2 * np.sqrt(values)))[:, None]

    def _every(self) -> list[tuple[float, Array]]:
        return [*(self._width(a) for a in range(3)), *(self._mtf50(a) for a in range(3)), *self._radii()]

    def _width(self, axis: int) -> tuple[float, Array]:
        """Return the full width at half maximum on the cut through the centre, and its derivatives by taps."""
        n = self.taps.shape[axis]
        t = np.arange(math.floor(-2 / _STEP), math.ceil((n + 1) / _STEP) + 1) * _STEP
        across = [spline_at(k, c[None])[0] for k, c in zip(self.taps.shape, self.center, strict=True)]
        others = [a for a in range(3) if a != axis]
        cut = np.einsum("ijk,j,k->i", np.moveaxis(self.taps, axis, 0), across[others[0]], across[others[1]])
        line = spline_at(n, t) @ cut
        top = int(np.argmax(line))
        half, width, gradient = line[top] / 2, 0.0, np.zeros(n)
        nothing = math.nan, np.full(self.taps.size, math.nan)
        if line[top] < 0.8 * float(self.surface.max()):  # the top lies elsewhere
            return nothing
        for side, sign in ((line[top:], 1), (line[top::-1], -1)):
            below = np.flatnonzero(side < half)
            if not len(below):
                return nothing
            i = int(below[0])
            fall = float(side[i - 1] - side[i])
            end = i - 1 + float(side[i - 1] - half) / fall
            width += end * _STEP
            at = spline_at(n, np.array([t[top] + sign * end * _STEP, t[top]]))
            gradient += (at[0] - 0.5 * at[1]) * _STEP / fall
        vectors = [gradient if a == axis else across[a] for a in range(3)]
        return width, functools.reduce(np.multiply.outer, vectors).ravel()

    def _mtf50(self, axis: int) -> tuple[float, Array]:
        """Return the lowest frequency at which the response along an axis is half of that at zero; NaN if none is."""
        line, total = self.taps.sum(axis=tuple(a for a in range(3) if a != axis)), float(self.taps.sum())
        found = half_response(_FREQUENCIES, np.arange(float(len(line))), line, total, slopes=True)
        if found.gradient is None:
            return found.value, np.full(self.taps.size, math.nan)
        shape = [len(line) if a == axis else 1 for a in range(3)]
        return found.value, np.broadcast_to(found.gradient.reshape(shape), self.taps.shape).ravel()

    def _radii(self) -> list[tuple[float, Array]]:
        """Return the radii of the balls about the centre that hold the fractions of the sum."""
        apart = np.meshgrid(*(p - c for p, c in zip(self.places, self.center, strict=True)), indexing="ij")
        radius = np.sqrt(apart[0] ** 2 + apart[1] ** 2 + apart[2] ** 2)
        every = encircled(radius, self.surface, 1 / _FINER, _SHELL, self.by_taps)
        return [(one.value, np.asarray(one.gradient)) for one in every]


def _through(values: Array, matrices: Sequence[Array]) -> Array:
    """Return an array with a matrix applied along each axis."""
    for axis, matrix in enumerate(matrices):
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return np.asarray(values)


@dataclass(frozen=True)
class VolumePsfMeasurements(Measurements):
    """What a kernel of a volume does to a point of light; made by `measure_psf`.

    Lengths are in pixels of each axis. The kernel is looked at as what it makes of a single bright pixel, so that a
    kernel of ``operation="correlation"`` is turned first.

    Attributes
    ----------
    sum : Measured
        The sum of the taps: the factor by which a flat volume gets brighter.
    shift_planes, shift_rows, shift_cols : Measured
        By how many pixels the volume is moved along each axis: the centroid of all taps less the origin.
    fwhm_planes, fwhm_rows, fwhm_cols : Measured
        Full width at half of the maximum on the cuts through the centre along each axis; in microscopy the axial and
        the lateral resolution.
    widths : tuple of Measured
        Full widths at half maximum of the Gaussian that is matched to the peak, along its own three axes, the longest
        first.
    axes : tuple of (float, float, float)
        The directions of these axes, unit vectors (planes, rows, cols); of axes as long as each other any will do.
    radii : dict of float to Measured
        Radius of the ball about the centre that holds this fraction of the sum.
    mtf50_planes, mtf50_rows, mtf50_cols : Measured
        Frequency, in cycles per pixel, at which the response to waves along each axis is half of that to a flat volume;
        not defined where it is higher at all frequencies.
    notes : tuple of str
        What limits the numbers.
    """

    sum: Measured
    shift_planes: Measured
    shift_rows: Measured
    shift_cols: Measured
    fwhm_planes: Measured
    fwhm_rows: Measured
    fwhm_cols: Measured
    widths: tuple[Measured, Measured, Measured]
    axes: tuple[tuple[float, ...], ...]
    radii: dict[float, Measured]
    mtf50_planes: Measured
    mtf50_rows: Measured
    mtf50_cols: Measured
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, Measured, str]]:
        """Return the numbers as rows of a table: what each is, the number, and its unit."""
        words = {"planes": "planes", "rows": "rows", "cols": "columns"}
        return [
            ("sum", self.sum, ""),
            *((f"shift along {words[a]}", getattr(self, f"shift_{a}"), "pixels") for a in _AXES),
            *((f"FWHM along {words[a]}", getattr(self, f"fwhm_{a}"), "pixels") for a in _AXES),
            *zip(("longest width", "middle width", "shortest width"), self.widths, ("pixels",) * 3, strict=True),
            *((f"radius of {share:.0%}", radius, "pixels") for share, radius in self.radii.items()),
            *((f"MTF50 along {words[a]}", getattr(self, f"mtf50_{a}"), "cycles/pixel") for a in _AXES),
        ]


def measured(taps: Array, at: Sequence[int], factor: Array | None, fit: Estimate | None) -> VolumePsfMeasurements:
    """Measure a kernel of three axes, laid as a convolution; `at` is its origin, `factor` that of its covariance."""
    gross, total = float(np.abs(taps).sum()), float(taps.sum())

    def number(value: float, gradient: Array) -> Measured:
        error = math.nan if factor is None else float(np.linalg.norm(gradient @ factor))
        return Measured(value, error if math.isfinite(value) else math.nan)

    flux = number(total, np.ones(taps.size))
    notes = [] if fit is None else [DOUBTS[f.verdict] for f in fit.findings if f.verdict in DOUBTS]
    none = Measured(math.nan)
    blank: dict[str, Any] = dict.fromkeys((f"{name}_{a}" for name in ("shift", "fwhm", "mtf50") for a in _AXES), none)
    known = VolumePsfMeasurements(
        flux, **blank, widths=(none,) * 3, axes=(), radii=dict.fromkeys(ENCIRCLED, none), notes=tuple(notes)
    )
    unsure = math.isfinite(flux.stderr) and abs(total) < 3 * flux.stderr
    if not abs(total) > 0.05 * gross or unsure:
        why = "the sum of the taps is small beside their size or its error, so that there is no centre and no width"
        return dataclasses.replace(known, notes=(*notes, why))
    shifts = []
    alike = factor is None and np.allclose(taps, np.flip(taps), rtol=0.0, atol=1e-12 * gross)
    for axis, start in enumerate(at):
        place = np.arange(taps.shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)]) + np.zeros(taps.shape)
        centroid = float((taps * place).sum()) / total
        one = number(centroid - start, (place - centroid).ravel() / total)
        held = False
        if factor is not None:
            each = float(np.linalg.norm((place - centroid).ravel()[:, None] * factor)) / abs(total)
            held = one.stderr < NONE * each
        shifts.append(Measured(round(2 * one.value) / 2, math.nan, SYMMETRY) if alike or held else one)
    shift: dict[str, Any] = dict(zip((f"shift_{a}" for a in _AXES), shifts, strict=True))
    if fit is not None and any(one.fixed for one in shifts):
        notes.append("the kernel was taken to be symmetric about the middle of its support: its shift is not measured")
    sign = float(np.sign(total))
    peak = Peak.of(sign * taps)
    if peak is None:
        notes.append("the taps near the centre do not form one peak that has a width (negative or scattered taps)")
        return dataclasses.replace(known, **shift, notes=tuple(notes))
    every = [number(value, sign * gradient) for value, gradient in peak.numbers_by_taps()]
    lengths, axes, slopes = peak.principal_by_taps()
    first, second, third = (number(float(v), sign * g) for v, g in zip(lengths, slopes, strict=True))
    edge = np.ones(taps.shape, dtype=bool)
    edge[tuple(slice(1, -1) if n > 2 else slice(None) for n in taps.shape)] = False
    level = 0.0 if fit is None or factor is None else 4 * float(np.max(fit.stderr))
    if np.abs(taps[edge]).max(initial=0.0) > max(0.1 * np.abs(taps).max(), level):
        notes.append("the kernel reaches the edge of its support, so that widths and radii are cut off: ask for more")
    if lengths[2] < 2:
        notes.append("narrower than 2 pixels: what is taken for the kernel between its taps tells in the widths")
    if any(not math.isfinite(one.value) for one in every[3:6]):
        notes.append("the response stays above one half up to the highest frequency, so that there is no MTF50")
    fields: dict[str, Any] = dict(
        zip((*(f"fwhm_{a}" for a in _AXES), *(f"mtf50_{a}" for a in _AXES)), every[:6], strict=True)
    )
    return dataclasses.replace(
        known,
        **shift,
        **fields,
        widths=(first, second, third),
        axes=tuple(tuple(float(x) for x in axis) for axis in axes),
        radii=dict(zip(ENCIRCLED, every[6:], strict=True)),
        notes=tuple(notes),
    )
