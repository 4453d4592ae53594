"""Pairs of which one is moved: the motion, the moved scene, and how far a fit is from both."""

import numpy as np
import scipy.ndimage
import scipy.signal

from kernelfit.core import registration

KERNEL = np.exp(-(np.arange(-3, 4)[:, None] ** 2) / 3 - np.arange(-4, 5) ** 2 / 5)
KERNEL /= KERNEL.sum()


def motion(kind, shape, seed=0, size=(0.012, 0.008, 2.0)):
    """Return a random motion: radians, share of scale, pixels."""
    rng = np.random.default_rng(seed)
    table = sum(rng.uniform(-size[1], size[1]) * g for g in registration.GENERATORS[kind]) + np.zeros((3, 3))
    if kind != "shift":
        table += size[0] * rng.choice([-1, 1]) * registration.GENERATORS["rigid"][0]
    table[:2, 2] = rng.uniform(-size[2], size[2], 2) / registration.frame_of(shape)[1]
    return registration.motion(table, shape)


def scene(shape, seed=0):
    """Return an image that is a blurred one of four times its pixels, and what reads that at the places of a motion."""
    fine = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=[4 * n + 160 for n in shape]), 3.0)
    fine += 2 * scipy.ndimage.gaussian_filter(np.random.default_rng(seed + 1).normal(size=fine.shape), 30.0) * 10
    coefficients = scipy.ndimage.spline_filter(600 + 900 * fine, 3)

    def at(matrix):
        places = matrix @ np.stack([*np.indices(shape).reshape(2, -1), np.ones(shape[0] * shape[1])])
        places = 80 + 4 * places[:2] / places[2]
        return scipy.ndimage.map_coordinates(coefficients, places, order=3, prefilter=False).reshape(shape)

    return at


def pair(kind, shape=(110, 130), seed=0, kernel=KERNEL, noise=0.3):
    """Return an image, its target, that of the image as it is, and the motion."""
    at, matrix = scene(shape, seed), motion(kind, shape, seed)
    image, grain = at(np.eye(3)), noise * np.random.default_rng(seed + 9).normal(size=shape)
    target, aligned = (scipy.signal.convolve2d(one, kernel, mode="same") + grain for one in (at(matrix), image))
    return image, target, aligned, matrix


def error(fit, kernel=KERNEL):
    return np.linalg.norm(fit.kernel - kernel) / np.linalg.norm(kernel)


def corners(fit, matrix):
    """Return the largest error of a corner, in pixels."""
    places = registration.corners_of(fit.registration.shape)
    return np.abs(fit.registration.displacement - (registration.moved(matrix, places) - places)).max()
