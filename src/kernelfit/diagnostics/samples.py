"""Tiles of a pair, and what a fit leaves of them: the sample that every look at the residual starts from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.estimate import Estimate
from ..core.geometry import Geometry, Shape
from ..core.validation import Array
from ..data.observation import Observation, Weights, own_row
from ..data.reader import Reader, any_in_window, read_all

#: The residual is looked at in so many square tiles at most, of such a side; a pair of few pixels gets fewer.
_TILES, _SIDE = 16, 64
#: That in volumes, where tiles of neighbouring planes lie upon each other.
_SIDE_OF_VOLUMES = 40
_PIXELS_PER_TILE = 2**18
#: Bytes of what is kept of the images for other targets.
_ROOM = 2**26


class Memo(dict[Any, Any]):
    """What targets share, while there is room, which are looked at together; `at` is the one looked at now."""

    observations: Sequence[Observation] = ()  # with all targets
    fits: Sequence[Estimate] = ()  # of each target
    at: int = 0

    def __init__(self, room: list[int] | None = None) -> None:
        self.room = [_ROOM] if room is None else room  # bytes that are left, of others that share them as well

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what stands under a key, made the first time."""
        if key in self:
            return self[key]
        made = make()
        if (size := _bytes(made)) <= self.room[0]:
            self[key] = made
            self.room[0] -= size
        return made


def _bytes(value: Any) -> int:
    return sum(map(_bytes, value)) if isinstance(value, tuple) else int(getattr(value, "nbytes", 0))


@dataclass(frozen=True, eq=False)
class Sample:
    """Tiles of a pair, all of one shape."""

    starts: list[Shape]  # the first of the used target pixels of each
    #: left, targets, model: (tiles, rows, cols); the residual, the target and what the kernel makes, a background left
    #: out; the first two times the root of the weights, zero where a pixel does not count
    left: Array
    targets: Array
    model: Array
    known: npt.NDArray[np.bool_]  # which pixels count
    root: Array | None  # the root of the weights
    blocks: Array  # (sources, tiles, rows, cols); the pixels of the images under the kernel
    made: Memo  # what is made of these
    at: int | None = None  # the number of the target among those of "every", whose residual it is, in `made`


def sample(
    observation: Observation,
    fit: Estimate,
    place: tuple[int, int],
    weights: Weights | None,
    side: Shape,
    starts: list[Shape],
    memo: Memo | None = None,
) -> Sample:
    """Read some tiles of a pair, which is the first number of `place` of so many that share the fit."""
    plan = observation.geometry
    step, pace = plan.stride
    whole = (step * (side[0] - 1) + 1, pace * (side[1] - 1) + 1)  # what the stride leaves of it are the tiles
    halo = (whole[0] + plan.kernel_shape[0] - 1, whole[1] + plan.kernel_shape[1] - 1)
    tiles = [(slice(r, r + side[0]), slice(c, c + side[1])) for r, c in starts]
    known, root, at = np.ones((len(starts), *side), dtype=bool), None, None

    def read() -> tuple[Array, Memo]:
        blocks = np.empty((len(observation.sources), len(starts), *halo))
        for i, (row, col) in enumerate(starts):
            read_all(observation.sources, blocks[:, i], step * row, pace * col)
        return blocks, Memo(None if memo is None else memo.room)

    key = (place[0], side, *starts)
    blocks, made = read() if memo is None or weights is not None else memo.once(key, read)
    if weights is not None:
        own = np.stack([weights[tile] for tile in tiles]).astype(np.float64)
        known, root = own > 0, np.sqrt(own)
        blocks[:, ~_needed(known, halo, (step, pace))] = 0.0
    size = [scipy.fft.next_fast_len(n, real=True) for n in halo]

    def model_of(kernel: Array) -> Array:
        # one thread: others would have to be woken up for less than a millisecond's work
        spectra = made.once("spectra", lambda: scipy.fft.rfft2(blocks, size, workers=1))
        return _filtered(spectra, kernel, plan, size, whole)

    def of(readers: Sequence[Reader], fits: Sequence[Estimate]) -> tuple[Array, Array, Array, Array]:
        """Return targets, models, residuals and kernels."""
        values = np.stack([[reader.block(*start, side) for start in starts] for reader in readers])
        values[:, ~known] = 0.0
        kernels = [one.kernel for one in fits]
        if len(fits) > 1 and whole[0] == plan.kernel_shape[0] == 1:
            models = _of_rows(blocks, plan, kernels)
        else:
            models = np.stack([model_of(kernel) for kernel in kernels])
        left = values - models
        for one, residual in zip(fits, left, strict=True):
            if one.background is not None:
                surface = own_row(observation, one.background.coefficients, *place)
                residual -= np.stack([observation.columns.surface(surface, *tile) for tile in tiles])
        return values, models, left, np.stack(kernels)

    if memo is not None and key in memo and ("every" in made or 24 * len(memo.fits) * known.size <= memo.room[0]):
        at, same = memo.at, (one for one in memo.observations if one.sources is observation.sources)
        targets, model, left, _ = (every[at] for every in made.once("every", lambda: of(next(same).targets, memo.fits)))
    else:
        targets, model, left, _ = (one[0] for one in of(observation.targets, [fit]))
    if root is not None:
        left, targets = np.where(known, left * root, 0.0), targets * root
    return Sample(starts, left, targets, model, known, root, blocks, made, at)


def filtered(blocks: Array, plan: Geometry, kernels: Sequence[Array], side: Shape) -> Array:
    """Return what kernels of some sources make of tiles of a shape, (kernels, tiles, rows, cols)."""
    size = [scipy.fft.next_fast_len(n, real=True) for n in blocks.shape[2:]]
    whole = plan.stride[0] * (side[0] - 1) + 1, plan.stride[1] * (side[1] - 1) + 1
    spectra = scipy.fft.rfft2(blocks, size, workers=1)
    return np.stack([_filtered(spectra, kernel, plan, size, whole) for kernel in kernels])


def _filtered(spectra: Array, kernel: Array, plan: Geometry, size: Sequence[int], whole: Shape) -> Array:
    """Return what a kernel makes of tiles, of which `whole` pixels are its own, by their transforms."""
    taps = kernel.reshape(-1, *plan.kernel_shape)
    of_taps = np.conj(scipy.fft.rfft2(taps[:, ::-1, ::-1] if plan.flipped else taps, size, workers=1))
    total = np.einsum("styx,syx->tyx", spectra, of_taps)
    (step, pace), made = plan.stride, scipy.fft.irfft2(total, size, workers=1)
    return np.array(made[:, : whole[0] : step, : whole[1] : pace])


def _of_rows(blocks: Array, plan: Geometry, kernels: Sequence[Array]) -> Array:
    """Return what many kernels make of tiles of one row: windows of few times the taps, and products by frequency."""
    n, pace = plan.kernel_shape[1], plan.stride[1]
    taps = np.stack([kernel.reshape(-1, n) for kernel in kernels])
    cols = blocks.shape[-1] - n + 1
    length = scipy.fft.next_fast_len(min(8 * n, cols + n), real=True)
    step = length - n + 1
    count = -(-cols // step)
    lines = np.zeros((*blocks.shape[:2], count * step + n - 1))
    lines[..., : blocks.shape[-1]] = blocks[:, :, 0]
    windows = np.lib.stride_tricks.sliding_window_view(lines, length, axis=2)[:, :, ::step]
    spectra = scipy.fft.rfft(windows, axis=3, workers=1).transpose(3, 1, 2, 0)
    of_taps = np.conj(scipy.fft.rfft(taps[..., ::-1] if plan.flipped else taps, length, workers=1))
    total = spectra.reshape(len(spectra), -1, len(blocks)) @ of_taps.transpose(2, 1, 0)
    made = scipy.fft.irfft(total.transpose(2, 1, 0), length, workers=1)[..., :step]
    return np.ascontiguousarray(made.reshape(len(taps), blocks.shape[1], 1, -1)[..., :cols:pace])


def number(observation: Observation) -> int:
    """Return how many tiles of a pair are looked at if nothing else is said."""
    return min(_TILES, max(4, observation.geometry.n_pixels // _PIXELS_PER_TILE))


def places_of_noise(observation: Observation, weights: Weights | None) -> tuple[Shape, list[Shape]]:
    """Return the same of the tiles, or of the stacks of a volume's, in which the noise is looked at."""
    side = _SIDE if observation.plane is None else _SIDE_OF_VOLUMES
    return places(observation, weights, largest=(side, side))


def places(
    observation: Observation, weights: Weights | None, most: int | None = None, largest: Shape = (_SIDE, _SIDE)
) -> tuple[Shape, list[Shape]]:
    """Return the shape of the tiles and where they begin: spread evenly, or where there are pixels that count."""
    rows, cols = observation.size
    side = (min(rows, largest[0]), min(cols, largest[1] if rows > 1 else largest[0] * largest[1]))
    most = number(observation) if most is None else most
    down = max(1, min(rows // side[0], round(math.sqrt(most * rows / cols))))
    across = max(1, min(cols // side[1], most // down))
    starts = [
        (int(rows * (i + 0.5) / down - side[0] / 2), int(cols * (j + 0.5) / across - side[1] / 2))
        for i in range(down)
        for j in range(across)
    ]
    middle = ((rows - side[0]) // 2, (cols - side[1]) // 2)  # where often stands what matters
    if all(abs(r - middle[0]) >= side[0] or abs(c - middle[1]) >= side[1] for r, c in starts):
        starts.append(middle)
    if isinstance(weights, np.ndarray):
        n_pixels = side[0] * side[1]
        seen = [int(np.count_nonzero(weights[r : r + side[0], c : c + side[1]])) for r, c in starts]
        if sum(seen) < 0.5 * n_pixels * len(starts):
            cells = [
                (r, c) for r in range(0, rows - side[0] + 1, side[0]) for c in range(0, cols - side[1] + 1, side[1])
            ]
            counts = [-int(np.count_nonzero(weights[r : r + side[0], c : c + side[1]])) for r, c in cells]
            better = sorted(sorted(range(len(cells)), key=counts.__getitem__)[: len(starts)])
            if -sum(counts[i] for i in better) > sum(seen):
                starts = [cells[i] for i in better]
    return side, starts


def _needed(known: npt.NDArray[np.bool_], halo: Shape, stride: Shape) -> npt.NDArray[np.bool_]:
    """Return which pixels of a block some pixel of its tile that counts depends on."""
    taps = [n - s * (m - 1) for n, m, s in zip(halo, known.shape[1:], stride, strict=True)]
    marks = np.zeros((len(known), *(n + k - 1 for n, k in zip(halo, taps, strict=True))), dtype=bool)
    marks[:, taps[0] - 1 : halo[0] : stride[0], taps[1] - 1 : halo[1] : stride[1]] = known
    return any_in_window(marks, (taps[0], taps[1]))
