"""Images restored where target or kernel are complex."""

import numpy as np
import pytest

import kernelfit
from helpers import assert_close, grid


def normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.mark.parametrize("size, shape", [((14, 17), (3, 2)), ((60,), (5,))], ids=str)
@grid("operation, penalty", [(o, p) for o in ("convolution", "correlation") for p in ("laplacian", "identity")], 2)
def test_it_is_the_minimum(size, shape, operation, penalty):
    """Of ``|y - A x|^2 + balance m |Q x|^2``, A the dense matrix of the kernel on periodic images."""
    rng = np.random.default_rng(0)
    image, kernel = normal(rng, *size), normal(rng, *shape)
    target = kernelfit.apply_kernel(image, kernel, boundary="wrap", operation=operation) + 0.1 * normal(rng, *size)
    found = kernelfit.deconvolve(target, kernel, balance=0.2, penalty=penalty, boundary="wrap", operation=operation)
    n = image.size
    units = np.eye(n).reshape(n, *size)
    sign, axes, matrix = (1 if operation == "convolution" else -1), tuple(range(1, 1 + len(size))), 0
    for p, tap in np.ndenumerate(kernel):  # y[t] = sum_p k[p] x[t - (p - origin)]
        apart = [sign * (at - (side - 1) // 2) for at, side in zip(p, shape, strict=True)]
        matrix = matrix + tap * np.roll(units, apart, axes).reshape(n, n).T
    held = np.eye(n)
    if penalty == "laplacian":
        rough = sum(2 * units - np.roll(units, 1, a) - np.roll(units, -1, a) for a in axes)
        held = rough.reshape(n, n).T / np.sqrt(20)
    strength = 0.2 * np.sum(np.abs(kernel) ** 2)
    gram = matrix.conj().T @ matrix + strength * held.T @ held
    assert_close(found.ravel(), np.linalg.solve(gram, matrix.conj().T @ target.ravel()), 1e-9)
    clean = (matrix @ image.ravel()).reshape(size)
    exact = kernelfit.deconvolve(clean, kernel, balance=0, boundary="wrap", operation=operation)
    assert_close(exact, image, 1e-8)


@pytest.mark.slow
@grid("words", [{}, {"boundary": "wrap"}, {"edges": "solve"}, {"mask": True}, {"balance": 0.01}], 3, ids=str)
def test_of_real_numbers_it_is_the_real_one(words):
    rng = np.random.default_rng(1)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(80, 91)), axis=0), axis=1)
    kernel = np.outer([0.2, 0.5, 0.3], [0.1, 0.4, 0.3, 0.2])
    target = kernelfit.apply_kernel(smooth, kernel, boundary="wrap") + rng.normal(size=smooth.shape)
    if "mask" in words:
        words["mask"] = rng.random(target.shape) < 0.05
    real = kernelfit.deconvolve(target, kernel, **words)
    both = kernelfit.deconvolve(target + 0j, kernel + 0j, **words)
    assert both.dtype == np.complex128 and np.abs(both.imag).max() < 1e-6 * np.abs(real).max()
    assert_close(both.real, real, 1e-6 if "balance" in words else 0.02)  # all frequencies are looked at, or some
    turned = kernelfit.deconvolve(target * np.exp(0.4j), kernel, **words)
    assert_close(turned, both * np.exp(0.4j), 1e-6)
    single = kernelfit.deconvolve((target + 0j).astype(np.complex64), kernel, **words)
    assert single.dtype == np.complex64 and np.linalg.norm(single - both) < 1e-2 * np.linalg.norm(both)


def test_edges_and_the_balance():
    """A complex field seen through a complex kernel comes back nearer than it was."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:90, :100]
    field = np.exp(1j * (np.sin(y / 9) + np.cos(x / 11)) * 2) * (1 + 0.5 * np.sin(x / 5))
    kernel = np.exp(-(np.mgrid[-3:4, -2:3] ** 2).sum(axis=0) / 4) * np.exp(0.5j * np.arange(5))
    whole = kernelfit.apply_kernel(field, kernel, boundary="symm")
    target = (whole + 0.02 * np.abs(whole).mean() * normal(rng, 90, 100))[10:-10, 9:-9]
    wanted = field[10:-10, 9:-9]
    found = kernelfit.deconvolve(target, kernel)
    scaled = target / np.vdot(wanted, target) * np.vdot(wanted, wanted)
    assert np.linalg.norm(found - wanted) < 0.3 * np.linalg.norm(scaled - wanted)
    hole = target.copy()
    hole[20:22, 30:33] = np.nan
    filled = kernelfit.deconvolve(hole, kernel, nan="mask")
    assert np.linalg.norm((filled - wanted)[20:22, 30:33]) < 0.3 * np.linalg.norm(wanted[20:22, 30:33])
