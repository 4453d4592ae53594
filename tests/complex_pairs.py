"""Complex pairs, and what dense least squares makes of them."""

import numpy as np
import pytest

import naive
from helpers import assert_close

SIZE, SHAPE = (13, 10), (2, 3)


def normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def pair(size=SIZE, shape=SHAPE, seed=1, noise=0.1, kinds="cc", **words):
    """An image, a kernel and the target it makes; an image that is real, or a target, for "r" among the kinds."""
    rng = np.random.default_rng(seed)
    image, kernel = normal(rng, *size) + (2 - 1j), normal(rng, *shape)
    image = image if kinds[0] == "c" else image.real
    matrix, used = naive.design_nd(image, shape, **{**words, "boundary": words.get("boundary") or "fill"})
    target = (matrix @ kernel.ravel()).reshape(used.shape)
    target = target + noise * normal(rng, *target.shape)
    return image, kernel, target if kinds[1] == "c" else target.real


def check(fit, matrix, target, weights=None, tolerance=1e-9, real=False):
    kernel, covariance, rss = naive.complex_fit(matrix, target, weights, real)
    m = len(kernel)
    assert_close(fit.kernel.ravel(), kernel, tolerance)
    assert_close(fit.covariance(), covariance, 10 * tolerance)
    errors = np.sqrt(np.diag(covariance))
    assert_close(fit.stderr.ravel(), errors if real else errors[:m] + 1j * errors[m:], 10 * tolerance)
    assert_close(fit.rss, rss, 1e-8)
    n = len(target) if weights is None else np.count_nonzero(weights)
    assert (fit.n_pixels, fit.rank) == (n, m) and fit.df_resid == 2 * n - (m if real else 2 * m)
    assert fit.noise_std == pytest.approx(np.sqrt(2 * rss / fit.df_resid), rel=1e-8)
