"""Kernels of the tiles of a grid with a penalty on the differences of neighbours, all solved at once."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.findings import Finding, Verdict, ranked
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from . import least_squares

_MOST_ITERATIONS = 2000
#: Draws of all kernels, at a time and how often.
_DRAWS, _BATCHES = 64, 4


class Smoothed(NamedTuple):
    """The kernel of a tile beside those of its neighbours, its errors, residual sum of squares and findings."""

    taps: Array
    stderr: Array
    rss: float
    findings: tuple[Finding, ...]


def _neighbours(grid: Sequence[int]) -> npt.NDArray[np.intp]:
    """Return the pairs of tiles that share a side, shape (pairs, 2)."""
    at = np.arange(math.prod(grid)).reshape(grid)
    along = [np.moveaxis(at, axis, 0) for axis in range(at.ndim)]
    return np.concatenate([np.stack([one[:-1].ravel(), one[1:].ravel()], axis=1) for one in along])


def smoothed(
    every: Sequence[NormalEquations], alone: Sequence[Array], grid: Sequence[int], strength: float, noise: float
) -> list[Smoothed] | None:
    """Solve for all kernels with the penalty on differences of neighbours; None if it weighs nothing."""
    # At a strength of 1 a difference costs as much as the same misfit at every pixel of a tile.
    grams = np.stack([stats.gram for stats in every])
    m = grams.shape[1]
    pairs = _neighbours(grid)
    weight = strength * float(np.trace(grams, axis1=1, axis2=2).mean()) / m
    if weight == 0 or len(pairs) == 0:
        return None
    degree = np.bincount(pairs.ravel(), minlength=len(every)).astype(float)
    own = np.stack([np.linalg.inv(g + weight * d * np.eye(m)) for g, d in zip(grams, degree, strict=True)])

    def around(x: Array) -> Array:
        """Return for each tile the sum over its neighbours."""
        out = np.zeros_like(x)
        np.add.at(out, pairs[:, 0], x[pairs[:, 1]])
        np.add.at(out, pairs[:, 1], x[pairs[:, 0]])
        return out

    def apply(x: Array) -> Array:
        return np.asarray(grams @ x + weight * (degree[:, None, None] * x - around(x)))

    # The unknown is the step from the kernels without a penalty, where the data have nothing left to say.
    plain = np.stack(list(alone))[:, :, None]
    residual = np.stack([least_squares.residual_at(*both)[0] for both in zip(every, alone, strict=True)])[:, :, None]
    right = residual - weight * (degree[:, None, None] * plain - around(plain))
    step, converged = _conjugate_gradients(apply, own, right, 1e-24)
    taps = plain[:, :, 0] + step[:, :, 0]
    rng = np.random.default_rng(0)
    roots = np.stack([_root(g) for g in grams])
    borrowed = np.zeros_like(taps)
    for _ in range(_BATCHES):
        draws = roots @ rng.standard_normal((len(every), m, _DRAWS))
        edges = math.sqrt(weight) * rng.standard_normal((len(pairs), m, _DRAWS))
        np.add.at(draws, pairs[:, 0], edges)
        np.add.at(draws, pairs[:, 1], -edges)
        drawn, enough = _conjugate_gradients(apply, own, draws, 1e-8)
        converged = converged and enough
        borrowed += np.mean((weight * (own @ around(drawn))) ** 2, axis=2) / _BATCHES
    variance = np.diagonal(own, axis1=1, axis2=2) + borrowed
    out = []
    for i, stats in enumerate(every):
        stderr = noise * np.sqrt(variance[i])
        rss = least_squares.residual_at(stats, taps[i])[1]
        findings = least_squares.judge(stats, taps[i], stderr[:, None], m, 1.0, rss, prior=True)
        if not converged:
            findings = (*findings, Finding(Verdict.NOT_CONVERGED, f"stopped after {_MOST_ITERATIONS} iterations"))
        out.append(Smoothed(taps[i], stderr, rss, ranked(findings)))
    return out


def _root(gram: Array) -> Array:
    """Return R with ``R R' = gram``."""
    try:
        return np.asarray(np.linalg.cholesky(gram))
    except np.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(gram)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _conjugate_gradients(
    apply: Callable[[Array], Array], own: Array, right: Array, tolerance: float
) -> tuple[Array, bool]:
    """Solve for several right-hand sides (tiles, taps, sides) at once, preconditioned tile by tile."""
    x = np.zeros_like(right)
    residual = right.copy()
    better = own @ residual
    direction = better.copy()
    size = np.einsum("tms,tms->s", residual, better)
    enough = tolerance * size
    for _ in range(_MOST_ITERATIONS):
        if not np.any(size > enough):
            return x, True
        image = apply(direction)
        curvature = np.einsum("tms,tms->s", direction, image)
        step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
        x += step * direction
        residual -= step * image
        better = own @ residual
        previous, size = size, np.einsum("tms,tms->s", residual, better)
        direction = better + np.divide(size, previous, out=np.zeros_like(size), where=previous > 0) * direction
    return x, False
