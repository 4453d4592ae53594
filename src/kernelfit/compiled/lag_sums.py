"""Loops over pixels: lag sums, correlations, moments."""

import numpy as np

from .jit import jit, jit_sum


@jit_sum
def lag_sums(a, a_col, b, b_col, rows, cols, out):
    """Add the lag products of two blocks: ``out[i, j] += sum_rc a[r, a_col + c] * b[r + i, b_col + c + j]``."""
    # r < `rows`, c < `cols`; four row and four column lags at a time, so that eight loads feed sixteen multiply-adds.
    n_i, n_j = out.shape
    nothing = np.zeros(cols)
    for row in range(rows + n_i - 1):
        line = b[row, b_col:]
        for i in range(0, n_i, 4):
            if row - i < 0 or row - i - 3 >= rows:
                continue
            r0, r1, r2, r3 = row - i, row - i - 1, row - i - 2, row - i - 3
            x0 = a[r0, a_col : a_col + cols] if r0 < rows else nothing
            x1 = a[r1, a_col : a_col + cols] if 0 <= r1 < rows else nothing
            x2 = a[r2, a_col : a_col + cols] if 0 <= r2 < rows else nothing
            x3 = a[r3, a_col : a_col + cols] if 0 <= r3 else nothing
            four_rows(x0, x1, x2, x3, line, out[i : i + 4, :n_j])  # like those of strips: compiled once


@jit_sum
def four_rows(x0, x1, x2, x3, line, out):
    """Add the lag products of up to four rows with one line: ``out[r, j] += sum_k x_r[k] * line[k + j]``."""
    # Two or three lags that are left over are done as four, if the line goes on that far.
    n, (rows, n_j) = len(x0), out.shape
    by_four = n_j - n_j % 4
    if n_j % 4 > 1 and len(line) >= n + by_four + 3:
        by_four += 4
    for j in range(0, by_four, 4):
        y0, y1, y2, y3 = line[j : j + n], line[j + 1 : j + 1 + n], line[j + 2 : j + 2 + n], line[j + 3 : j + 3 + n]
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = 0.0
        for k in range(n):
            v0, v1, v2, v3 = x0[k], x1[k], x2[k], x3[k]
            w0, w1, w2, w3 = y0[k], y1[k], y2[k], y3[k]
            a0 += v0 * w0
            a1 += v0 * w1
            a2 += v0 * w2
            a3 += v0 * w3
            b0 += v1 * w0
            b1 += v1 * w1
            b2 += v1 * w2
            b3 += v1 * w3
            c0 += v2 * w0
            c1 += v2 * w1
            c2 += v2 * w2
            c3 += v2 * w3
            d0 += v3 * w0
            d1 += v3 * w1
            d2 += v3 * w2
            d3 += v3 * w3
        sums = ((a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3))
        for r in range(rows):
            for i in range(min(4, n_j - j)):
                out[r, j + i] += sums[r][i]
    for j in range(by_four, n_j):
        y0 = line[j : j + n]
        a0 = b0 = c0 = d0 = 0.0
        for k in range(n):
            a0 += x0[k] * y0[k]
            b0 += x1[k] * y0[k]
            c0 += x2[k] * y0[k]
            d0 += x3[k] * y0[k]
        single = (a0, b0, c0, d0)
        for r in range(rows):
            out[r, j] += single[r]


@jit_sum
def strip_lag_sums(wide, cols, lag, out):
    """Add the lag products of the rows of a narrow strip: ``out[p, q, l] += sum_c wide[p, lag + c] * wide[q, c + l]``.

    p <= q, c < `cols`, l from 0 to ``2 * lag``; some p > q as well.
    """
    n, end = len(wide), lag + cols
    for p in range(0, n, 4):
        x0, x1, x2, x3 = wide[p], wide[min(p + 1, n - 1)], wide[min(p + 2, n - 1)], wide[min(p + 3, n - 1)]
        for q in range(p, n):
            four_rows(x0[lag:end], x1[lag:end], x2[lag:end], x3[lag:end], wide[q], out[p : p + 4, q, : 2 * lag + 1])


@jit_sum
def pair_lag_sums(a, b, out):
    """Add the lag products of all rows of two blocks: ``out[p, q, l] += sum_c a[p, c] * b[q, c + l]``."""
    n = len(a)
    for p in range(0, n, 4):
        x0, x1, x2, x3 = a[p], a[min(p + 1, n - 1)], a[min(p + 2, n - 1)], a[min(p + 3, n - 1)]
        for q in range(len(b)):
            four_rows(x0, x1, x2, x3, b[q], out[p : p + 4, q])


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


@jit_sum
def moments(rows, n_rows, n_cols, out):
    """Add the sum of the squares of a block, and its sum; BLAS would wake its own threads, to fight with ours."""
    squares = total = 0.0
    for r in range(n_rows):
        x = rows[r, :n_cols]
        part = plain = 0.0
        for c in range(n_cols):
            part += x[c] * x[c]
            plain += x[c]
        squares += part
        total += plain
    out[0] += squares
    out[1] += total


@jit
def subtract(rows, model, start, stop, n_cols):
    """Subtract a block of `model` from the same block of `rows`."""
    for r in range(start, stop):
        for c in range(n_cols):
            rows[r, c] -= model[r, c]
