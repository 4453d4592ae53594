"""Which boundary a target was made with: the residual near its edges under each, against the residual inside.

Only target pixels whose footprint leaves the image depend on the boundary. If the kernel is known, their residual has
the variance of the noise under the true boundary and more under every other one, unless both extend the image alike.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.special

from ..core import geometry
from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict
from ..core.geometry import Convention, Shape
from ..core.validation import Array
from ..data.complex_parts import is_imaginary
from ..data.observation import Observation, Weights, own_row, source_reader
from ..data.reader import Reader, Request
from ..data.volumes import images_under
from .samples import Memo

#: Spectra of a plane's kernels, by its number and the length of a strip.
Transforms = dict[tuple[int, int, int], Any]

BOUNDARIES = ("fill", "wrap", "symm", "mirror", "nearest")
#: Probability at which the residual at the edges counts as larger than that inside although the boundary is true.
_LEVEL = 1e-3
#: How much more likely the best boundary must be than another one, in units of half a chi-square, to rule it out.
_APART = 9.0
#: Residuals below this share of the target are those of rounding, or of a penalty, not of a boundary.
_EXACT = 1e-8
#: Rows and columns that are looked at of a plane all of which depends on the boundary.
_WINDOW = 96
#: A variance near the edges this many times that inside is worth a verdict.
_WORTH = 2.0


@dataclass(frozen=True)
class BoundaryRow:
    """How one boundary fits.

    Attributes
    ----------
    boundary : str
    fillvalue : float
        The value beyond the edge for "fill": that of the fit if the data allow it, else the one that fits best; NaN for
        the others.
    rms : float
        Root mean square residual of the target pixels that depend on the boundary, in the target's units.
    ratio : float
        The same over that of the interior pixels; about 1 for the true boundary.
    fits : bool
        Whether the noise explains it.
    distance : float
        Distance of its prediction from that of the best boundary, in standard deviations of the noise.
    """

    boundary: str
    fillvalue: float
    rms: float
    ratio: float
    fits: bool
    distance: float


@dataclass(frozen=True)
class BoundaryCheck:
    """What the edges say of the boundary; its string is a table.

    Attributes
    ----------
    best : str or None
        The boundary that fits best; None if none does, so that what lay beyond the edge is unknown.
    equal : tuple of str
        All that predict the same as the best one to rounding, that one included: "symm" and "nearest" are one and the
        same for a kernel that reaches one pixel beyond the edge.
    possible : tuple of str
        All that these data do not rule out, the best one first.
    declared : str or None
        The boundary of the fit.
    n_pixels : int
        Number of target pixels that depend on the boundary.
    interior : float
        Root mean square residual of the others, in the target's units.
    rows : tuple of BoundaryRow
        One for each boundary, the best first.
    unit : str
        What the targets have: pixels or samples.
    """

    best: str | None
    equal: tuple[str, ...]
    possible: tuple[str, ...]
    declared: str | None
    n_pixels: int
    interior: float
    rows: tuple[BoundaryRow, ...]
    unit: str = "pixels"

    def _lowered(self) -> "BoundaryCheck":
        return dataclasses.replace(self, unit="samples")

    def __str__(self) -> str:
        lines = [
            f"{self.n_pixels} {self.unit} depend on the boundary; the rms residual of the others is {self.interior:.4g}"
        ]
        for row in self.rows:
            name = row.boundary + (f" {row.fillvalue:.4g}" if row.boundary == "fill" else "")
            fits = "fits" if row.fits else ""
            lines.append(f"{name:16} rms {row.rms:<10.4g} {row.ratio:<8.3g} times that inside  {fits}".rstrip())
        others = [name for name in self.possible if name not in self.equal]
        if self.best is None:
            lines.append("none fits: what lay beyond the edge is unknown, declare nothing (boundary=None)")
        else:
            lines.append(
                f"best: {' or '.join(self.equal)}" + (f"; not ruled out: {', '.join(others)}" if others else "")
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Plane:
    """One target plane with its model: kernels, background, weights; of a volume all planes of its image."""

    observation: Observation
    kernels: Array
    surface: Array | None
    weights: Weights | None
    images: Sequence[Sequence[Any]] | None = None  # of each channel

    def arrays(self, conv: Convention, *, blank: bool = False) -> list[Any]:
        """Return what the kernels are laid on under a boundary, or zeros of its shape."""
        one, shape = self.observation, self.observation.geometry.image_shape
        zeros = np.broadcast_to(np.zeros(1), shape)
        if self.images is None or one.plane is None:
            return [zeros if blank else source.array for source in one.sources]
        own = dataclasses.replace(one.plane.convention, boundary=conv.boundary, fillvalue=conv.fillvalue)
        filled = np.broadcast_to(np.float64(conv.fillvalue), shape)
        at = images_under(own, one.plane.at, len(self.images[0]), one.supports[0])
        both = ((image, zeros if is_imaginary(image[0]) else filled) for image in self.images)
        return [beyond if i is None else zeros if blank else image[i] for image, beyond in both for i in at]


def doubt(observations: Sequence[Observation], fits: Sequence[Estimate], memo: Memo | None = None) -> list[Estimate]:
    """Return the fits of a group with a finding where the declared boundary contradicts the residual at the edges."""
    # The fit's own kernel serves, which a wrong boundary has spoilt; it is the smaller residual inside that tells, by
    # more than a factor and more than chance. The `memo` keeps what other targets share.
    conv = observations[0].geometry.convention
    if conv.boundary is None or conv.mode == "valid":
        return list(fits)
    out = []
    for t, fit in enumerate(fits):
        weights = None if fit.weights is None else fit.weights if isinstance(fit.weights, tuple) else (fit.weights,)
        planes = [plane for i, plane in enumerate(_planes(observations, fits, weights)) if i % len(fits) == t]
        out.append(fit)
        if not fit.rss > 0:
            continue
        left, scale = _residual(planes, conv, memo)
        n_edge = len(left)
        n_inside = fit.n_pixels - n_edge
        if n_edge == 0 or n_inside < 2 * fit.rank + 2:
            continue
        squares = float(np.sum(left * left))  # no BLAS, whose threads would go on spinning
        inside = max((fit.rss - squares) / n_inside, (_EXACT * scale) ** 2)
        ratio = squares / n_edge / inside if inside else math.inf
        if not ratio > max(_WORTH, _limit(n_edge, n_inside, 1e-6)):
            continue
        detail = (
            f"with boundary {conv.boundary!r} the residual near the edges is {math.sqrt(ratio):.3g} times that inside"
        )
        out[-1] = with_finding(fit, Finding(Verdict.WRONG_BOUNDARY, detail))
    return out


def _planes(
    group: Sequence[Observation], fits: Sequence[Estimate], weights: Sequence[Weights] | None = None
) -> Iterator[_Plane]:
    """Yield the planes of a group of problems, target by target of each; weights are those of the problems."""
    for i, observation in enumerate(group):
        for reader, fit in zip(observation.targets, fits, strict=True):
            kernels = fit.kernel.reshape(-1, *observation.geometry.kernel_shape)
            surface = None
            if fit.background is not None:
                surface = own_row(observation, fit.background.coefficients, i, len(group))
            own = None if weights is None else weights[i]
            yield _Plane(dataclasses.replace(observation, targets=(reader,)), kernels, surface, own)


def _limit(n_edge: int, df_resid: int, level: float) -> float:
    """Return the ratio of mean squares that chance exceeds with a probability of `level`."""
    return float(scipy.special.fdtri(n_edge, df_resid, 1.0 - level))


def _compare(
    planes: Sequence[_Plane], conv: Convention, variance: float, df_resid: int, inflation: float
) -> BoundaryCheck:
    """Compare all boundaries, given the variance of the noise and by how much the kernel's own error raises it."""
    residuals, fillvalues, scale = {}, {}, 0.0
    taps: Transforms = {}
    for name in BOUNDARIES:
        residuals[name], scale = _residual(planes, dataclasses.replace(conv, boundary=name, fillvalue=0.0), taps=taps)
        fillvalues[name] = math.nan
    noise = max(variance, (_EXACT * scale) ** 2)  # without noise, rounding must not tell
    # residual and response are linear in the value beyond the edge
    empty, response = residuals["fill"], _response(planes, conv, taps)
    declared = empty - conv.fillvalue * response
    weight = float(response @ response)
    value = float(empty @ response) / weight if weight > 0 else conv.fillvalue
    fitted = empty - value * response
    keep = float(declared @ declared - fitted @ fitted) <= _APART * noise
    residuals["fill"], fillvalues["fill"] = (declared, conv.fillvalue) if keep else (fitted, value)
    n = len(empty)
    squares = {name: float(r @ r) for name, r in residuals.items()}
    order = sorted(BOUNDARIES, key=lambda name: squares[name])
    allowed = _limit(n, df_resid, _LEVEL) * inflation * noise * n if n else math.inf
    first = residuals[order[0]]
    rows, equal = [], []
    for name in order:
        rms = math.sqrt(squares[name] / max(1, n))
        apart = float(np.linalg.norm(residuals[name] - first))
        ratio = rms / math.sqrt(variance) if variance > 0 else math.inf if rms > 0 else 1.0
        distance = apart / math.sqrt(noise) if noise > 0 else 0.0
        rows.append(BoundaryRow(name, fillvalues[name], rms, ratio, squares[name] <= allowed, distance))
        if apart <= 1e-9 * scale * math.sqrt(max(1, n)):
            equal.append(name)
    near = [r.boundary for r in rows if r.fits and squares[r.boundary] - squares[order[0]] <= _APART * noise]
    parts = 2 if conv.apart else 1  # of each number
    rows = [dataclasses.replace(row, rms=math.sqrt(parts) * row.rms) for row in rows]
    return BoundaryCheck(
        best=order[0] if rows[0].fits else None,
        equal=tuple(equal) if rows[0].fits else (),
        possible=tuple(near),
        declared=conv.boundary,
        n_pixels=n // parts,
        interior=math.sqrt(parts * variance),
        rows=tuple(rows),
    )


@functools.lru_cache(64)
def _inside(plan: geometry.Geometry) -> tuple[Shape, Shape]:
    """Return the first target pixel that depends on no boundary, and the rows and columns of those."""
    free = geometry.lay_out(plan.image_shape, plan.kernel_shape, dataclasses.replace(plan.convention, boundary=None))
    return free.offset, free.size


def _strips(observation: Observation) -> list[tuple[Shape, Shape]]:
    """Return the parts (first pixel, rows and columns) of the target that depend on the boundary."""
    (row, col), (rows, cols) = _inside(observation.geometry)
    n_rows, n_cols = observation.geometry.target_shape
    if observation.plane is not None and observation.plane.extended:  # all of it depends on planes beyond the image
        size = min(n_rows, _WINDOW), min(n_cols, _WINDOW)
        return [(((n_rows - size[0]) // 2, (n_cols - size[1]) // 2), size)]
    if not rows or not cols:
        return [((0, 0), (n_rows, n_cols))]
    parts = [
        ((0, 0), (row, n_cols)),
        ((row + rows, 0), (n_rows - row - rows, n_cols)),
        ((row, 0), (rows, col)),
        ((row, col + cols), (rows, n_cols - col - cols)),
    ]
    return [part for part in parts if min(part[1])]


def requests(observation: Observation) -> Iterator[Request]:
    """Yield what is read of an observation to hold its declared boundary against the edges."""
    conv, shapes = observation.geometry.convention, observation.geometry
    if conv.boundary is None or conv.mode == "valid":
        return
    plan = geometry.lay_out(shapes.image_shape, shapes.kernel_shape, conv)
    (down, across), (n_rows, n_cols) = plan.stride, plan.kernel_shape
    for at, (rows, cols) in _strips(observation):
        for reader in observation.targets:
            yield Reader(reader.array, shapes.target_shape), *at, (rows, cols)
        block = down * (rows - 1) + n_rows, across * (cols - 1) + n_cols
        for reader in observation.sources:
            yield source_reader(reader.array, plan), down * at[0], across * at[1], block


def _residual(
    planes: Sequence[_Plane], conv: Convention, memo: Memo | None = None, taps: Transforms | None = None
) -> tuple[Array, float]:
    """Return the residual of the target pixels (of weight 1) that depend on the boundary, and the target's rms."""
    parts, energy = [np.zeros(0)], 0.0
    for i, plane in enumerate(planes):
        result = Reader(plane.observation.targets[0].array, plane.observation.geometry.target_shape)
        arrays = plane.arrays(conv)
        for (at, size), model in zip(
            _strips(plane.observation), _models(plane, arrays, conv, memo, i, taps), strict=True
        ):
            values = result.block(*at, size)
            left = values - model if plane.surface is None else values - _surface(plane, at, size) - model
            parts.append(_weighed(plane, left, at))
            energy += float(np.sum(_weighed(plane, values, at) ** 2))
    every = np.concatenate(parts)
    return every, math.sqrt(energy / max(1, len(every)))


def _response(planes: Sequence[_Plane], conv: Convention, taps: Transforms) -> Array:
    """Return what the kernels make, near the edges, of ones beyond the edge and zeros inside."""
    ones = dataclasses.replace(conv, boundary="fill", fillvalue=1.0)
    parts = [np.zeros(0)]
    for i, plane in enumerate(planes):
        models = _models(plane, plane.arrays(ones, blank=True), ones, None, i, taps)
        parts += [_weighed(plane, model, at) for (at, _), model in zip(_strips(plane.observation), models, strict=True)]
    return np.concatenate(parts)


def _weighed(plane: _Plane, values: Array, at: Shape) -> Array:
    """Return those of a block's values that count, times the roots of their weights."""
    if plane.weights is None:
        return values.ravel()
    weights = plane.weights[at[0] : at[0] + values.shape[0], at[1] : at[1] + values.shape[1]]
    counted = weights > 0
    return np.asarray(values[counted] * np.sqrt(weights[counted]))


def _models(
    plane: _Plane,
    arrays: Sequence[npt.NDArray[np.generic]],
    conv: Convention,
    memo: Memo | None = None,
    number: int = 0,
    transforms: Transforms | None = None,
) -> Sequence[Array]:
    """Return what the kernels, whose spectra are kept, make of the arrays in each strip under a boundary."""
    one = plane.observation
    n_pixels = sum(math.prod(size) for _, size in _strips(one))
    if memo is None or one.plane is not None or 8 * len(memo.fits) * n_pixels > memo.room[0]:
        return [every[0] for every in _laid(plane, plane.kernels[None], arrays, conv, memo, number, transforms)]
    fits = memo.fits

    def of_all() -> tuple[Array, ...]:
        kernels = np.stack([fit.kernel.reshape(plane.kernels.shape) for fit in fits])
        return tuple(_laid(plane, kernels, arrays, conv, None, number, None))

    return [every[memo.at] for every in memo.once(("models", number), of_all)]


def _laid(
    plane: _Plane,
    kernels: Array,
    arrays: Sequence[npt.NDArray[np.generic]],
    conv: Convention,
    memo: Memo | None,
    number: int,
    transforms: Transforms | None,
) -> Iterator[Array]:
    """Yield what each of some sets of kernels makes of the arrays in each strip."""
    shapes = plane.observation.geometry
    plan = geometry.lay_out(shapes.image_shape, shapes.kernel_shape, conv)
    taps = kernels[..., ::-1, ::-1] if plan.flipped else kernels
    down, across = plan.stride
    for at, size in _strips(plane.observation):
        rows, cols = down * (size[0] - 1) + 1, across * (size[1] - 1) + 1
        block = (rows + plan.kernel_shape[0] - 1, cols + plan.kernel_shape[1] - 1)
        length = scipy.fft.next_fast_len(block[0], real=True), scipy.fft.next_fast_len(block[1], real=True)
        read = functools.partial(_spectra, plane, arrays, plan, (down * at[0], across * at[1]), block, length)
        spectra = read() if memo is None else memo.once(("strip", number, at), read)
        known = {} if transforms is None else transforms
        if (number, *length) not in known:
            known[number, *length] = np.conj(scipy.fft.rfft2(taps, length))
        total = np.einsum("syx,qsyx->qyx", spectra, known[number, *length])
        yield scipy.fft.irfft2(total, length)[:, :rows:down, :cols:across]


def _spectra(
    plane: _Plane,
    arrays: Sequence[npt.NDArray[np.generic]],
    plan: geometry.Geometry,
    first: Shape,
    block: Shape,
    length: Shape,
) -> Any:
    """Return the transforms of a block of arrays that take the place of a plane's images, padded with zeros."""
    both = zip(arrays, plane.observation.sources, strict=True)
    readers = [
        dataclasses.replace(
            source_reader(array, plan),
            weight=source.weight,
            fillvalue=0.0 if is_imaginary(source.array) else plan.convention.fillvalue,
        )
        for array, source in both
    ]
    return scipy.fft.rfft2(np.stack([reader.block(*first, block) for reader in readers]), length)


def _surface(plane: _Plane, at: Shape, size: Shape) -> Array:
    """Return a part of a plane's background."""
    assert plane.surface is not None
    whole = plane.observation.geometry.target_shape
    columns = plane.observation.columns_on(whole, (0, 0), whole)
    rows, cols = (slice(first, first + n) for first, n in zip(at, size, strict=True))
    return columns.surface(plane.surface, rows, cols)
