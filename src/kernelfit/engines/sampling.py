"""A sample of weighted patches."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.validation import Array
from ..data import polyphase
from ..data.observation import Items, WeightedObservation, lots_of, n_unknowns, own_unknowns
from . import patches
from .weighted import sample_size


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A sample of weighted patches, drawn so that weighted sums over all pixels are estimated without bias."""

    #: (n, unknowns); in the order of the user's kernel, with the terms of the background, times the root of the weight
    #: over the probability of being drawn
    patches: Array
    values: Array  # (n,); the target's pixels, times the same
    roots: Array  # (n,); those roots
    weights: Array  # (n,); the weights
    share: float  # how many of the pixels were drawn

    @property
    def gram(self) -> Array:
        """The estimate of the weighted Gram matrix."""
        upper = scipy.linalg.blas.dsyrk(1.0, self.patches.T)
        return patches.symmetric(upper)


def draw(items: Items, most: int = 2**62) -> Sample:
    """Draw patches, of a pair `most`, likelier where weight and structure are large; always the same ones."""
    rng = np.random.default_rng(0)
    scaled, values, roots, weights = [], [], [], []
    n_all = n_drawn = 0
    size, every = n_unknowns(items), lots_of(items)
    owners = {at: (number, len(lot)) for number, lot in enumerate(every) for at in lot}
    for i, item in enumerate(items):
        n_pixels, n_taps, (number, n_planes) = item.observation.geometry.n_pixels, item.n_taps, owners[i]
        wanted = min(n_pixels, -(-min(most, sample_size(n_pixels * n_planes, n_taps)) // n_planes))
        parts = list(_candidates(item, rng, 4 * wanted))
        plain = np.concatenate([part.weights for part in parts])
        spread = np.concatenate([part.weights * part.spread for part in parts])
        both = plain / max(float(plain.sum()), 1e-300) + spread / max(float(spread.sum()), 1e-300)
        chance = np.minimum(1.0, 0.5 * wanted * both)
        kept = rng.random(len(chance)) < chance
        first = 0
        for part in parts:
            own = slice(first, first + len(part.weights))
            first = own.stop
            if not kept[own].any():
                continue
            root = np.sqrt(part.weights / chance[own])[kept[own]]
            found, target, own_weights = part.read(item, kept[own])
            roots.append(root)
            weights.append(own_weights)
            wide = np.zeros((len(found), size))
            wide[:, own_unknowns(items, number)] = found * root[:, None]
            scaled.append(wide)
            values.append(target * root)
            n_drawn += len(found)
        n_all += item.n_pixels
    whole = [np.concatenate(parts) for parts in (scaled, values, roots, weights)]
    return Sample(whole[0], whole[1], whole[2], whole[3], n_drawn / max(1, n_all))


@dataclasses.dataclass(frozen=True, eq=False)
class _Candidates:
    """Pixels of some rows of a pair: places, weights over the chance of being a candidate, and variance around them."""

    first: int
    height: int
    rows: patches.Index
    cols: patches.Index
    weights: Array
    spread: Array
    blocks: list[Array]

    def read(self, item: WeightedObservation, kept: npt.NDArray[np.bool_]) -> tuple[Array, Array, Array]:
        """Return the patches, in the order of the user's kernel, the target's pixels and their weights."""
        plan = item.observation.geometry
        rows, cols = self.rows[kept], self.cols[kept]
        found = patches.gathered(self.blocks, rows, cols, plan.phase_shape)
        found = np.ascontiguousarray(found[:, polyphase.order(plan, len(item.observation.sources))])
        if item.columns is not None:
            found = np.hstack([found, item.columns.at(self.first + rows, cols)])
        target = item.observation.targets[0].block(self.first, 0, (self.height, plan.size[1]))
        return found, target[rows, cols], item.weights[self.first + rows, cols].astype(np.float64)


def _candidates(item: WeightedObservation, rng: np.random.Generator, wanted: int) -> Iterator[_Candidates]:
    """Cut out some bands of rows, spread evenly, and choose about so many pixels in them."""
    plan, sources = item.observation.geometry, polyphase.split(item.observation).sources
    (n_y, n_x), (n_rows, n_cols) = plan.phase_shape, plan.size
    height = max(n_y, 32)
    n_bands = -(-n_rows // height)
    least = -(-4 * wanted // (height * n_cols))
    chosen = n_bands if plan.n_pixels <= 2**18 else min(n_bands, max(16, least))
    starts = [min(n_rows, round(b * n_rows / n_bands)) for b in range(n_bands + 1)]
    picked = np.arange(chosen) * n_bands // chosen + (n_bands // chosen) // 2
    n_inside = int(sum(starts[b + 1] - starts[b] for b in picked)) * n_cols
    for b in picked:
        first, height = starts[b], starts[b + 1] - starts[b]
        weights = item.weights[first : first + height]
        n_cells = min(height * n_cols, max(1, round(wanted * height * n_cols / n_inside)))
        edges = np.arange(n_cells + 1) * (height * n_cols) // n_cells
        places = edges[:-1] + (rng.random(n_cells) * np.diff(edges)).astype(np.int64)
        rows, cols = places // n_cols, places % n_cols
        found = weights[rows, cols] * (np.diff(edges) * (plan.n_pixels / n_inside))
        kept = found > 0
        rows, cols = rows[kept], cols[kept]
        blocks = [s.block(first, 0, (height + n_y - 1, n_cols + n_x - 1)) for s in sources]
        spread = sum((_variance_around(block, rows, cols, (n_y, n_x)) for block in blocks), np.zeros(len(rows)))
        yield _Candidates(first, height, rows, cols, found[kept], spread, blocks)


def _variance_around(block: Array, rows: patches.Index, cols: patches.Index, kernel: tuple[int, int]) -> Array:
    """Return about the variance of patches: that of the cells, as large as a patch, in which its corners lie."""
    cells = [slice(0, n // k * k) for n, k in zip(block.shape, kernel, strict=True)]
    shape = (cells[0].stop // kernel[0], kernel[0], cells[1].stop // kernel[1], kernel[1])
    tiled = block[cells[0], cells[1]].reshape(shape)
    n = kernel[0] * kernel[1]
    mean = np.einsum("iajb->ij", tiled) / n
    variance = np.maximum(np.einsum("iajb,iajb->ij", tiled, tiled) / n - mean**2, 0.0)
    y, x = (np.minimum(i // k, n - 1) for i, k, n in zip((rows, cols), kernel, variance.shape, strict=True))
    below, right = np.minimum(y + 1, variance.shape[0] - 1), np.minimum(x + 1, variance.shape[1] - 1)
    return np.asarray(variance[y, x] + variance[below, x] + variance[y, right] + variance[below, right])
