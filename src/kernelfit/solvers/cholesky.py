"""Cholesky's factor of a Gram matrix and its inverse, by compiled loops and threads of our own.

After LAPACK's, BLAS's threads go on spinning for some 50 ms: a core less for the next pass over the pixels.
"""

import _thread
import math
from typing import NamedTuple

import numpy as np

from ..compiled.threads import in_order
from ..core.validation import Array

#: Most taps that are factored by one thread, and most that are factored without LAPACK.
OWN_FACTOR, MOST_OWN = 400, 2000
#: Below this reciprocal condition number of the Gram matrix Cholesky's factorisation is not trusted.
RCOND_CHOLESKY = 1e-12
_KEPT_BYTES = 9 * 2**20
_kept: list[Array] = []  # the scratch memory of the last factorisation, if it is no more than that
#: A tile of U (False) or of its transposed inverse (True): its columns and its rows.
Tile = tuple[bool, int, int]


class Inverse(NamedTuple):
    """A factor F of the (pseudo-)inverse ``F F'`` of a matrix."""

    factor: Array  # (taps, rank)
    condition: float  # the condition number of the matrix, infinite if the rank is deficient
    spread: Array  # (taps,); the diagonal of ``F F'``
    upper: bool = False  # whether F is square and upper triangular, and row by row in memory


def own_factor(gram: Array, workers: int = 1) -> Inverse | None:
    """Return a factor of the inverse, or None if G is too near to singular, or large."""
    m = len(gram)
    if m > MOST_OWN:
        return None
    from ..compiled import dense

    gram = np.ascontiguousarray(gram)
    panels, inverse, spread = _scratch(m), np.empty((m, m)), np.empty(m)
    # Memory that is new is touched in one go: two threads that come upon its pages in turn take five times as long.
    inverse[:] = 0.0
    made = _made(gram, panels, inverse, workers if m > OWN_FACTOR else 1)
    if panels.nbytes <= _KEPT_BYTES and not _kept:
        _kept.append(panels)
    if not made:
        return None
    condition = dense.condition(gram, inverse, spread)
    return Inverse(inverse, condition, spread, upper=True) if condition * RCOND_CHOLESKY < 1 else None


def panels_for(m: int) -> tuple[int, int, int]:
    """Return the shape of the panels that the factor of m x m is made in."""
    from ..compiled import dense

    return -(-m // dense.BLOCK), m + dense.BLOCK, dense.BLOCK


def upper_of(panels: Array) -> Array:
    """Return U that stands in panels, as a matrix."""
    m = panels.shape[1] - panels.shape[2]
    columns = np.swapaxes(panels[:, :m], 0, 1).reshape(m, -1)[:, :m]
    return np.triu(columns)


def root(matrix: Array) -> Array | None:
    """Return L with ``L L'`` the matrix, or None if it is not positive definite."""
    from ..compiled import dense

    panels = np.zeros(panels_for(len(matrix)))
    return upper_of(panels).T if dense.factorise(matrix, panels) else None


def _scratch(m: int) -> Array:
    """Return the panels with anything in them, if possible in the memory of the last ones."""
    try:
        old = _kept.pop().ravel()
    except IndexError:
        old = np.empty(0)
    shape = panels_for(m)
    flat = old if old.size >= math.prod(shape) else np.empty(math.prod(shape))
    if flat is not old:
        flat.fill(0.0)
    return flat[: math.prod(shape)].reshape(shape)


def _made(gram: Array, panels: Array, inverse: Array, workers: int) -> bool:
    """Make U with ``G = U'U`` and write ``U^-1`` to an array of zeros; return whether there is one.

    Threads take the tiles in an order in which each comes after those that it needs, which are being made at least.
    """
    from ..compiled import dense

    side = dense.TILE
    failed: list[Tile] = []
    tiles = in_turn(-(-len(gram) // side))
    locks = {tile: _thread.allocate_lock() for tile in tiles}  # held until the tile is there
    for lock in locks.values():
        lock.acquire()

    def make(tile: Tile) -> None:
        inverted, left, top = tile
        try:
            for other in needs(tile):
                with locks[other]:
                    pass
            if failed:
                return
            if inverted:
                dense.invert_tile(panels, left * side, top * side, inverse)
            elif not dense.factor_tile(gram, panels, left * side, top * side):
                failed.append(tile)
        finally:  # whatever happens: others may be waiting
            locks[tile].release()

    for _ in in_order(tiles, make, workers):
        pass
    return not failed


def in_turn(n: int) -> list[Tile]:
    """List the tiles of an n x n matrix of them in the order in which they are begun.

    Row by row, but the diagonal tile of the next row, for which all its tiles wait, soon after what it needs.
    """
    tiles = [(False, 0, 0)]
    for top in range(n):
        row = [(False, left, top) for left in range(top + 1, n)] + [(True, left, top) for left in range(top + 1)]
        if top + 1 < n:
            row.insert(2, (False, top + 1, top + 1))
        tiles += row
    return tiles


def needs(tile: Tile) -> list[Tile]:
    """List the tiles that one needs; what these needed is there as well."""
    inverted, left, top = tile
    before = [(inverted, left, top - 1)] if top > (left if inverted else 0) else []
    return before if left == top and not inverted else [*before, (False, top, top)]
