"""The factor of a Gram matrix made by loops and threads of our own, against LAPACK's and against what it must be."""

import numpy as np
import pytest

from helpers import assert_close, grid
from kernelfit.compiled import dense
from kernelfit.solvers import cholesky

TILE, BLOCK = dense.TILE, dense.BLOCK
SIZES = sorted(
    {1, 2, 3, 4, 5}
    | {BLOCK + d for d in (-1, 0, 1, 3)}
    | {n * TILE + d for n in (1, 2) for d in (-1, 0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1)}
    | {3 * TILE, 450, 451, 4 * TILE + 1, 5 * TILE + 33}
)


def gram_of(m, condition=1e3, seed=0):
    """Return a positive definite matrix of this condition number in the 2-norm."""
    rng = np.random.default_rng([seed, m])
    basis = np.linalg.qr(rng.normal(size=(m, m)))[0]
    gram = (basis * np.geomspace(1, 1 / condition, m)) @ basis.T
    return (gram + gram.T) * 50


@grid("m", SIZES, 3)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_factors_are_those_of_numpy(m, workers):
    gram = gram_of(m)
    given = gram.copy()
    panels, inverse = np.full(cholesky.panels_for(m), np.nan), np.zeros((m, m))  # whatever was there
    assert cholesky._made(gram, panels, inverse, workers)
    expected = np.linalg.cholesky(gram)
    assert np.abs(cholesky.upper_of(panels) - expected.T).max() <= 1e-12 * np.abs(expected).max()
    upper = np.linalg.inv(expected).T
    assert np.abs(inverse - upper).max() <= 1e-11 * np.abs(upper).max()
    assert not np.tril(inverse, -1).any()
    assert (gram == given).all()


@grid("m", [TILE + 1, 3, 33, 451, 4 * TILE + 1], 2)
@grid("condition", [1e6, 1.0, 1e9], 3)
def test_it_is_the_inverse(m, condition):
    gram = gram_of(m, condition)
    factor, told, spread, _ = cholesky.own_factor(gram, 2)
    np.testing.assert_allclose(spread, (factor**2).sum(axis=1), rtol=1e-13)
    assert np.abs(factor.T @ gram @ factor - np.eye(m)).max() <= 1e-15 * m * condition + 1e-13
    true = np.linalg.cond(gram, 1)
    assert 0.3 * true <= told <= 1.001 * true + 1e-4 * condition
    lapack, theirs, lapack_spread, _ = cholesky.cholesky_factor(gram)
    np.testing.assert_allclose(spread, lapack_spread, rtol=1e-14 * m * condition)
    assert np.abs(factor - lapack).max() <= 1e-15 * m * condition * np.abs(lapack).max()
    assert 0.3 * theirs <= told <= 3 * theirs


@grid("m", [451, 4 * TILE, 5 * TILE + 33], 3)
def test_any_number_of_workers_gives_the_same_bits(m):
    gram = gram_of(m, 1e6)
    one, *others = (cholesky.own_factor(gram, workers) for workers in (1, 2, 3, 7))
    for other in others:
        assert other.factor.tobytes() == one.factor.tobytes() and other.condition == one.condition
        assert other.spread.tobytes() == one.spread.tobytes()


@grid("m", [200, 2, 500, 40, 700], 3)
@pytest.mark.parametrize("workers", [1, 3])
def test_singular_matrices_are_refused(m, workers):
    """Whatever threads wait for the tile that fails, or for those after it."""
    rng = np.random.default_rng(m)
    for at in (0, m // 2, m - 1):
        gram = gram_of(m)
        gram[at, at] = -1.0
        assert cholesky.own_factor(gram, workers) is None
        gram[at, at] = np.nan
        assert cholesky.own_factor(gram, workers) is None
        design = rng.normal(size=(m + 50, m))
        design[:, at] = design[:, at - 1]
        assert cholesky.own_factor(design.T @ design, workers) is None
    assert cholesky.own_factor(gram_of(m, 1e13), workers) is None
    assert cholesky.own_factor(np.zeros((m, m)), workers) is None


@pytest.mark.slow
def test_an_error_in_one_thread_ends_all(monkeypatch):
    plain = dense.factor_tile

    def failing(gram, panels, left, top):
        if (left, top) == (2 * TILE, TILE):
            raise MemoryError
        return plain(gram, panels, left, top)

    monkeypatch.setattr(dense, "factor_tile", failing)
    for workers in (1, 2, 3):
        with pytest.raises(MemoryError):
            cholesky.own_factor(gram_of(4 * TILE + 1), workers)


@pytest.mark.parametrize("n", range(1, 7))
def test_tiles_come_after_what_they_need(n):
    """Needs are few, because what these needed is there too: followed to the end they are all there is."""
    tiles = cholesky.in_turn(n)
    triangle = [(i, j) for i in range(n) for j in range(i + 1)]
    assert sorted(tiles) == sorted([(False, i, j) for i, j in triangle] + [(True, j, i) for i, j in triangle])
    there = {}
    for tile in tiles:
        inverted, left, top = tile
        there[tile] = set().union(*(there[need] | {need} for need in cholesky.needs(tile)))
        if inverted:
            used = {(True, left, k) for k in range(left, top)} | {(False, top, k) for k in range(left, top + 1)}
        else:
            used = {(False, i, k) for i in (left, top) for k in range(top)} | ({(False, top, top)} - {tile})
        assert used <= there[tile]


@grid("m", [5, TILE + 6, 64, 300], 2)
def test_one_call_does_the_same(m):
    """For matrices so small that threads do not pay: bits and all."""
    gram = gram_of(m)
    panels, inverse = np.zeros(cholesky.panels_for(m)), np.zeros((m, m))
    spread, step, change = np.empty((3, m))
    told = dense.inverse_factor(np.triu(gram), panels, inverse, spread)
    factor, condition, expected, _ = cholesky.own_factor(gram)
    assert inverse.tobytes() == factor.tobytes() and told == condition
    assert spread.tobytes() == expected.tobytes()
    moment = np.random.default_rng(m).normal(size=m)
    dense.step_to_minimum(np.triu(gram), inverse, moment, step, change)
    np.testing.assert_allclose(step, factor @ (factor.T @ moment), atol=1e-12 * np.abs(step).max())
    np.testing.assert_allclose(change, gram @ step, atol=1e-12 * np.abs(change).max())


def test_the_norm_of_an_inverse_that_is_orthogonal_to_ones():
    """Hager's method alone, which starts with a vector of ones, would not see it."""
    for first, last in ((0, 6), (0, 1), (2, 6)):
        gram = np.eye(7)
        gram[first, last] = gram[last, first] = 1 - 1e-9
        factor = np.linalg.inv(np.linalg.cholesky(gram)).T.copy()
        assert dense.inverse_norm(factor) >= 1e7
        assert dense.condition(gram, factor, np.empty(7)) >= 0.3e9


@pytest.mark.parametrize("n_taps", [1, 2, 7, 35, 121])
def test_factor_and_condition(n_taps):
    rng = np.random.default_rng(n_taps)
    x = rng.normal(size=(3 * n_taps + 5, n_taps)) * np.geomspace(1, 30, n_taps)
    gram = x.T @ x
    made = cholesky.own_factor(gram, 1)
    factor, condition = made.factor, made.condition
    assert_close(factor @ factor.T, np.linalg.inv(gram), 1e-10)
    exact = np.linalg.cond(gram, 1)
    assert 0.3 * exact <= condition <= 1.0001 * exact  # Hager's estimate is a lower bound, seldom off by three
    singular = np.outer(np.arange(1.0, 6.0), np.arange(1.0, 6.0))
    assert cholesky.own_factor(singular, 1) is None
