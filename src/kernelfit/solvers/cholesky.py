"""Factors of a Gram matrix's inverse: by compiled loops and threads of our own, by LAPACK, or by eigenvectors.

LAPACK's on one thread is as quick with few taps; of many, two threads make it in half the time.
"""

import _thread
import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..compiled.threads import in_order
from ..core.validation import Array

#: Most taps that are factored by LAPACK, and most that are factored without it.
OWN_FACTOR, MOST_OWN = 400, 2000
#: Powers of two beyond which a sum of squares is scaled before it is squared again.
FAR = 400
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

    @property
    def full(self) -> bool:
        """Whether F is square: every unknown is determined."""
        return bool(self.factor.shape[1] == len(self.factor))


def exponent(energy: float, far: int = FAR) -> int:
    """Return the even power of two nearest to a sum of squares, 0 if it is not so far from 1 that this matters."""
    power = math.frexp(energy)[1] if energy > 0 else 0
    return 2 * (power // 2) if abs(power) > far else 0


def factorise(gram: Array, workers: int | None = None, *, hermitian: bool = False) -> Inverse:
    """Return a factor of the (pseudo-)inverse; with `workers` by our own loops. `hermitian`: as `hermitian_factor`."""
    power = exponent(float(gram.diagonal().max(initial=0.0))) // 2
    if power:  # far from 1 LAPACK would over- or underflow
        found = factorise(np.ldexp(gram, -2 * power), workers, hermitian=hermitian)
        return found._replace(factor=np.ldexp(found.factor, -power), spread=np.ldexp(found.spread, -2 * power))
    # Of few taps LAPACK's factor is as quick, and compiling ours takes seconds.
    if hermitian:
        return hermitian_factor(gram) or eigen_factor(gram)
    own = own_factor(gram, workers) if workers is not None and len(gram) > OWN_FACTOR else None
    return own or cholesky_factor(gram) or eigen_factor(gram)


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
    made = _made(gram, panels, inverse, workers)
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
    """Make U with ``G = U'U``, tile by tile in order of need, and write ``U^-1`` to zeros; return if there is one."""
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
    """List the tiles of an n x n matrix of them in the order in which they are begun."""
    # Row by row, but the diagonal tile of the next row, for which all its tiles wait, soon after what it needs.
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


def cholesky_factor(gram: Array) -> Inverse | None:
    """Return a factor of the inverse, or None if G is too near to singular."""
    lapack = scipy.linalg.lapack
    lower, info = lapack.dpotrf(gram.T, lower=1, clean=1)  # .T: the same matrix in LAPACK's order, so copied once
    if info != 0:
        return None
    rcond, _ = lapack.dpocon(lower, lapack.dlange("1", gram.T), uplo="L")
    if not rcond > RCOND_CHOLESKY:
        return None
    inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    return Inverse(inverse.T, 1.0 / float(rcond), _row_norms(inverse.T))


def hermitian_factor(gram: Array) -> Inverse | None:
    """Return a factor of the inverse of ``[[Re H, -Im H], [Im H, Re H]]`` by that of H, half the work; or None."""
    lapack, m = scipy.linalg.lapack, len(gram) // 2
    whole = np.empty((m, m), dtype=np.complex128)
    whole.real = gram[:m, :m]
    whole.imag = gram[:m, m:]
    norm = float(np.abs(whole).sum(axis=1).max())  # LAPACK's own takes four times as long
    lower, info = lapack.zpotrf(whole.T, lower=1, clean=1, overwrite_a=1)
    if info != 0:
        return None
    rcond, _ = lapack.zpocon(lower, norm, uplo="L")
    if not rcond > RCOND_CHOLESKY:
        return None
    inverse, _ = lapack.ztrtri(lower, lower=1, overwrite_c=1)
    factor = np.empty_like(gram)
    factor[:m, :m] = factor[m:, m:] = inverse.real.T
    np.negative(inverse.imag.T, out=factor[m:, :m])
    factor[:m, m:] = inverse.imag.T
    return Inverse(factor, 1.0 / float(rcond), _row_norms(factor))


def scaled_factor(gram: Array) -> Array:
    """Return a factor F of the (pseudo-)inverse ``F F'`` of a Gram matrix whose columns may be of different units."""
    diagonal = np.diag(gram)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    even = gram * np.multiply.outer(scale, scale)
    found = cholesky_factor(even) or eigen_factor(even)
    return np.asarray(scale[:, None] * found.factor)


def eigen_factor(gram: Array) -> Inverse:
    """Return a factor of the pseudo-inverse."""
    values, vectors = scipy.linalg.eigh(gram)
    largest = max(float(values[-1]), 0.0)
    kept = values > max(len(values), 16) * float(np.finfo(np.float64).eps) * largest
    if not kept.any():
        return Inverse(np.zeros((len(values), 0)), math.inf, np.zeros(len(values)))
    condition = largest / float(values[0]) if kept.all() else math.inf
    factor = vectors[:, kept] / np.sqrt(values[kept])
    return Inverse(factor, condition, _row_norms(factor))


def _row_norms(factor: Array) -> Array:
    """Return the diagonal of ``F F'``."""
    return np.asarray(np.einsum("ij,ij->i", factor, factor))


def times(matrix: Array, vector: Array) -> Array:
    """Return a matrix times a vector without BLAS."""
    product: Array = np.einsum("ij,j->i", matrix, vector)
    return product


def product(a: Array, b: Array) -> Array:
    """Return ``a @ b`` by the BLAS that SciPy brings along."""
    # NumPy's wheel has another one, with threads of its own. After a product the threads of either go on spinning for a
    # moment, and work that called the two in turn would wait for a free core ten times as long as it computes.
    blas = scipy.linalg.blas
    turned = [not m.flags.f_contiguous for m in (a, b)]
    a, b = (m.T if turn else m for m, turn in zip((a, b), turned, strict=True))
    if b.ndim == 1:
        return np.asarray(blas.dgemv(1.0, a, b, trans=turned[0]))
    return np.asarray(blas.dgemm(1.0, a, b, trans_a=turned[0], trans_b=turned[1]))
