"""Cholesky's factor of a Gram matrix and its inverse, by compiled loops and threads of our own.

After LAPACK's, BLAS's threads go on spinning for some 50 ms: a core less for the next pass over the pixels.
"""

import _thread
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..exact.threads import in_order

Array = npt.NDArray[np.float64]

#: Most taps that are factored by one thread, and most that are factored without LAPACK.
OWN_FACTOR, MOST_OWN = 400, 2000
#: Below this reciprocal condition number of the Gram matrix Cholesky's factorisation is not trusted.
RCOND_CHOLESKY = 1e-12

_KEPT_BYTES = 2**23
_kept: list[Array] = []  # the scratch memory of the last factorisation, if it is no more than that

#: A tile of L (False) or of its inverse (True): its rows and its columns.
Tile = tuple[bool, int, int]


class Inverse(NamedTuple):
    """A factor F of the (pseudo-)inverse ``F F'`` of a matrix.

    Attributes
    ----------
    factor : ndarray, shape (taps, rank)
    condition : float
        The condition number of the matrix, infinite if the rank is deficient.
    spread : ndarray, shape (taps,)
        The diagonal of ``F F'``.
    upper : bool
        Whether F is square and upper triangular, and row by row in memory.
    """

    factor: Array
    condition: float
    spread: Array
    upper: bool = False


def own_factor(gram: Array, workers: int = 1) -> Inverse | None:
    """Return a factor of the inverse, or None if G is too near to singular, or large."""
    m = len(gram)
    if m > MOST_OWN:
        return None
    from ..exact import _loops

    gram, rows = np.ascontiguousarray(gram), -(-m // 4) * 4
    lower, inverse, spread = _scratch(rows, m), np.empty((rows, m)), np.empty(m)
    # Memory that is new is touched in one go: two threads that come upon its pages in turn take five times as long.
    lower[m:], inverse[:] = 0.0, 0.0
    made = _made(gram, lower, inverse, workers if m > OWN_FACTOR else 1)
    if lower.nbytes <= _KEPT_BYTES and not _kept:
        _kept.append(lower)
    if not made:
        return None
    condition = _loops.condition(gram, inverse[:m], spread)
    return Inverse(inverse[:m], condition, spread, upper=True) if condition * RCOND_CHOLESKY < 1 else None


def _scratch(rows: int, cols: int) -> Array:
    """Return a matrix with anything in it, if possible in the memory of the last one."""
    try:
        old = _kept.pop().ravel()
    except IndexError:
        old = np.empty(0)
    flat = old if old.size >= rows * cols else np.empty(rows * cols)
    if flat is not old:
        flat.fill(0.0)
    return flat[: rows * cols].reshape(rows, cols)


def _made(gram: Array, lower: Array, inverse: Array, workers: int) -> bool:
    """Write L with ``G = L L'`` and F with ``F' = L^-1`` to two arrays, F's of zeros; return whether there are any.

    Threads take the tiles in an order in which each comes after those that it needs, which are being made at least.
    """
    from ..exact import _loops

    side = _loops.TILE
    failed: list[Tile] = []
    tiles = in_turn(-(-len(gram) // side))
    locks = {tile: _thread.allocate_lock() for tile in tiles}  # held until the tile is there
    for lock in locks.values():
        lock.acquire()

    def make(tile: Tile) -> None:
        inverted, row, col = tile
        try:
            for other in needs(tile):
                with locks[other]:
                    pass
            if failed:
                return
            if inverted:
                _loops.invert_tile(lower, row * side, col * side, inverse)
            elif not _loops.factor_tile(gram, lower, row * side, col * side):
                failed.append(tile)
        finally:  # whatever happens: others may be waiting
            locks[tile].release()

    for _ in in_order(tiles, make, workers):
        pass
    return not failed


def in_turn(n: int) -> list[Tile]:
    """List the tiles of an n x n matrix of them in the order in which they are begun.

    Column by column, but the diagonal tile of the next column, for which all its tiles wait, soon after what it needs.
    """
    tiles = [(False, 0, 0)]
    for col in range(n):
        column = [(False, row, col) for row in range(col + 1, n)] + [(True, row, col) for row in range(col + 1)]
        if col + 1 < n:
            column.insert(2, (False, col + 1, col + 1))
        tiles += column
    return tiles


def needs(tile: Tile) -> list[Tile]:
    """List the tiles that one needs; what these needed is there as well."""
    inverted, row, col = tile
    before = [(inverted, row, col - 1)] if col > (row if inverted else 0) else []
    return before if row == col and not inverted else [*before, (False, col, col)]
