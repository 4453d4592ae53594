"""Tiles of the pairs of a fit, as a sample of what its kernel leaves of the target."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.validation import Array
from ..data.chunked import behind
from ..data.observation import Observation, Weights
from ..data.reader import Request
from . import boundary, samples

Part = tuple[Observation, samples.Sample]
#: Tiles looked at: one for so many pixels, at least and at most so many; pairs at most; the side of a tile in pixels of
#: the image, and the least in those of the target.
_PIXELS_PER_TILE, _FEWEST, _MOST, _PAIRS, _SIDE, _LEAST = 2**17, 9, 64, 16, 64, 16
#: Pixels up to which a pair is small, and its tiles.
_SMALL = 2**18, 16
#: Tiles that tell the most: their side; the field is cut into so many parts along either axis, one tile in each being
#: looked at; so many in all, and at once; pixels up to which all are looked at for it, and rows at a time.
_CELL, _PARTS, _TELLING, _AT_ONCE, _TOLD, _ROWS = 32, 8, 128, 16, 2**24, 256
#: Noise that decides whether a pixel is saturated, in standard deviations.
_REACH = 4.0


def read(
    observations: Sequence[Observation],
    estimate: Estimate,
    weights: Sequence[Weights] | None,
    memo: samples.Memo | None = None,
    whole: int = 0,
) -> list[Part]:
    """Read some tiles of the pairs, or of some of them; all of a pair of up to `whole` pixels."""
    n = len(observations)
    chosen = range(n) if n <= _PAIRS else [int((i + 0.5) * n / _PAIRS) for i in range(_PAIRS)]
    parts = []
    for at in chosen:
        observation = observations[at]
        own = None if weights is None else weights[at]
        sides, starts = places(observation, own, len(chosen))
        if observation.geometry.n_pixels <= whole:
            sides, starts = observation.size, [(0, 0)]
        parts.append((observation, samples.sample(observation, estimate, (at, n), own, sides, starts, memo)))
    return [(o, p) for o, p in parts if p.known.any()]


def telling(
    observations: Sequence[Observation], estimate: Estimate, weights: Sequence[Weights] | None
) -> tuple[list[Part], float]:
    """Read tiles that tell the most, all over the field, and return their share of it; none if a pair has none."""
    parts, shares = [], []
    for at, observation in enumerate(observations):
        own = None if weights is None else weights[at]
        starts, share = telling_places(observation, own)
        if not starts:
            return [], 0.0
        shares.append(share)
        for i in range(0, len(starts), _AT_ONCE):
            some, side = starts[i : i + _AT_ONCE], (_CELL, _CELL)
            parts.append((observation, samples.sample(observation, estimate, (at, len(observations)), own, side, some)))
    return parts, min(shares)


def telling_places(observation: Observation, weights: Weights | None) -> tuple[list[Shape], float]:
    """Return where tiles of a pair begin that tell the most, and their share of it; none if it is not read for that."""
    plan, image = observation.geometry, dataclasses.replace(observation.sources[0], weight=None)
    counts = [n // _CELL for n in plan.size]
    if min(counts) < 1 or plan.n_pixels > _TOLD or behind(image.array)[0] is not None:
        return [], 0.0
    (step, pace), (height, width) = plan.stride, plan.kernel_shape
    energy, rows = np.empty((counts[0], counts[1])), max(_CELL, _ROWS // step // _CELL * _CELL)
    used = counts[1] * _CELL
    sky = None
    for first in range(0, counts[0] * _CELL, rows):
        count = min(rows, counts[0] * _CELL - first)
        block = image.block(step * first + height // 2, width // 2, (step * (count - 1) + 1, pace * (used - 1) + 1))
        block = block[::step, ::pace]
        sky = float(np.nanmedian(block[::4, ::4])) if sky is None else sky
        power = np.nan_to_num(np.square(block - sky), posinf=0.0)  # what is not finite does not count
        if weights is not None:
            power *= weights[first : first + count, :used]
        power = power.reshape(count // _CELL, _CELL, counts[1], _CELL).sum(axis=(1, 3))
        energy[first // _CELL : (first + count) // _CELL] = power
    row, col = np.indices(energy.shape)
    part = (row * _PARTS // counts[0]) * _PARTS + col * _PARTS // counts[1]
    order = np.argsort(-energy, axis=None)
    _, best = np.unique(part.ravel()[order], return_index=True)
    chosen = list(dict.fromkeys([*order[best], *order]))[:_TELLING]
    share = float(energy.ravel()[chosen].sum() / max(float(energy.sum()), 1e-300))
    return [(int(at // counts[1]) * _CELL, int(at % counts[1]) * _CELL) for at in chosen], share


def thinned(parts: Sequence[Part], observation: Observation) -> samples.Sample | None:
    """Return some tiles of a pair, as many as `samples.places` would have, None where those of `parts` are smaller."""
    part = next((p for o, p in parts if o is observation), None)
    if part is None or not _shared(observation):
        return None
    step = 1 if part.root is not None else max(1, len(part.left) // samples.number(observation))  # some hold nothing
    across = sum(row == part.starts[0][0] for row, _ in part.starts)
    step += step > 1 and math.gcd(step, across) > 1  # not all from one column
    some = slice(None, None, step)
    return dataclasses.replace(
        part,
        starts=part.starts[some],
        left=part.left[some],
        targets=part.targets[some],
        model=part.model[some],
        known=part.known[some],
        root=None if part.root is None else part.root[some],
        blocks=part.blocks[:, some],
        made=samples.Memo(),
        at=None,
    )


def _shared(observation: Observation) -> bool:
    """Say whether the tiles of a pair are as large as those of `samples.places`."""
    return observation.plane is None and max(observation.geometry.stride) == 1


def places(observation: Observation, weights: Weights | None, n: int) -> tuple[Shape, list[Shape]]:
    """Return the shape of the tiles of one of n pairs, and where they begin."""
    side = [max(_LEAST, _SIDE // s) for s in observation.geometry.stride]
    n_pixels = observation.geometry.n_pixels
    most = _SMALL[1] if n_pixels <= _SMALL[0] else min(_MOST, max(_FEWEST, n_pixels // _PIXELS_PER_TILE))
    sides, starts = samples.places(observation, weights, max(1, most // n), (side[0], side[1]))
    return sides, [(row // 2 * 2, col // 2 * 2) for row, col in starts]  # so that even rows are even ones in all


def requests(observations: Sequence[Observation], *, edges: bool = True) -> Iterator[Request]:
    """Yield what of stored arrays the diagnosis of a fit is going to read, as far as places without weights tell."""
    stored = [one for one in observations if any(behind(r.array)[0] for r in (*one.sources, *one.targets))]
    n = min(len(observations), _PAIRS)
    for one in stored:
        down, across = one.geometry.stride
        n_rows, n_cols = one.geometry.kernel_shape
        for (rows, cols), starts in (places(one, None, n), samples.places_of_noise(one, None)):
            halo = down * (rows - 1) + n_rows, across * (cols - 1) + n_cols
            for row, col in starts:
                yield from ((reader, row, col, (rows, cols)) for reader in one.targets)
                yield from ((reader, down * row, across * col, halo) for reader in one.sources)
        if edges:
            yield from boundary.requests(one)


def trimmed(parts: list[Part], *, weighted: bool) -> list[Part]:
    """Leave out what is predicted so near to the ends of the values that count that noise decides whether it counts."""
    kept = ((o, _trimmed(o, p, weighted)) for o, p in parts)
    return [(o, p) for o, p in kept if p.known.any()]


def _trimmed(observation: Observation, part: samples.Sample, weighted: bool) -> samples.Sample:
    dtype = np.dtype(observation.targets[0].array.dtype)
    if not part.known.any() or not (weighted or dtype.kind in "iu"):
        return part
    root = 1.0 if part.root is None else np.where(part.known, part.root, 1.0)
    values, left = part.targets / root, part.left / root
    if weighted:
        low, high = float(values[part.known].min()), float(values[part.known].max())
    else:
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    reach = _REACH * math.sqrt(float(np.mean(left[part.known] ** 2)))
    prediction = values - left
    known = part.known & (prediction > low + reach) & (prediction < high - reach)
    if np.array_equal(known, part.known):
        return part
    return with_residuals([(observation, part)], [part.left], [known])[0][1]


def with_residuals(parts: list[Part], left: Sequence[Array], kept: Sequence[npt.NDArray[np.bool_]]) -> list[Part]:
    """Return samples with other residuals and fewer pixels."""
    return [
        (o, dataclasses.replace(p, left=np.where(k, r, 0.0), known=k, root=root_of(p, k), at=None))
        for (o, p), r, k in zip(parts, left, kept, strict=True)
    ]


def root_of(part: samples.Sample, known: npt.NDArray[np.bool_]) -> Array:
    """Return the square roots of the weights, zero where a pixel does not count."""
    return np.where(known, 1.0 if part.root is None else part.root, 0.0)


def energy_of(tiles: Sequence[Array]) -> float:
    """Return the sum of all squares."""
    return sum(float(np.vdot(t, t)) for t in tiles)
