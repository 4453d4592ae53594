"""The compiled loops of weighted statistics: patches gathered, and residuals weighed.

They stand apart from `exact._loops` because they call nothing there, and like those validate nothing, allocate nothing,
are serial and release the GIL.
"""

from ..exact.jit import jit, jit_sum


@jit
def gather(block, rows, cols, n_y, n_x, out):
    """Copy patches, a tap to a row: ``out[n_x * y + x, i] = block[rows[i] + y, cols[i] + x]``.

    `block` C-contiguous float64, `rows` and `cols` int64, y < `n_y`, x < `n_x`. Eight patches at a time, which are
    whole cache lines; of eight neighbours along a row these are copies of pieces of the image's rows.
    """
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
    """Turn a target into its weighted residual: ``result = weights * (result - model)``.

    Over the extent of the weights, which `result` and `model` may exceed. Return the weighted energy of the residual.
    """
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
