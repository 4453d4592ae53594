"""Loops over pixels: lag sums, correlations, moments."""

import functools

import numpy as np
import numpy.typing as npt

from .jit import LANES, Array, flat, item, jit_sum, load, put, repeated, store, zeros


@jit_sum
def add_products(a, a_at, b, b_at, out, at, fours, step, n, n_j, end):
    """Add the lag products of four rows with one: ``out[o + step r + j] += sum_k a[p_r + k] * b[q + j + k]``."""
    # ``p_0, p_1, p_2, p_3, q, o, first, last`` is a line of `fours`; p starts at `a_at`, q at `b_at` and o at `at`, and
    # first <= r < last. k < n, j < n_j, four at a time, so that eight loads feed sixteen multiply-adds. Two or three
    # that are left over are done as four, if the rows of b go on that far: they end `end` after q.
    by_four = n_j - n_j % 4
    if n_j % 4 > 1 and end >= n + by_four + 3:
        by_four += 4
    for line in range(len(fours)):
        four = fours[line]
        p0, p1, p2, p3 = a_at + four[0], a_at + four[1], a_at + four[2], a_at + four[3]
        q, o, first, last = b_at + four[4], at + four[5], four[6], four[7]
        for j in range(0, by_four, 4):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = 0.0
            for k in range(n):
                v0, v1, v2, v3 = item(a, p0 + k), item(a, p1 + k), item(a, p2 + k), item(a, p3 + k)
                y = q + j + k  # a lag after the other, since registers are few
                w = item(b, y)
                a0 += v0 * w
                b0 += v1 * w
                c0 += v2 * w
                d0 += v3 * w
                w = item(b, y + 1)
                a1 += v0 * w
                b1 += v1 * w
                c1 += v2 * w
                d1 += v3 * w
                w = item(b, y + 2)
                a2 += v0 * w
                b2 += v1 * w
                c2 += v2 * w
                d2 += v3 * w
                w = item(b, y + 3)
                a3 += v0 * w
                b3 += v1 * w
                c3 += v2 * w
                d3 += v3 * w
            for r in range(first, last):
                if r > 0:
                    a0, a1, a2, a3 = (b0, b1, b2, b3) if r == 1 else (c0, c1, c2, c3) if r == 2 else (d0, d1, d2, d3)
                z = o + r * step + j
                put(out, z, item(out, z) + a0)
                if n_j - j > 1:
                    put(out, z + 1, item(out, z + 1) + a1)
                if n_j - j > 2:
                    put(out, z + 2, item(out, z + 2) + a2)
                if n_j - j > 3:
                    put(out, z + 3, item(out, z + 3) + a3)
        for j in range(by_four, n_j):
            a0 = b0 = c0 = d0 = 0.0
            for k in range(n):
                w0 = item(b, q + j + k)
                a0 += item(a, p0 + k) * w0
                b0 += item(a, p1 + k) * w0
                c0 += item(a, p2 + k) * w0
                d0 += item(a, p3 + k) * w0
            for r in range(first, last):
                a0 = a0 if r == 0 else b0 if r == 1 else c0 if r == 2 else d0
                z = o + r * step + j
                put(out, z, item(out, z) + a0)


@functools.lru_cache(64)
def fours_of_block(rows: int, n_i: int, a_step: int, b_step: int, step: int) -> npt.NDArray[np.int64]:
    """Return the rows for `add_products` of two blocks whose row lags are 0 to n_i - 1, a row of b after the other."""
    row, i = (part.ravel() for part in np.meshgrid(np.arange(rows + n_i - 1), np.arange(0, n_i, 4), indexing="ij"))
    first, last = np.maximum(0, row - i - rows + 1), np.minimum(np.minimum(4, n_i - i), row - i + 1)
    some = [(row - i - np.clip(r, first, last - 1)) * a_step for r in range(4)]
    return _table([*some, row * b_step, i * step, first, last], first < last)


@functools.lru_cache(64)
def _fours_of_rows(n_a: int, n_b: int, a_step: int, b_step: int, n_j: int, *, above: bool) -> npt.NDArray[np.int64]:
    """Return the same for every row of a block with each of another, or with those from it on alone."""
    p, q = (part.ravel() for part in np.meshgrid(np.arange(0, n_a, 4), np.arange(n_b), indexing="ij"))
    some = [np.minimum(p + r, n_a - 1) * a_step for r in range(4)]
    columns = [*some, q * b_step, (p * n_b + q) * n_j, np.zeros_like(p), np.minimum(4, n_a - p)]
    return _table(columns, (q >= p) | (not above))


def _table(columns: list[npt.NDArray[np.intp]], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    table = np.ascontiguousarray(np.stack(columns, axis=1)[kept], dtype=np.int64)
    table.setflags(write=False)
    return table


def lag_sums(a: Array, a_col: int, b: Array, b_col: int, rows: int, cols: int, out: Array) -> None:
    """Add the lag products of two blocks: ``out[i, j] += sum_rc a[r, a_col + c] * b[r + i, b_col + c + j]``.

    r < `rows`, c < `cols`; all are C-contiguous.
    """
    (n_i, n_j), wide, long = out.shape, a.shape[1], b.shape[1]
    fours = fours_of_block(rows, n_i, wide, long, n_j)
    add_products(flat(a), a_col, flat(b), b_col, flat(out), 0, fours, n_j, cols, n_j, long - b_col)


def strip_lag_sums(wide: Array, cols: int, lag: int, out: Array) -> None:
    """Add the lag products of the rows of a narrow strip: ``out[p, q, l] += sum_c wide[p, lag + c] * wide[q, c + l]``.

    p <= q, c < `cols`, l from 0 to ``2 * lag``; some p > q as well.
    """
    (n, length), n_j, rows = wide.shape, 2 * lag + 1, flat(wide)
    fours = _fours_of_rows(n, n, length, length, n_j, above=True)
    add_products(rows, lag, rows, 0, flat(out), 0, fours, n * n_j, cols, n_j, length)


def pair_lag_sums(a: Array, b: Array, out: Array) -> None:
    """Add the lag products of all rows of two blocks: ``out[p, q, l] += sum_c a[p, c] * b[q, c + l]``."""
    (n_a, cols), (n_b, length), n_j = a.shape, b.shape, out.shape[2]
    fours = _fours_of_rows(n_a, n_b, cols, length, n_j, above=False)
    add_products(flat(a), 0, flat(b), 0, flat(out), 0, fours, n_b * n_j, cols, n_j, length)


@jit_sum
def correlate(b, b_col, taps, rows, cols, out):
    """Correlate a block with taps: ``out[r, c] = sum_ij taps[i, j] * b[r + i, b_col + c + j]``."""
    n_i, n_j = taps.shape
    for r in range(rows):
        y = out[r, :cols]
        y[:] = 0.0
        for i in range(n_i):
            line = b[r + i]
            for j in range(0, n_j - 3, 4):
                k0, k1, k2, k3 = taps[i, j], taps[i, j + 1], taps[i, j + 2], taps[i, j + 3]
                x0 = line[b_col + j : b_col + j + cols]
                x1 = line[b_col + j + 1 : b_col + j + 1 + cols]
                x2 = line[b_col + j + 2 : b_col + j + 2 + cols]
                x3 = line[b_col + j + 3 : b_col + j + 3 + cols]
                for c in range(cols):
                    y[c] += k0 * x0[c] + k1 * x1[c] + k2 * x2[c] + k3 * x3[c]
            for j in range(n_j - n_j % 4, n_j):
                k0 = taps[i, j]
                x0 = line[b_col + j : b_col + j + cols]
                for c in range(cols):
                    y[c] += k0 * x0[c]


def correlate_finite(b: Array, taps: Array, rows: int, cols: int, out: Array) -> None:
    """Do what `correlate` does of a block of finite numbers in two fifths of the time; all are C-contiguous."""
    if rows < 4 or cols < 2 * LANES:
        correlate(b, 0, taps, rows, cols, out)
        return
    wide = np.pad(taps, ((3, 3), (0, 0)))  # so that four rows at once need no other bounds
    _correlate_fours(flat(b), b.shape[1], flat(wide), *taps.shape, rows, cols, flat(out), out.shape[1])


@jit_sum
def _correlate_fours(b, width, taps, n_i, n_j, rows, cols, out, step):
    """Correlate four rows and two vectors of columns at once: what is loaded serves four times."""
    for row in range(0, rows, 4):
        r = min(row, rows - 4)  # the last ones begin so that they end with the block
        for col in range(0, cols, 2 * LANES):
            c = min(col, cols - 2 * LANES)
            a0, a1, b0, b1, c0, c1, d0, d1 = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
            for i in range(n_i + 3):
                at, tap = (r + i) * width + c, (i + 3) * n_j
                for j in range(n_j):
                    x, y = load(b, at + j), load(b, at + j + LANES)
                    t = repeated(taps, tap + j)
                    a0, a1 = a0 + t * x, a1 + t * y
                    t = repeated(taps, tap + j - n_j)
                    b0, b1 = b0 + t * x, b1 + t * y
                    t = repeated(taps, tap + j - 2 * n_j)
                    c0, c1 = c0 + t * x, c1 + t * y
                    t = repeated(taps, tap + j - 3 * n_j)
                    d0, d1 = d0 + t * x, d1 + t * y
            z = r * step + c
            store(out, z, a0)
            store(out, z + LANES, a1)
            store(out, z + step, b0)
            store(out, z + step + LANES, b1)
            store(out, z + 2 * step, c0)
            store(out, z + 2 * step + LANES, c1)
            store(out, z + 3 * step, d0)
            store(out, z + 3 * step + LANES, d1)


def moments(rows: Array, n_rows: int, n_cols: int, out: Array) -> None:
    """Add the sum of the squares of a block, and its sum; BLAS would wake its own threads, to fight with ours."""
    add_moments(flat(rows), rows.shape[1], n_rows, n_cols, out)


@jit_sum
def add_moments(rows, step, n_rows, n_cols, out):
    """Do what `moments` says of a flat array, a row of which is `step` numbers."""
    squares = total = 0.0
    for r in range(n_rows):
        part = plain = 0.0
        for c in range(n_cols):
            x = item(rows, r * step + c)
            part += x * x
            plain += x
        squares += part
        total += plain
    put(out, 0, item(out, 0) + squares)
    put(out, 1, item(out, 1) + total)
