"""The compiled loops of weighted statistics: patches gathered, and residuals weighed."""

import numpy as np

from .jit import Array, flat, item, jit, jit_sum, put


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


def add_weighted_products(values: Array, rows: Array, chosen: Array, out: Array, *, symmetric: bool) -> None:
    """Add products of rows with weights: ``out[p, q] += sum_i values[i] * rows[chosen[p], i] * rows[q, i]``.

    i < ``len(values)``, which `rows` may exceed; if `symmetric`, in blocks of 4 x 4 on and above the diagonal only.
    The numbers of `rows` and of those `chosen` are multiples of 4.
    """
    panel = np.empty(4 * len(values))
    _add_products(values, flat(rows), rows.shape[1], chosen, symmetric, panel, flat(out), out.shape[1])


@jit_sum
def _add_products(values, rows, step, chosen, symmetric, panel, out, width):
    """Do what `add_weighted_products` says, a row of `rows` being `step` numbers and one of `out` `width`."""
    # Lag sums are such products, too (`lag_sums.add_products`), of rows that lie one number apart. One loop for both,
    # with the distance as an argument, made those a twentieth slower.
    n, height = len(values), len(rows) // step
    for p in range(0, len(chosen), 4):
        for k in range(4):
            x, y = chosen[p + k] * step, k * n
            for i in range(n):
                put(panel, y + i, values[i] * item(rows, x + i))
        for q in range(p if symmetric else 0, height, 4):
            y = q * step
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = 0.0
            for k in range(n):  # added to `out` within the loop they took a quarter longer
                v0, v1, v2, v3 = item(panel, k), item(panel, n + k), item(panel, 2 * n + k), item(panel, 3 * n + k)
                w = item(rows, y + k)
                a0 += v0 * w
                b0 += v1 * w
                c0 += v2 * w
                d0 += v3 * w
                w = item(rows, y + step + k)
                a1 += v0 * w
                b1 += v1 * w
                c1 += v2 * w
                d1 += v3 * w
                w = item(rows, y + 2 * step + k)
                a2 += v0 * w
                b2 += v1 * w
                c2 += v2 * w
                d2 += v3 * w
                w = item(rows, y + 3 * step + k)
                a3 += v0 * w
                b3 += v1 * w
                c3 += v2 * w
                d3 += v3 * w
            for r in range(4):
                if r > 0:
                    a0, a1, a2, a3 = (b0, b1, b2, b3) if r == 1 else (c0, c1, c2, c3) if r == 2 else (d0, d1, d2, d3)
                z = (p + r) * width + q
                put(out, z, item(out, z) + a0)
                put(out, z + 1, item(out, z + 1) + a1)
                put(out, z + 2, item(out, z + 2) + a2)
                put(out, z + 3, item(out, z + 3) + a3)
