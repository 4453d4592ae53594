"""Dense textbook penalties and priors, tap by tap."""

import numpy as np
import pytest
import scipy.spatial.distance


def dense_penalty(penalty, shape):
    """Q of a support, tap by tap."""
    rows, cols = shape
    taps = rows * cols

    def stencil(kernel):
        found = np.zeros_like(kernel)
        for i in range(rows):
            for j in range(cols):
                around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                inside = sum(kernel[p] for p in around if 0 <= p[0] < rows and 0 <= p[1] < cols)
                found[i, j] = 4 * kernel[i, j] - inside
        return found

    unit = np.eye(taps).reshape(taps, rows, cols)
    if penalty == "ridge":
        return np.eye(taps)
    if penalty == "gradient":
        padded = np.pad(unit, ((0, 0), (1, 1), (1, 1)))
        steps = [np.diff(padded, axis=axis).reshape(taps, -1) for axis in (1, 2)]
        return sum(step @ step.T for step in steps)
    once = np.array([stencil(kernel) for kernel in unit])
    if penalty == "biharmonic":
        once = np.array([stencil(kernel) for kernel in once])
    flat = once.reshape(taps, taps)
    return flat @ flat.T


def correlation(family, t):
    """Textbook forms, and for the Matern classes scikit-learn's if it is there."""
    if family == "squared-exponential":
        return np.exp(-(t**2) / 2)
    nu = {"matern52": 2.5, "matern32": 1.5, "exponential": 0.5}[family]
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")

    return kernels.Matern(nu=nu)(np.zeros((1, 1)), np.ravel(t)[:, None]).reshape(t.shape)


def dense_prior(prior, shape):
    points = np.array([(i, j) for i in range(shape[0]) for j in range(shape[1])], dtype=float)

    def envelope(at):
        u = np.sum((at - prior.center) ** 2, axis=1) / prior.radius**2
        return np.exp(-u / 2) if prior.envelope == "gaussian" else 1 / (1 + u / 6) ** 3

    rows, cols = shape[0] - 1, shape[1] - 1
    images = [points]
    if prior.symmetric is not None:
        images.append([rows, cols] - points)
    if prior.symmetric in ("both", "square"):
        images += [
            np.column_stack([rows - points[:, 0], points[:, 1]]),
            np.column_stack([points[:, 0], cols - points[:, 1]]),
        ]
    if prior.symmetric == "square":
        images += [image[:, ::-1] for image in images]
    rho = sum(
        envelope(image) * correlation(prior.family, scipy.spatial.distance.cdist(points, image) / prior.length)
        for image in images
    )
    return prior.amplitude**2 * envelope(points)[:, None] * rho


def detail(a):
    """Energy of the taps less their mean, which a constant added to the image leaves as it is."""
    return np.sum((a - a.mean(axis=1, keepdims=True)) ** 2)
