"""Pixels to statistics: tiles, bands, threads, and the choice between the two engines.

With the valid problem of `geometry`, ``G[p, q] = sum_t P[t + p] P[t + q]``. It depends on the lag ``q - p`` but for
what lies along the edges, so it is built in three steps:

1. the lag sums of the whole extended image, and ``b[p] = sum_t Y[t] P[t + p]``, in one pass over tiles;
2. the lag sums of the strips ``side - 1`` pixels wide along each of the four edges;
3. for each pair of taps, the lag sum less what lies outside the pair's box of target pixels.

Step 1 is done by an engine. "direct" forms the lag products of pixels. "fft" transforms segments of rows and forms
the lag products, across rows, of their spectra: along a row the transform does all lags at once, down the
columns the lags are few and each costs one multiply-add per frequency, with no zero padding and no halo to pay for.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from .. import geometry, pair
from ..geometry import Geometry, Shape
from ..pair import Array, Problem, Reader
from ..statistics import NormalStats
from . import polyphase
from .threads import Part as Part
from .threads import Work
from .threads import in_order as in_order

METHODS = ("auto", "direct", "fft", "cg", "wiener")
#: At most so many partial sums; their number depends on the problem alone, so every number of workers gives the same
# bits.
N_BANDS = 32


class Choice(NamedTuple):
    """An engine, and why it was chosen."""

    method: str
    reason: str


def choose_method(image_shape: object, kernel_shape: object, stride: object = 1) -> Choice:
    """Say which method `find_kernel` would use for one image and one kernel.

    Parameters
    ----------
    image_shape : tuple of int
        Rows and columns of the image.
    kernel_shape : int or tuple of int
        Rows and columns of the kernel.
    stride : int or tuple of int, optional
        Pixels of the image from one pixel of the target to the next, default 1.

    Returns
    -------
    Choice
        A named tuple: `method`, "direct", "fft" or "cg", and `reason`, the costs that were compared.

    Notes
    -----
    Counted per target pixel, for a kernel of R x C taps with C >= R (the longer side lies along the transformed axis):

    * direct: reading, R (2C - 1) multiply-adds for the lag sums and R C for the moment;
    * fft: two real transforms of segments of L samples, of which B = L - 2 (C - 1) are new, and the same again for
      the overlaps of neighbouring segments; 2 R complex multiply-adds per frequency, that is 4 R real ones per sample.

    With a stride of S x T the image is S T sources, each of which has R x C of the taps, the sides divided by the
    stride: (S T)^2 times the work for the lag sums, S T times that for the moment, and S T + 1 transforms. Conjugate
    gradients do not know of it.

    Then, for m = R C taps, once: the Cholesky factor and its inverse take 2/3 m^3 multiply-adds. Conjugate gradients
    ("cg") need neither, nor the m x m matrix, but about 40 iterations, each of which multiplies a matrix of R x R for
    each of C frequencies, one of C x C for each of R, and makes about ten transforms of 2R x 2C; and before, the lag
    sums of all pairs of rows in the strips along the four edges. They give no covariance, so they are used for more
    than 2000 taps only, where they take less than half the time, or the matrix and its factor more than 1 GiB.

    The constants, nanoseconds per multiply-add and per transformed sample, come from ``benchmarks/calibrate.py``;
    only their ratios matter.

    Examples
    --------
    >>> import kernelfit
    >>> kernelfit.choose_method((4096, 4096), 15).method
    'fft'
    >>> kernelfit.choose_method((4096, 4096), (3, 3)).method
    'direct'
    >>> kernelfit.choose_method((4096, 4096), 127).method
    'cg'
    """
    image, kernel = geometry.as_pair(image_shape, "image_shape"), geometry.kernel_shape(kernel_shape)
    steps = geometry.lattice(stride, 0)[0]
    phases = min(steps[0], kernel[0]), min(steps[1], kernel[1])
    image = -(-image[0] // steps[0]), -(-image[1] // steps[1])
    rows, cols = -(-kernel[0] // phases[0]), -(-kernel[1] // phases[1])
    if cols < rows:
        image, rows, cols = image[::-1], cols, rows
    n_pixels, n_phases = max(1, image[0] * image[1]), phases[0] * phases[1]
    direct = READ_NS + DIRECT_NS * rows * n_phases * (n_phases * (2 * cols - 1) + cols)
    layout = segment(image[1], cols - 1, n_phases)
    waste = layout.length / layout.step * (1 + (cols - 1) * 2 / layout.length)
    fft = (n_phases + 1) * (TRANSFORM_NS + 2 * n_phases * rows * SPECTRAL_NS) * waste + FFT_START_NS / n_pixels
    n_taps = kernel[0] * kernel[1]
    dense = 2 / 3 * n_taps**3 * DENSE_NS
    strips = 2 * 2 * 4 * (rows**2 * image[1] + cols**2 * image[0]) / 2 * SPECTRAL_NS
    iterative = strips + 40 * n_taps * (4 * (rows + cols) * SPECTRAL_NS + 10 * 4 * TRANSFORM_NS)
    if steps == (1, 1) and (16 * n_taps**2 > 2**30 or (n_taps > 2000 and 2 * iterative < dense)):
        return Choice("cg", f"estimated {iterative / 1e9:.2g} s to iterate, {dense / 1e9:.2g} s to factorise")
    method = "direct" if direct <= fft else "fft"
    return Choice(method, f"estimated {direct:.1f} ns per pixel direct, {fft:.1f} ns by fft")


# Nanoseconds on one core, from benchmarks/calibrate.py.
READ_NS = 3.3
DIRECT_NS = 0.062
STRIP_NS = 0.05
SPECTRAL_NS = 0.063
TRANSFORM_NS = 4.1
DENSE_NS = 0.063
FFT_START_NS = 9e5


class Segments(NamedTuple):
    """How a row is cut: segments of `step` new samples, transformed at `length`."""

    length: int
    step: int


def segment(width: int, overlap: int, n_sources: int = 1) -> Segments:
    """Cut `width` positions, each with a halo of `overlap`, into equal segments of the cheapest length.

    A segment of B positions and its halo h has B + h samples; its lag products up to h are free of wrap-around if it is
    padded to L >= B + 2h. The work is L log2 L per segment and twice 2h log2 2h for the overlap of two neighbours,
    which both count. Lengths of 1, 3, 5 and 9 times 2^a up to 2048, or 12h, whichever is larger, are tried: unplanned
    transforms of other lengths are up to twice as slow per sample, and longer ones leave the cache. Several sources,
    each of which is transformed and multiplied by every other, share that room.
    """
    best, best_cost = Segments(1, 1), math.inf
    least = _good_length(max(overlap, 1) + 2 * overlap)
    longest = max(256, 2048 // n_sources, 12 * overlap, least)
    lengths = {m << a for m in (1, 3, 5, 9) for a in range(longest.bit_length())}
    for length in sorted(n for n in lengths if least <= n <= longest):
        segments = math.ceil(width / (length - 2 * overlap))
        step = max(math.ceil(width / segments), overlap, 1)
        # each further segment also costs about as much as 64 samples in calls and copies
        cost = segments * (length * math.log2(2 * length) + 640)
        cost += (segments - 1) * 2 * overlap * math.log2(4 * overlap + 2)
        if cost < best_cost:
            best, best_cost = Segments(length, step), cost
    return best


def _good_length(least: int) -> int:
    """Return the smallest of 2^a, 3 * 2^a, 5 * 2^a and 9 * 2^a that is no less than `least`."""
    return min(m << max(0, math.ceil(math.log2(least / m))) for m in (1, 3, 5, 9))


@dataclass(frozen=True)
class Frame:
    """The problem as an engine sees it: without stride, and the longer side of the kernel lies along the columns."""

    plan: Geometry
    rows: int
    cols: int
    kernel_rows: int
    kernel_cols: int
    sources: tuple[Reader, ...]
    targets: tuple[Reader, ...]
    swapped: bool

    @classmethod
    def of(cls, problem: Problem) -> "Frame":
        """Lay a problem the way that is cheaper."""
        plan, part = problem.geometry, polyphase.split(problem)
        (rows, cols), (kernel_rows, kernel_cols) = part.size, part.geometry.kernel_shape
        if kernel_rows <= kernel_cols:
            return cls(plan, rows, cols, kernel_rows, kernel_cols, part.sources, part.targets, swapped=False)
        return cls(
            plan,
            cols,
            rows,
            kernel_cols,
            kernel_rows,
            tuple(r.transposed() for r in part.sources),
            tuple(r.transposed() for r in part.targets),
            swapped=True,
        )

    @property
    def row_halo(self) -> int:
        """Rows by which the extended image exceeds the target."""
        return self.kernel_rows - 1

    @property
    def col_halo(self) -> int:
        """Columns by which the extended image exceeds the target."""
        return self.kernel_cols - 1

    def to_user(self, taps: Array) -> Array:
        """Turn arrays (..., sources, rows, cols) of the frame's taps into arrays of the user's kernels."""
        return polyphase.to_user(np.swapaxes(taps, -1, -2) if self.swapped else taps, self.plan)

    def from_user(self, taps: Array) -> Array:
        """Undo `to_user`."""
        taps = polyphase.from_user(taps, self.plan)
        return np.ascontiguousarray(np.swapaxes(taps, -1, -2)) if self.swapped else taps


class Pass(NamedTuple):
    """One reading of all pixels: what threads do, band by band, and what is made of the sum of what they return."""

    jobs: "Sequence[Callable[[], tuple[Array, ...]]]"
    finish: "Callable[..., Sums]"


@dataclass
class Sums:
    """What one pass over the pixels adds up, in the frame's tap order.

    Attributes
    ----------
    lags : ndarray, shape (sources, sources, kernel_rows, 2 * kernel_cols - 1)
        Lag products of the extended images, rows lags from 0, column lags from ``-(kernel_cols - 1)``.
    moment : ndarray, shape (targets, sources, kernel_rows, kernel_cols)
        Products of target, or residual, and image.
    energy, total : ndarray, shape (targets,)
        Sum of squares and sum of the target, or residual.
    """

    lags: Array
    moment: Array
    energy: Array
    total: Array


#: Called with the name of a stage, the number of steps done and their total.
Progress = Callable[[str, int, int], object]


def counted(parts: Iterable[Part], total: int, progress: Progress | None) -> Iterable[Part]:
    """Pass parts on, and tell `progress` of each."""
    for done, part in enumerate(parts, 1):
        if progress is not None:
            progress("reading pixels", done, total)
        yield part


def bands(tiles: list[Work]) -> list[list[Work]]:
    """Split a list of tiles into at most N_BANDS runs of neighbours, by their number alone."""
    per_band = math.ceil(len(tiles) / N_BANDS)
    return [tiles[i : i + per_band] for i in range(0, len(tiles), per_band)]


def grid(rows: int, cols: int, tile: Shape) -> list[tuple[int, int, int, int]]:
    """Cut rows x cols into tiles (row, col, n_rows, n_cols)."""
    return [
        (r, c, min(tile[0], rows - r), min(tile[1], cols - c))
        for c in range(0, cols, tile[1])
        for r in range(0, rows, tile[0])
    ]


def add(parts: Iterable[tuple[Array, ...]]) -> list[Array]:
    """Add up tuples of arrays in the order in which they come."""
    sums: list[Array] = []
    for part in parts:
        if sums:
            for s, p in zip(sums, part, strict=True):
                s += p
        else:
            sums = [np.array(p) for p in part]
    return sums


# --- the direct engine ---


def _direct_pass(frame: Frame, taps: Array | None) -> Pass:
    """Add up the products of pixels; with `taps`, those of the residual of that kernel, without the lags."""
    from . import _loops

    y_halo, x_halo = frame.row_halo, frame.col_halo
    n_sources, n_targets = len(frame.sources), len(frame.targets)
    height, width = 64, 1024 if n_sources == 1 else 512

    def band(tiles: list[tuple[int, int, int, int]]) -> tuple[Array, ...]:
        lags = np.zeros((n_sources, n_sources, frame.kernel_rows, 2 * x_halo + 1))
        moment = np.zeros((n_targets, n_sources, frame.kernel_rows, frame.kernel_cols))
        moments = np.zeros((n_targets, 2))
        images = np.zeros((n_sources, height + y_halo, width + 2 * x_halo + 3))  # the loops do four lags at a time
        result, model = np.empty((height, width)), np.empty((height, width))
        for row, col, n_rows, n_cols in tiles:
            for image, reader in zip(images, frame.sources, strict=True):
                reader.read(image[: n_rows + y_halo, : n_cols + 2 * x_halo], row, col - x_halo)
            if taps is None:
                for s in range(n_sources):
                    for t in range(n_sources):
                        _loops.lag_sums(images[s], x_halo, images[t], 0, n_rows, n_cols, lags[s, t])
            used_rows, used_cols = min(n_rows, frame.rows - row), min(n_cols, frame.cols - col)
            if used_rows < 1 or used_cols < 1:
                continue
            for t, reader in enumerate(frame.targets):
                used = result[:used_rows, :used_cols]
                reader.read(used, row, col)
                if taps is not None:
                    for s in range(n_sources):
                        _loops.correlate(images[s], x_halo, taps[t, s], used_rows, used_cols, model)
                        _loops.subtract(result, model, 0, used_rows, used_cols)
                _loops.moments(result, used_rows, used_cols, moments[t])
                for s in range(n_sources):
                    _loops.lag_sums(result, 0, images[s], x_halo, used_rows, used_cols, moment[t, s])
        return lags, moment, moments

    def finish(lags: Array, moment: Array, moments: Array) -> Sums:
        return Sums(lags, moment, moments[:, 0], moments[:, 1])

    extended = (frame.rows + y_halo, frame.cols + x_halo)
    tiles = grid(*(extended if taps is None else (frame.rows, frame.cols)), (height, width))
    return Pass([partial(band, some) for some in bands(tiles)], finish)


# --- the fft engine ---


def _fft_pass(frame: Frame, taps: Array | None) -> Pass:
    """Do the work of `_direct_pass` on the spectra of segments of rows."""
    from . import _fft, _loops

    y_halo, x_halo = frame.row_halo, frame.col_halo
    n_sources, n_targets = len(frame.sources), len(frame.targets)
    layout = segment(frame.cols, x_halo, n_sources)
    rows = frame.rows + (y_halo if taps is None else 0)
    extended = frame.rows + y_halo  # for either kind of pass, so that both use the same transforms
    height = math.ceil(extended / max(1, round(extended / max(128 if n_sources == 1 else 64, 8 * frame.kernel_rows))))
    # Kernels of one row have no row lags, so the rows of several segments may stand in one tile, one below the other.
    stacked = max(1, min(128, max(16, 2**17 // layout.length)) // rows) if y_halo == 0 else 1
    depth = height * stacked + y_halo
    n_taps = -(-frame.kernel_rows // 4) * 4  # the loops do four at a time, or one that is left over
    n_lags = frame.kernel_rows if frame.kernel_rows % 4 == 1 else n_taps
    starts = [(r, c) for c in range(0, frame.cols, layout.step) for r in range(0, rows, height)]
    tiles = [starts[i : i + stacked] for i in range(0, len(starts), stacked)]
    # What lies in two neighbouring segments is counted twice.
    short = _good_length(2 * x_halo) if taps is None and x_halo and frame.cols > layout.step else 0

    if taps is not None:
        more = [(0, 0), (0, 0), (0, n_taps - frame.kernel_rows), (0, 0)]
        kernel = scipy.fft.rfft(np.pad(taps, more), n=layout.length, norm="forward", workers=1).swapaxes(-1, -2)
        kernel_real, kernel_imag = np.ascontiguousarray(kernel.real), np.ascontiguousarray(kernel.imag)

    def read(reader: Reader, out: Array, tile: list[Shape], n_rows: int, width: int) -> None:
        (row, col), n = tile[0], len(tile)
        if n == 1:
            reader.read(out[:n_rows, :width], row, col)
            return
        line = reader.block(row, col, (n_rows, (n - 1) * layout.step + width))
        side_by_side = np.lib.stride_tricks.sliding_window_view(line, width, axis=1)[:, :: layout.step]
        out[: n * n_rows].reshape(n, n_rows, -1)[:, :, :width] = side_by_side.swapaxes(0, 1)

    def band(tiles: list[list[Shape]]) -> tuple[Array, ...]:
        # All calls that follow release the interpreter for a tenth of a millisecond or more, and are few.
        transform = _fft.borrow(depth, layout.length, n_sources + n_targets, n_sources)
        image, result, model, values = transform.image, transform.result, transform.model, transform.spectra
        turned = np.empty(values.shape[-1])
        sums = np.zeros((2, n_sources, n_sources + n_targets, layout.length // 2 + 1, n_lags))
        twice = np.zeros((2, n_sources, n_sources, short // 2 + 1, n_lags))
        moments = np.zeros((n_targets, 2))
        transform.clear(layout.step + x_halo, layout.step)
        if short:
            overlap = _fft.borrow(depth, short, n_sources, n_sources)
            overlap.clear(x_halo, 0)
        for tile in tiles:
            n_rows = min(height, rows - tile[0][0])
            n = n_rows * len(tile)
            again = [(i, col) for i, (_, col) in enumerate(tile) if col > 0] if short else []
            for s, reader in enumerate(frame.sources):
                read(reader, image, tile, n_rows + y_halo, layout.step + x_halo)
                transform.forward(s)
                if again:
                    first = again[0][0]
                    overlap.image[: n + y_halo, :x_halo] = image[: n + y_halo, :x_halo]
                    overlap.image[: first * n_rows, :x_halo] = 0.0
                    overlap.forward(s)
            for t, reader in enumerate(frame.targets):
                read(reader, result, tile, n_rows, layout.step)
                if taps is not None:
                    _loops.spectral_correlate(
                        values, n_sources, n_sources + t, kernel_real[t], kernel_imag[t], n, turned
                    )
                    transform.backward(n_sources + t)
                    for i, (_, col) in enumerate(tile):
                        width = min(layout.step, frame.cols - col)
                        _loops.subtract(result, model, i * n_rows, (i + 1) * n_rows, width)
                _loops.moments(result, n, layout.step, moments[t])
                transform.forward(n_sources + t)
            for s in range(n_sources):
                first = 0 if taps is None else n_sources
                _loops.spectral_lag_sums(values, first, s, n, sums[0, s], sums[1, s], turned)
                if again:
                    _loops.spectral_lag_sums(overlap.spectra, 0, s, n, twice[0, s], twice[1, s], turned)
        _fft.give_back(transform)
        if short:
            _fft.give_back(overlap)
        return sums, twice, moments

    def inverse(sums: Array, length: int, lags: npt.NDArray[np.intp]) -> Array:
        """Turn summed cross-spectra (2, ..., frequencies, row lags) into lag sums (..., row lags, column lags)."""
        result: Array = scipy.fft.irfft(sums[0] + 1j * sums[1], n=length, axis=-2, workers=1)
        return np.swapaxes(result[..., lags % length, : frame.kernel_rows], -1, -2)

    def finish(sums: Array, twice: Array, moments: Array) -> Sums:
        both_ways = np.arange(-x_halo, x_halo + 1)
        lags = inverse(sums[:, :, :n_sources], layout.length, both_ways)
        moment = inverse(sums[:, :, n_sources:], layout.length, np.arange(frame.kernel_cols))
        if short:
            lags -= inverse(twice, short, both_ways)
        return Sums(np.swapaxes(lags, 0, 1), np.swapaxes(moment, 0, 1), moments[:, 0], moments[:, 1])

    return Pass([partial(band, some) for some in bands(tiles)], finish)


# --- the edges ---


def strip_lags(readers: Sequence[Reader], row: int, n_rows: int, extent: int, lag: int, method: str) -> Array:
    """Return the lag products of the rows of a strip.

    ``out[s*n + r, t*n + q, lag + l] = sum_x A_s[row + r, x] A_t[row + q, x + l]`` over x < `extent`, for sources A.
    """
    from . import _fft, _loops

    n = len(readers) * n_rows
    out, length = np.zeros((n, n, 2 * lag + 1)), 0
    if n == 0:  # a kernel of one row; the strip would be as long as the image
        return out
    if lag == 0 and extent < 8:
        for column in np.concatenate([r.block(row, 0, (n_rows, extent)) for r in readers]).T:
            out[:, :, 0] += np.multiply.outer(column, column)
        return out
    if method == "fft":
        # One multiply-add for each pair of rows, lag and column; or two transforms of each row, the products, and
        # one transform back of each pair.
        least = n * n / 2 * (2 * lag + 1) * extent * STRIP_NS
        for candidate in (_good_length(3 * lag + 1 << i) for i in range(1, 6)):
            forth = math.ceil(extent / (candidate - 2 * lag)) * candidate * (2 * n * TRANSFORM_NS + n * n * SPECTRAL_NS)
            cost = forth + n * n / 2 * candidate * TRANSFORM_NS
            if cost < least:
                length, least = candidate, cost
    if not length:
        step = 1024
        for start in range(0, extent, step):
            cols = min(step, extent - start)
            wide = np.concatenate([r.block(row, start - lag, (n_rows, cols + 2 * lag)) for r in readers])
            _loops.strip_lag_sums(wide, cols, lag, out)
    else:
        step = length - 2 * lag
        starts = range(0, extent, step)
        at_once = min(len(starts), max(1, 2**16 // (n * length)))
        transform = _fft.borrow(at_once * n, length, 2, 1)
        transform.clear(length, step)
        sums, turned = np.zeros((length // 2 + 1, n, 2 * n)), np.empty(2 * n)
        for first in range(0, len(starts), at_once):
            group = starts[first : first + at_once]
            for i, start in enumerate(group):
                for s, reader in enumerate(readers):
                    block = transform.image[i * n + s * n_rows : i * n + (s + 1) * n_rows]
                    reader.read(block[:, : step + 2 * lag], row, start - lag)
            transform.image[:, step + 2 * lag :] = 0.0
            transform.result[:, :step] = transform.image[:, lag : lag + step]
            transform.forward(0)
            transform.forward(1)
            _loops.spectral_products(transform.spectra, n, len(group), sums, turned)
        _fft.give_back(transform)
        pairs = np.triu_indices(n)
        products = np.ascontiguousarray(sums.view(np.complex128)[:, pairs[0], pairs[1]].T)
        out[pairs] = scipy.fft.irfft(products, n=length, axis=1, overwrite_x=True, workers=1)[:, : 2 * lag + 1]
    below = np.tril_indices(n, -1)
    out[below] = out[below[1], below[0], ::-1]
    return out


def _strip_jobs(frame: Frame, method: str) -> list[Callable[[], tuple[Array, ...]]]:
    """Return what makes the lag products of the strips above, below, left and right of the boxes."""
    y_halo, x_halo = frame.row_halo, frame.col_halo
    turned = tuple(r.transposed() for r in frame.sources)
    strips = [
        (frame.sources, 0, y_halo, frame.cols + x_halo, x_halo, method),
        (frame.sources, frame.rows, y_halo, frame.cols + x_halo, x_halo, method),
        (turned, 0, x_halo, frame.rows + y_halo, y_halo, method),
        (turned, frame.cols, x_halo, frame.rows + y_halo, y_halo, method),
    ]
    return [lambda s=s: (strip_lags(*s),) for s in strips]  # type: ignore[misc]


def _gram(frame: Frame, lags: Array, strips: Sequence[Array], workers: int) -> Array:
    """Turn lag sums, and those of the strips, into the exact Gram matrix, in the user's tap order."""
    from . import _loops

    y_halo, x_halo = frame.row_halo, frame.col_halo
    n_y, n_x, n_sources = frame.kernel_rows, frame.kernel_cols, len(frame.sources)
    corners = np.empty((n_sources, 2, 2, y_halo, x_halo))
    for s, reader in enumerate(frame.sources):
        for i, row in enumerate((0, frame.rows)):
            for j, col in enumerate((0, frame.cols)):
                corners[s, i, j] = reader.block(row, col, (y_halo, x_halo))

    m = n_y * n_x
    gram = np.empty((n_sources * m, n_sources * m))
    stride_y, stride_x = (1, n_y) if frame.swapped else (n_x, 1)
    first, strided = 0, frame.plan.convention.strided
    if frame.plan.flipped and not strided:
        first, stride_y, stride_x = m - 1, -stride_y, -stride_x

    def place(job: tuple[int, int, int]) -> None:
        s, t, start = job
        tables = (
            np.ascontiguousarray(table[s * n : (s + 1) * n, t * n : (t + 1) * n])
            for table, n in zip(strips, (y_halo, y_halo, x_halo, x_halo), strict=True)
        )
        places = (s * m + first, t * m + first, stride_y, stride_x)
        if s > t and start == 0:  # taps of the same row stand in the block of (t, s) too: one thread writes each place
            start = step
        _loops.assemble(lags[s, t], *tables, corners[s], corners[t], start, step, gram, *places)

    # Small ones are too little for threads, which would wait for each other.
    step = min(n_y, 4) if m * n_x > 10**4 else 1
    for _ in in_order([(*st, i) for st in np.ndindex(n_sources, n_sources) for i in range(step)], place, workers):
        pass
    return polyphase.reordered(gram, frame.plan) if strided else gram


# --- the doors ---


def resolve(problem: Problem, method: str) -> Choice:
    """Return the method asked for, or chosen."""
    geometry.known(method, METHODS, "method")
    if method == "auto":
        (rows, cols), (down, across) = problem.size, problem.geometry.stride
        return choose_method((rows * down, cols * across), problem.geometry.kernel_shape, (down, across))
    return Choice(method, "as asked")


_PASSES = {"direct": _direct_pass, "fft": _fft_pass}


def pass_over(
    problem: Problem,
    frame: Frame,
    method: str,
    workers: int,
    taps: Array | None,
    progress: Progress | None,
    also: "Sequence[Callable[[], tuple[Array, ...]]]" = (),
) -> tuple[Sums, list[Array]]:
    """Read all pixels once, for the sums of the pair or, with `taps`, of the residual; refuse NaN and overflow.

    The threads do the jobs of `also` as well, and what these return is returned in their order.
    """
    with np.errstate(all="ignore"):
        jobs, finish = _PASSES[method](frame, taps)
        parts = iter(in_order([*jobs, *also], lambda job: job(), workers))
        sums = finish(*add(counted(itertools.islice(parts, len(jobs)), len(jobs), progress)))
        others = [part for more in parts for part in more]
        if not all(np.isfinite(a).all() for a in (sums.lags, sums.moment, sums.energy)):
            pair.refuse_nonfinite(problem)
    return sums, others


def statistics(problem: Problem, method: str, workers: int, progress: Progress | None = None) -> list[NormalStats]:
    """Return the statistics of a problem, one for each target."""
    plan = problem.geometry
    frame = Frame.of(problem)
    sums, strips = pass_over(problem, frame, method, workers, None, progress, _strip_jobs(frame, method))
    with np.errstate(all="ignore"):
        gram = _gram(frame, sums.lags, strips, workers)
    moments = frame.to_user(sums.moment).reshape(len(frame.targets), -1)
    return [
        NormalStats(
            gram=gram,
            moment=moments[t],
            target_energy=float(sums.energy[t]),
            target_sum=float(sums.total[t]),
            n_pixels=plan.n_pixels,
            terms=(plan.kernel_shape,) * len(problem.sources),
            convention=plan.convention,
        )
        for t in range(len(frame.targets))
    ]


def residual_moments(
    problem: Problem, kernels: Array, method: str, workers: int, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Return ``A'r`` and ``r'r`` of the residual ``r = y - A k`` taken from the pixels.

    Parameters
    ----------
    problem : Problem
        The pair.
    kernels : ndarray, shape (targets, sources, rows, cols)
        The kernel of each target and source.
    method : {"direct", "fft"}
        The engine.
    workers : int
        Number of threads.
    progress : callable, optional
        Told of each band of pixels.

    Returns
    -------
    moments : ndarray, shape (targets, taps)
    energies : ndarray, shape (targets,)
    """
    frame = Frame.of(problem)
    sums, _ = pass_over(problem, frame, method, workers, frame.from_user(kernels), progress)
    return frame.to_user(sums.moment).reshape(len(frame.targets), -1), sums.energy


def accumulate(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape,
    *,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    stride: int | Shape = 1,
    offset: int | Shape = 0,
    mask: "npt.ArrayLike | None" = None,
    image_mask: "npt.ArrayLike | None" = None,
    weights: "npt.ArrayLike | None" = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = None,
    method: str = "auto",
    workers: int | None = None,
) -> NormalStats:
    """Read the pixels of a pair once and return everything least squares can learn from them.

    With the design matrix A, one row for each target pixel t that is used and one column for each tap p,
    ``A[t, p] = image[t - (p - origin)]`` (for correlation ``image[t + (p - origin)]``), and the target's pixels y,
    the statistics are the Gram matrix ``A'A``, the moment ``A'y``, ``y'y`` and the number of pixels. A itself is never
    formed: the work grows with the number of pixels times the shorter side of the kernel at most, the memory not
    with the image at all. With a stride there is a row for every stride-th pixel only.

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        The image before. Any real dtype and memory layout, memory-mapped files included; it is read in blocks,
        converted to float64 one block at a time, and never changed.
    target : array_like
        What became of it; its shape is the image's (`mode` "same"), smaller by side - 1 ("valid") or larger by
        side - 1 ("full") along each axis; with a stride of them, that many rounded up.
    shape : int or (int, int)
        Rows and columns of the kernel, odd or even.
    mode : {"same", "valid", "full"}, optional
        How the two lie on each other. The default is the first of them that the shapes allow.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lay beyond the edge when the target was made: `fillvalue`, the opposite edge, the image mirrored about its
        border ("symm", edge pixel repeated, or "mirror", not repeated), or the nearest pixel. The default None assumes
        nothing and uses only target pixels whose whole footprint lies inside the image.
    fillvalue : float, optional
        The value beyond the edge for ``boundary="fill"``, default 0.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel, for mode "same". The default is SciPy signal's
        centre, ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel is laid on the image flipped (default) or as it is.
    stride, offset : int or (int, int), optional
        Every how many pixels of what the kernel makes the target holds one, and which one first, as in `find_kernel`;
        all by default.
    mask, image_mask, weights, nan, saturated : optional
        Which target pixels count, and how much, as in `find_kernel`, but that `saturated` is None by default. The
        statistics are exact whatever they are, which may take long for weights that differ from pixel to pixel and
        kernels of hundreds of taps; `find_kernel` has a quicker way.
    method : {"auto", "direct", "fft"}, optional
        The engine; both give the same sums to rounding. The default is `choose_method`'s verdict.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.

    Returns
    -------
    NormalStats
        The statistics; those of other pairs that share the kernel can be added with ``+``.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type.
    ValueError
        If the shapes fit no mode, the pixels are too few for the taps, a pixel is NaN or infinite, or a keyword's
        value is unknown.

    See Also
    --------
    find_kernel : accumulate, solve and refine in one call.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((40, 50))
    >>> target = 0.5 * image[:, :-2]
    >>> stats = kernelfit.accumulate(image, target, (1, 3))
    >>> stats.n_pixels, stats.gram.shape
    (1920, (3, 3))
    >>> np.round(stats.solve().kernel, 6) + 0.0
    array([[0. , 0. , 0.5]])
    """
    from ..weights import masks, weighted

    plain_image, image_masked = masks.unmasked(image)
    plain_target, target_masked = masks.unmasked(target)
    rules = masks.Rules(mask, image_mask, weights, nan, saturated, target_masked, image_masked)
    problem = pair.check(
        plain_image,
        plain_target,
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    threads = pair.as_workers(workers)
    if method in ("cg", "wiener"):
        msg = f"got method={method!r}, which forms no statistics; need 'auto', 'direct' or 'fft' (find_kernel takes it)"
        raise ValueError(msg)
    choice = resolve(problem, method).method
    engine = "fft" if choice == "cg" else choice
    judged = rules.judge(problem)
    if judged is not None:
        return weighted.statistics([judged.item], engine, threads)
    return statistics(problem, engine, threads)[0]
