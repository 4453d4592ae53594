"""How loops are compiled: the only importer of Numba.

Numba's cache looks at the file of a function alone, so what one loop calls of another stands in the same file.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba

# Without nnan and ninf: a NaN must stay visible.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def jit(function: Callable[..., Any], fastmath: set[str] | bool = False) -> Any:
    """Compile a loop, at its first call for each kind of arguments, and keep it on disk."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=fastmath)
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # no directory to write the cache to
        return compiled()(function)


#: The same for loops whose sums may be taken in any order.
jit_sum = functools.partial(jit, fastmath=FASTMATH)
