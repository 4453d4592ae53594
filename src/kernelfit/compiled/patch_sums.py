"""The compiled loops of weighted statistics: patches gathered, and residuals weighed."""

import numpy as np

from .jit import jit, jit_sum


@jit
def gather(block, rows, cols, n_y, n_x, out):
    """Copy patches, a tap to a row: ``out[n_x * y + x, i] = block[rows[i] + y, cols[i] + x]``."""
    # `block` C-contiguous float64, `rows` and `cols` int64, y < `n_y`, x < `n_x`. Eight patches at a time, which are
    # whole cache lines; of eight neighbours along a row these are copies of pieces of the image's rows.
    n = len(rows)
    for i in range(0, n - 7, 8):
        side_by_side = True
        for k in range(1, 8):
            side_by_side &= rows[i + k] == rows[i] and cols[i + k] == cols[i] + k
        for y in range(n_y):
            if side_by_side:
                line = block[rows[i] + y, cols[i] : cols[i] + n_x + 7]
                for x in range(n_x):
                    place, part = out[n_x * y + x, i : i + 8], line[x : x + 8]
                    for k in range(8):
                        place[k] = part[k]
                continue
            for x in range(n_x):
                place = out[n_x * y + x, i : i + 8]
                for k in range(8):
                    place[k] = block[rows[i + k] + y, cols[i + k] + x]
    for i in range(n - n % 8, n):
        for y in range(n_y):
            for x in range(n_x):
                out[n_x * y + x, i] = block[rows[i] + y, cols[i] + x]


@jit_sum
def weigh(result, model, weights):
    """Turn a target into its weighted residual: ``result = weights * (result - model)``."""
    # Over the extent of the weights, which `result` and `model` may exceed. Return the weighted energy of the residual.
    n_rows, n_cols = weights.shape
    energy = 0.0
    for r in range(n_rows):
        y, m, w = result[r, :n_cols], model[r, :n_cols], weights[r]
        part = 0.0
        for c in range(n_cols):
            left = y[c] - m[c]
            weighted = w[c] * left
            part += weighted * left
            y[c] = weighted
        energy += part
    return energy


@jit_sum
def normal_product(patches, factors, taps, out):
    """Multiply by a Gram matrix that is not formed: ``out = sum_i factors[i] * patches[i] * (patches[i] . taps)``."""
    n, m = patches.shape
    out[:] = 0.0
    for i in range(n):
        x = patches[i]
        dot = 0.0
        for p in range(m):
            dot += x[p] * taps[p]
        dot *= factors[i]
        for p in range(m):
            out[p] += dot * x[p]


@jit_sum
def _four_by_four(a, i, b, j, start, end, out):
    """Add the products of four rows with four rows: ``out[p, q] += sum_k a[i + p, k] * b[j + q, k]``."""
    # Added to `out` by a loop they took a quarter longer.
    x0, x1, x2, x3 = a[i, start:end], a[i + 1, start:end], a[i + 2, start:end], a[i + 3, start:end]
    y0, y1, y2, y3 = b[j, start:end], b[j + 1, start:end], b[j + 2, start:end], b[j + 3, start:end]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = 0.0
    for k in range(end - start):
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
    y0, y1, y2, y3 = out[0], out[1], out[2], out[3]
    y0[0], y0[1], y0[2], y0[3] = y0[0] + a0, y0[1] + a1, y0[2] + a2, y0[3] + a3
    y1[0], y1[1], y1[2], y1[3] = y1[0] + b0, y1[1] + b1, y1[2] + b2, y1[3] + b3
    y2[0], y2[1], y2[2], y2[3] = y2[0] + c0, y2[1] + c1, y2[2] + c2, y2[3] + c3
    y3[0], y3[1], y3[2], y3[3] = y3[0] + d0, y3[1] + d1, y3[2] + d2, y3[3] + d3


@jit_sum
def add_weighted_products(values, rows, chosen, symmetric, out):
    """Add products of rows with weights: ``out[p, q] += sum_i values[i] * rows[chosen[p], i] * rows[q, i]``."""
    # i < ``len(values)``, which `rows` may exceed; if `symmetric`, in blocks of 4 x 4 on and above the diagonal only.
    # The numbers of `rows` and of those `chosen` are multiples of 4.
    n = len(values)
    panel = np.empty((4, n))
    for p in range(0, len(chosen), 4):
        for k in range(4):
            x, y = rows[chosen[p + k]], panel[k]
            for i in range(n):
                y[i] = values[i] * x[i]
        for q in range(p if symmetric else 0, len(rows), 4):
            _four_by_four(panel, 0, rows, q, 0, n, out[p : p + 4, q : q + 4])
