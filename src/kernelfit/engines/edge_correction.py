"""The edges: what lies outside each pair of taps' box of target pixels, taken off the lag sums of the whole image.

``G[p, q] = sum_t P[t + p] P[t + q]`` depends on the lag ``q - p`` but for that: the lag sums of the strips ``side - 1``
pixels wide along each of the four edges.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.fft

from ..compiled.threads import in_order
from ..core.validation import Array
from ..data import polyphase
from ..data.reader import Reader, Request
from .cost_model import SPECTRAL_NS, STRIP_NS, TRANSFORM_NS, good_length
from .passes import Frame, n_vectors


def strip_lags(readers: Sequence[Reader], row: int, n_rows: int, extent: int, lag: int, method: str) -> Array:
    """Return the lag products of the rows of a strip."""
    # ``out[s*n + r, t*n + q, lag + l] = sum_x A_s[row + r, x] A_t[row + q, x + l]`` over x < `extent`, for sources A.
    from ..compiled import fft, lag_sums, spectral_products
    from ..compiled.jit import LANES

    n = len(readers) * n_rows
    out, length = np.zeros((n, n, 2 * lag + 1)), 0
    if n == 0:  # a kernel of one row; the strip would be as long as the image
        return out
    if lag == 0 and extent < 8:
        for column in np.concatenate([r.block(row, 0, (n_rows, extent)) for r in readers]).T:
            with np.errstate(over="ignore", invalid="ignore"):  # sums that overflow are refused later, in words
                out[:, :, 0] += np.multiply.outer(column, column)
        return out
    if method == "fft":
        # One multiply-add for each pair of rows, lag and column; or two transforms of each row, the products, and
        # one transform back of each pair.
        least = n * n / 2 * (2 * lag + 1) * extent * STRIP_NS
        for candidate in (good_length(3 * lag + 1 << i) for i in range(1, 6)):
            forth = math.ceil(extent / (candidate - 2 * lag)) * candidate * (2 * n * TRANSFORM_NS + n * n * SPECTRAL_NS)
            cost = forth + n * n / 2 * candidate * TRANSFORM_NS
            if cost < least:
                length, least = candidate, cost
    if not length:
        step = 1024
        for start in range(0, extent, step):
            cols = min(step, extent - start)
            wide = np.concatenate([r.block(row, start - lag, (n_rows, cols + 2 * lag)) for r in readers])
            lag_sums.strip_lag_sums(wide, cols, lag, out)
    else:
        step = length - 2 * lag
        starts = range(0, extent, step)
        at_once = min(len(starts), max(1, 2**16 // (n * length)))
        transform = fft.borrow(at_once * n, length, 2, 1)
        transform.clear(length, step)
        sums = np.zeros((n, -(-n // 8) * 8, n_vectors(length) * LANES))
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
            spectral_products.spectral_products(transform.spectra, n, len(group), sums)
        fft.give_back(transform)
        pairs = np.triu_indices(n)
        products = sums.view(np.complex128)[pairs[0], pairs[1] - pairs[0], : length // 2 + 1]
        out[pairs] = scipy.fft.irfft(products, n=length, axis=1, overwrite_x=True, workers=1)[:, : 2 * lag + 1]
    below = np.tril_indices(n, -1)
    out[below] = out[below[1], below[0], ::-1]
    return out


def strip_jobs(frame: Frame, method: str) -> list[Callable[[], tuple[Array, ...]]]:
    """Return what makes the lag products of the strips above, below, left and right of the boxes."""
    if _lines(frame):
        return []
    y_halo, x_halo = frame.row_halo, frame.col_halo
    turned = tuple(r.transposed() for r in frame.sources)
    strips = [
        (frame.sources, 0, y_halo, frame.cols + x_halo, x_halo, method),
        (frame.sources, frame.rows, y_halo, frame.cols + x_halo, x_halo, method),
        (turned, 0, x_halo, frame.rows + y_halo, y_halo, method),
        (turned, frame.cols, x_halo, frame.rows + y_halo, y_halo, method),
    ]
    return [lambda s=s: (strip_lags(*s),) for s in strips]  # type: ignore[misc]


def requests(frame: Frame) -> Iterator[Request]:
    """Yield what the strips are made of."""
    (y_halo, x_halo), (rows, cols) = (frame.row_halo, frame.col_halo), (frame.rows, frame.cols)
    for reader in frame.sources:
        for row in (0, rows):
            yield reader, row, 0, (y_halo, cols + x_halo)
        for col in (0, cols):
            yield reader, 0, col, (rows + y_halo, x_halo)


def _lines(frame: Frame) -> bool:
    """Say whether it is signals rather than images, whose strips are a few pixels, and need no table of products."""
    return frame.kernel_rows == 1 and frame.rows <= 4


def gram_matrix(frame: Frame, lags: Array, strips: Sequence[Array], workers: int) -> Array:
    """Turn lag sums, and those of the strips, into the exact Gram matrix, in the user's tap order."""
    from ..compiled.gram import assemble, assemble_line

    y_halo, x_halo = frame.row_halo, frame.col_halo
    n_y, n_x, n_sources = frame.kernel_rows, frame.kernel_cols, len(frame.sources)
    m = n_y * n_x
    gram = np.empty((n_sources * m, n_sources * m))
    stride_y, stride_x = (1, n_y) if frame.swapped else (n_x, 1)
    first, strided = 0, frame.plan.convention.strided
    if frame.plan.flipped and not strided:
        first, stride_y, stride_x = m - 1, -stride_y, -stride_x

    if _lines(frame):
        columns = (0, frame.cols)
        ends = [np.stack([r.block(0, col, (frame.rows, x_halo)) for col in columns]) for r in frame.sources]
        for s in range(n_sources):
            for t in range(s, n_sources):
                line = np.ascontiguousarray(lags[s, t, 0])
                assemble_line(line, ends[s], ends[t], gram, s * m + first, t * m + first, stride_x)
        return polyphase.reordered(gram, frame.plan) if strided else gram

    corners = np.empty((n_sources, 2, 2, y_halo, x_halo))
    for s, reader in enumerate(frame.sources):
        for i, row in enumerate((0, frame.rows)):
            for j, col in enumerate((0, frame.cols)):
                corners[s, i, j] = reader.block(row, col, (y_halo, x_halo))

    def place(job: tuple[int, int, int]) -> None:
        s, t, start = job
        tables = [
            table[s * n : (s + 1) * n, t * n : (t + 1) * n]
            for table, n in zip(strips, (y_halo, y_halo, x_halo, x_halo), strict=True)
        ]
        places = (s * m + first, t * m + first, stride_y, stride_x)
        if s > t and start == 0:  # taps of the same row stand in the block of (t, s) too: one thread writes each place
            start = step
        assemble(lags[s, t], tables, (corners[s], corners[t]), start, step, gram, places)

    # Small ones are too little for threads, which would wait for each other.
    step = min(n_y, 4) if m * n_x > 9000 else 1
    for _ in in_order([(*st, i) for st in np.ndindex(n_sources, n_sources) for i in range(step)], place, workers):
        pass
    return polyphase.reordered(gram, frame.plan) if strided else gram
