"""Pixels to summed spectra: an image cut into blocks, each tapered and transformed (Welch's method), or taken whole."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import add, bands, in_order
from ..core import geometry
from ..core.cross_spectra import Complex, CrossSpectra
from ..core.geometry import Geometry, Shape
from ..core.validation import Array, as_float
from ..data import polyphase
from ..data.observation import Observation, refuse_nonfinite
from ..data.reader import Reader

#: Share of each side of a block that is tapered, half of it at each end, where data are not periodic.
TAPER = 0.25
_ROWS = 128  # rows of a whole image or spectrum handled at a time
_SAMPLE = 16  # rows of each so many from which the mean is taken


@dataclass(frozen=True)
class _Layout:
    """Where blocks lie, what they own (every pixel belongs to one), their size, the transform's, and the tapers."""

    starts: list[Shape]
    owned: list[Shape]
    size: Shape
    transform: Shape
    shift: Shape
    tapers: tuple[Array, Array]
    weight_square: float
    overlap: Array
    tapered: bool
    periodic: bool

    @property
    def n_rows(self) -> int:
        return self.starts[-1][0] + self.size[0]

    @property
    def n_cols(self) -> int:
        return self.starts[-1][1] + self.size[1]


def _period(plan: Geometry) -> Shape | None:
    """Return the period of the extended image and of the target, or None if they have none."""
    conv = plan.convention
    if conv.boundary == "wrap" and conv.mode != "valid":
        if any(n % s for n, s in zip(plan.image_shape, plan.stride, strict=True)):
            return None
        return plan.image_shape[0] // plan.stride[0], plan.image_shape[1] // plan.stride[1]
    if (conv.boundary == "fill" and conv.mode == "full") or plan.kernel_shape == (1, 1):
        return plan.size
    return None


def tukey(n: int, share: float) -> Array:
    """Return a window of `n` points with a cosine ramp over ``share / 2`` of it at each end, none of them zero."""
    ramp = share * n / 2
    edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return np.where(edge < ramp, 0.5 - 0.5 * np.cos(np.pi * edge / max(ramp, 0.5)), 1.0)


def _lagged(window: Array, n_lags: int) -> Array:
    """Return ``sum_t w(t) w(t + d) / sum_t w(t)^2`` for lags d from 0."""
    lagged = [float(window[: len(window) - d] @ window[d:]) if d < len(window) else 0.0 for d in range(n_lags)]
    return np.array(lagged) / lagged[0]


def _lay_out(plan: Geometry, block: object, taper: object, period: Shape | None) -> _Layout:
    """Cut a problem, of this period if any, into blocks."""
    region = period or plan.size
    sides = list(region)
    if isinstance(block, str):
        if block != "auto":
            raise ValueError(f"got block={block!r}, need None (the whole image), 'auto', an int or a pair of ints")
        wanted = [max(64, 1 << math.ceil(math.log2(16 * k))) for k in plan.kernel_shape]
        sides = [b if n >= 2 * b else n for b, n in zip(wanted, region, strict=True)]
    elif block is not None:
        wanted = list(geometry.as_pair(block, "block"))
        if any(b < 2 * k for b, k in zip(wanted, plan.kernel_shape, strict=True)):
            rows, cols = plan.kernel_shape
            raise ValueError(
                f"got block={block!r}, need sides of at least twice those of the {rows}x{cols} kernel, better 16 times"
            )
        sides = [min(b, n) for b, n in zip(wanted, region, strict=True)]
    fixed = None if block is None or isinstance(block, str) else geometry.as_pair(block, "block")
    periodic = period is not None and tuple(sides) == tuple(region) and fixed in (None, tuple(sides))
    share = _as_taper(taper, 0.0 if periodic else TAPER)
    starts, owned, transform, windows, overlaps, squares = [], [], [], [], [], 1.0
    for axis, (n, side, k) in enumerate(zip(region, sides, plan.kernel_shape, strict=True)):
        window = tukey(side, share)
        length = side
        if fixed:
            length = fixed[axis]  # so that smaller images add up with larger ones
        elif not periodic and side == n:
            length = scipy.fft.next_fast_len(max(n, k), real=True)
        window *= math.sqrt(length / float(window @ window))
        step = side * (1 - share / 2)
        count = math.ceil((n - side) / step) + 1
        first = [round(i * (n - side) / (count - 1)) for i in range(count)] if count > 1 else [0]
        weight = np.zeros(n)
        for s in first:
            weight[s : s + side] += window**2
        squares *= float(weight @ weight)
        starts.append(first)
        owned.append([b - a for a, b in zip(first, [*first[1:], n], strict=True)])
        transform.append(length)
        windows.append(window)
        overlaps.append(np.ones(k) if periodic else _lagged(window, k))
    rows, cols = plan.kernel_shape
    inside = all(0 <= b < k for b, k in zip(plan.before, plan.kernel_shape, strict=True))
    return _Layout(
        starts=[(r, c) for r in starts[0] for c in starts[1]],
        owned=[(r, c) for r in owned[0] for c in owned[1]],
        size=(sides[0], sides[1]),
        transform=(transform[0], transform[1]),
        # of periodic data any will do, as far as the reader reaches, which an origin outside the kernel is beyond
        shift=((rows - 1) // 2, (cols - 1) // 2) if not periodic else plan.before if inside else (0, 0),
        tapers=(windows[0], windows[1]),
        weight_square=squares,
        overlap=len(starts[0]) * len(starts[1]) * np.outer(*overlaps),
        tapered=share > 0 or transform != sides,
        periodic=periodic,
    )


def _as_taper(taper: object, default: float) -> float:
    """Return the tapered share of a side."""
    if isinstance(taper, str) and taper == "auto":
        return default
    if isinstance(taper, bool) or not isinstance(taper, numbers.Real) or not 0 <= as_float(taper) <= 1:
        msg = f"got taper={taper!r}, need 'auto' or a share of each side from 0 (no taper) to 1"
        raise (ValueError if isinstance(taper, (str, numbers.Real)) else TypeError)(msg)
    return float(taper)


def _as_detrend(detrend: object, periodic: bool) -> bool:
    """Return whether means are to be removed."""
    if detrend is not None and not (isinstance(detrend, str) and detrend in ("auto", "mean")):
        msg = f"got detrend={detrend!r}, need 'auto', 'mean' or None"
        raise (ValueError if isinstance(detrend, str) else TypeError)(msg)
    return not periodic if detrend == "auto" else detrend == "mean"


def _means(observation: Observation, layout: _Layout, *, exact: bool) -> tuple[float, ...]:
    """Return about the means of images and target, from every eighth row if there are many."""
    # A constant near the mean does to keep it from leaking, unless a constant beside the kernel is to be eliminated.
    n_rows, n_cols = layout.n_rows, layout.n_cols
    few = n_rows <= 8 * _ROWS or exact
    tiles = [(r, min(_ROWS if few else _SAMPLE, n_rows - r)) for r in range(0, n_rows, _ROWS)]
    n, sums = n_cols * sum(n for _, n in tiles), []
    for reader, (down, across) in (
        *((source, layout.shift) for source in observation.sources),
        (observation.targets[0], (0, 0)),
    ):
        sums.append(sum(float(_view(reader, r + down, across, (n, n_cols)).sum()) for r, n in tiles) / n)
    return tuple(sums)


def _view(reader: Reader, row: int, col: int, shape: Shape) -> Array:
    """Return a block as float64, without a copy where the image holds it as such; not to be written to."""
    array, top, left = reader.array, row - reader.before[0], col - reader.before[1]
    inside = top >= 0 and left >= 0 and top + shape[0] <= array.shape[0] and left + shape[1] <= array.shape[1]
    if inside and reader.stride == (1, 1) and isinstance(array, np.ndarray) and array.dtype == np.float64:
        return np.asarray(array[top : top + shape[0], left : left + shape[1]])
    return reader.block(row, col, shape)


class _Spectra(NamedTuple):
    """Sums over blocks of the spectra; the target's sum and sum of squares; what is finite if all spectra are."""

    image_power: Array
    target_power: Array
    cross: Complex
    total: float
    energy: float
    check: float


def _whole(observation: Observation, layout: _Layout, means: tuple[float, ...] | None, workers: int) -> _Spectra:
    """Transform both as they are, less their means if given, one after the other through the same scratch."""
    # By SciPy: at 4096^2 FFTW takes longer, planned without timing, and 20 s to plan with it.
    from ..compiled import spectra as _spectral_loops

    rows, cols = layout.transform
    (n_rows, n_cols), (down, across) = layout.size, layout.tapers
    strips = range(0, rows, _ROWS)
    plain = means is None and not layout.tapered
    scratch: Array | None = None
    sums = np.zeros(2)

    def spectrum(reader: Reader, at: Shape, mean: float) -> Complex:
        nonlocal scratch
        if plain and reader.array.dtype == np.float64:
            block = _view(reader, *at, layout.size)
        else:
            block = scratch = np.zeros(layout.transform) if scratch is None else scratch

            def strip(first: int) -> Array:
                found, n = np.zeros(2), min(_ROWS, n_rows - first)
                if n > 0:
                    reader.read(block[first : first + n, :n_cols], at[0] + first, at[1])
                    if not plain:
                        part, ramp = block[first : first + n], np.ascontiguousarray(down[first : first + n])
                        _spectral_loops.taper(part, mean, ramp, across, n, n_cols, found)
                return found

            sums[:] = np.sum(list(in_order(strips, strip, workers)), axis=0)
        return np.asarray(scipy.fft.rfft2(block, norm="ortho", workers=workers))

    mean_x, mean_y = means or (0.0, 0.0)
    image = spectrum(observation.sources[0], layout.shift, mean_x).view(np.float64)
    cross = spectrum(observation.targets[0], (0, 0), mean_y)
    scratch = None
    first, half = cross[0, 0].real, cols // 2 + 1

    def multiply(r: int) -> Array:
        found, part = np.zeros(2), slice(r, r + _ROWS)
        _spectral_loops.cross_spectra_in_place(image[part], cross[part].view(np.float64), cols % 2 == 0, found)
        return found

    powers = np.sum(list(in_order(strips, multiply, workers)), axis=0)
    if plain:  # Parseval
        sums[:] = first * math.sqrt(rows * cols), powers[1]
    return _Spectra(image[:, :half], image[:, half:], cross, sums[0], sums[1], float(np.sum(powers)))


def _by_blocks(observation: Observation, layout: _Layout, means: tuple[float, ...] | None, workers: int) -> _Spectra:
    """Add up the spectra of all blocks, bands of blocks fixed by the problem."""
    from ..compiled import fft
    from ..compiled import spectra as _spectral_loops

    rows, cols = layout.transform
    shape = (rows, cols // 2 + 1)
    mean_x, mean_y = means or (0.0, 0.0)
    readers = ((observation.sources[0], layout.shift, mean_x), (observation.targets[0], (0, 0), mean_y))
    down, across = (taper / math.sqrt(n) for taper, n in zip(layout.tapers, (rows, cols), strict=True))
    (height, width), blocks = layout.size, list(zip(layout.starts, layout.owned, strict=True))

    def band(some: list[tuple[Shape, Shape]]) -> tuple[Array, ...]:
        powers, sums = (np.zeros(shape), np.zeros(shape)), np.zeros((2, 2))
        cross = np.zeros(shape, dtype=np.complex128)
        transform = fft.take(fft.BlockTransforms, rows, cols)
        block, spectra = transform.block, transform.spectra
        block[...] = 0.0  # beyond the pixels of a block larger than the image
        for (row, col), owned in some:
            for i, (reader, shift, mean) in enumerate(readers):
                reader.read(block[:height, :width], row + shift[0], col + shift[1])
                _spectral_loops.taper(block, mean, down, across, *owned, sums[i])
                transform.forward(i)
            _spectral_loops.cross_spectra(spectra[0], spectra[1], *powers, cross)
        fft.give_back(transform)
        return (*powers, cross, sums[1])  # type: ignore[return-value]

    image, target, both, sums = add(in_order(bands(blocks), band, workers))
    check = float(np.sum(image) + np.sum(target))
    return _Spectra(image, target, both, sums[0], sums[1], check)  # type: ignore[arg-type]


def _of_several(observation: Observation, layout: _Layout, means: tuple[float, ...] | None, workers: int) -> _Spectra:
    """Add up the spectra of several sources, each multiplied with each."""
    (rows, cols), (height, width), m = layout.transform, layout.size, len(observation.sources)
    power: Complex = np.zeros((m, m, rows, cols // 2 + 1), dtype=np.complex128)
    cross, target = np.zeros_like(power[0]), np.zeros(power.shape[2:])
    taper, (*own, last) = np.multiply.outer(*layout.tapers), means or (0.0,) * (m + 1)
    total = energy = 0.0
    for (row, col), (n_rows, n_cols) in zip(layout.starts, layout.owned, strict=True):
        at = row + layout.shift[0], col + layout.shift[1]
        blocks = np.stack([
            *((s.block(*at, layout.size) - mean) * taper for s, mean in zip(observation.sources, own, strict=True)),
            np.zeros(layout.size),
        ])  # fmt: skip
        values = observation.targets[0].block(row, col, (height, width)) - last
        blocks[-1] = values * taper
        total += float(values[:n_rows, :n_cols].sum())
        energy += float(np.square(values[:n_rows, :n_cols]).sum())
        *spectra, y = scipy.fft.rfft2(blocks, layout.transform, norm="ortho", workers=workers)
        target += y.real**2 + y.imag**2
        for a, x in enumerate(spectra):
            cross[a] += np.conj(x) * y
            for b in range(a, m):
                power[a, b] += np.conj(x) * spectra[b]
    for a in range(m):
        power[a + 1 :, a] = np.conj(power[a, a + 1 :])
    check = float(np.sum(np.einsum("aarc->", power).real) + target.sum())
    return _Spectra(power, target, cross, total, energy, check)  # type: ignore[arg-type]


def spectral_statistics(
    observation: Observation, block: object, detrend: object, taper: object, workers: int
) -> CrossSpectra:
    """Return the spectra of a problem; with a background the means are taken off."""
    return lot_spectra([observation], block, detrend, taper, workers)


def lot_spectra(
    observations: Sequence[Observation], block: object, detrend: object, taper: object, workers: int
) -> CrossSpectra:
    """Return the spectra of a pair, or of all planes of a volume, which share a background."""
    user, observation = observations[0].geometry, observations[0]
    period, order = _period(user), None
    exact = observation.background is not None
    if user.convention.strided or len(observation.sources) > 1:
        order = polyphase.order(user, len(observation.sources)).reshape(-1, *user.kernel_shape)
        observations = [polyphase.split(one) for one in observations]
    plan = observations[0].geometry
    layout = _lay_out(plan, block, taper, period)
    if user.convention.strided and layout.periodic:
        layout = dataclasses.replace(layout, shift=(0, 0))  # in which any will do
    remove = exact or _as_detrend(detrend, layout.periodic)
    with np.errstate(all="ignore"):  # what is not finite shows in the sums
        every = [_means(one, layout, exact=exact) for one in observations] if remove else []
        means = tuple(math.fsum(some) / len(some) for some in zip(*every, strict=True)) or None
        single = _whole if len(layout.starts) == 1 else _by_blocks
        total: CrossSpectra | None = None
        for one in observations:
            found = (single if order is None else _of_several)(one, layout, means, workers)
            if not math.isfinite(found.check + found.energy):
                refuse_nonfinite(one)
            if means and float(np.mean(np.abs(found.image_power))) <= 1e-26 * len(layout.starts) * means[0] ** 2:
                found.image_power[...], found.cross[...] = 0.0, 0.0  # a constant less its mean is rounding
            own = _summed(found, layout, plan.kernel_shape, observation.convention, order)
            total = own if total is None else total + own
    assert total is not None
    return total


def _summed(
    found: _Spectra, layout: _Layout, shape: Shape, convention: geometry.Convention, order: npt.NDArray[np.intp] | None
) -> CrossSpectra:
    """Return sums of spectra with what they were made of."""
    return CrossSpectra(
        image_power=found.image_power,
        target_power=found.target_power,
        cross=found.cross,
        block=layout.transform,
        n_blocks=len(layout.starts),
        weight_square=layout.weight_square,
        overlap=layout.overlap,
        n_pixels=layout.n_rows * layout.n_cols,
        target_energy=found.energy,
        target_sum=found.total,
        shape=shape,
        shift=layout.shift,
        periodic=layout.periodic,
        convention=convention,
        order=order,
    )
