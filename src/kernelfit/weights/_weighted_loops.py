"""The compiled loops of weighted statistics: patches gathered into rows for BLAS to multiply, and residuals weighed.

They stand apart from `_loops` because they call nothing there: Numba's cache looks at one file alone. They validate
nothing, allocate nothing, are serial and release the GIL.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba

# Without nnan and ninf: a NaN must stay visible.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def _jit(function: Callable[..., Any], fastmath: set[str] | bool = False) -> Any:
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=fastmath)
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # no directory to write the cache to
        return compiled()(function)


_jit_sum = functools.partial(_jit, fastmath=FASTMATH)


@_jit
def gather(block, rows, cols, factors, n_y, n_x, first, out):
    """Copy patches: ``out[i, first + n_x * y + x] = factors[i] * block[rows[i] + y, cols[i] + x]``.

    `block` C-contiguous float64, `rows` and `cols` int64, y < `n_y`, x < `n_x`.
    """
    for i in range(len(rows)):
        factor = factors[i]
        for y in range(n_y):
            line = block[rows[i] + y, cols[i] : cols[i] + n_x]
            place = out[i, first + n_x * y : first + n_x * (y + 1)]
            for x in range(n_x):
                place[x] = factor * line[x]


@_jit_sum
def add_outer(patches, signs, total):
    """Add products of few patches with themselves: ``total[p, q] += sum_i signs[i] * patches[i, p] * patches[i, q]``.

    p <= q only; two patches at a time.
    """
    n, m = patches.shape
    for i in range(0, n - 1, 2):
        x, y = patches[i], patches[i + 1]
        for p in range(m):
            a, b = signs[i] * x[p], signs[i + 1] * y[p]
            line, u, v = total[p, p:], x[p:], y[p:]
            for q in range(m - p):
                line[q] += a * u[q] + b * v[q]
    if n % 2:
        x = patches[n - 1]
        for p in range(m):
            a = signs[n - 1] * x[p]
            line, u = total[p, p:], x[p:]
            for q in range(m - p):
                line[q] += a * u[q]


@_jit_sum
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


@_jit_sum
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
