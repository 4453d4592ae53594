"""The compiled loop of weighted statistics: patches of an image gathered into rows, for BLAS to multiply.

It stands apart from `_loops` because it calls nothing there: Numba's cache looks at one file alone. It validates
nothing, allocates nothing, is serial and releases the GIL.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba


def _jit(function: Callable[..., Any]) -> Any:
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # no directory to write the cache to
        return compiled()(function)


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
