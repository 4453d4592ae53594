"""The errors of a kernel's numbers against what noise does to them; what symmetry fixes is told."""

import dataclasses

import numpy as np
import pytest
import scipy.signal

import kernelfit
from helpers import grid
from kernelfit import Constrained, GaussianProcess, measure_psf
from kernelfit.analysis.psf_shape import PeakShape


def gaussian(shape, along, across, degrees, coma=0.0):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = y - shape[0] / 2 + 0.8, x - shape[1] / 2 + 0.3
    t = np.radians(degrees)
    u, v = x * np.cos(t) - y * np.sin(t), x * np.sin(t) + y * np.cos(t)
    kernel = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
    kernel += coma * np.exp(-((u - 2.2) ** 2) / (2 * (1.3 * along) ** 2) - v**2 / (2 * (1.5 * across) ** 2))
    return kernel / kernel.sum()


@pytest.mark.parametrize("kernel", [gaussian((15, 18), 2.3, 1.4, 30), gaussian((16, 19), 1.8, 1.4, 20, coma=0.35)])
def test_derivatives_are_the_differences(kernel):
    """Centre, distortion, and every number at a fixed centre and angle, along three random changes of the taps."""
    found = PeakShape.of(kernel)
    centers, turns = found.place_by_taps()
    numbers = found.numbers(found.center, found.angle, slopes=True)
    rng = np.random.default_rng(0)
    for _ in range(3):
        change = rng.normal(size=kernel.shape) * kernel.max()
        size = 1e-4
        a, b = (PeakShape.of(kernel + sign * size * change) for sign in (1, -1))
        assert np.allclose((a.center - b.center) / (2 * size), centers @ change.ravel(), rtol=2e-2, atol=1e-3)
        own = [shape.distortion * np.exp(2j * (shape.angle - found.angle)) for shape in (a, b)]
        moved = (own[0] - own[1]) / (2 * size)
        assert np.allclose([moved.real, moved.imag], turns @ change.ravel(), rtol=2e-2, atol=1e-3)
        ends = [np.array([n.value for n in s.numbers(found.center, found.angle)]) for s in (a, b)]
        expected = (ends[0] - ends[1]) / (2 * size)
        assert np.allclose([n.gradient @ change.ravel() for n in numbers], expected, rtol=0.1, atol=0.05)


def test_errors_of_place_and_shape_are_the_differences():
    """For noise along one change of the taps the error of a number is what the change makes of it."""
    rng, kernel = np.random.default_rng(1), gaussian((15, 18), 2.3, 1.4, 30)
    template = kernelfit.find_kernel(*rng.normal(size=(2, 40, 50)), kernel.shape)
    for _ in range(3):
        change = 1e-4 * kernel.max() * rng.normal(size=kernel.shape)
        fit = dataclasses.replace(template, kernel=kernel, root=change.reshape(-1, 1), root_scale=1.0, findings=())
        found, *ends = (measure_psf(one) for one in (fit, kernel + change, kernel - change))
        for name in ("sum", "shift_rows", "shift_cols", "ellipticity", "angle"):
            a, b = (getattr(end, name).value for end in ends)
            assert getattr(found, name).stderr == pytest.approx(abs(a - b) / 2, rel=0.02), name


@pytest.mark.slow
@grid(
    "kernel",
    [gaussian((13, 17), 2.2, 1.3, 30), gaussian((13, 15), 1.6, 1.6, 0), gaussian((15, 17), 1.5, 1.2, 20, 0.35)],
    3,
)
def test_intervals_hold_the_truth(kernel):
    """Of 100 draws some 95; benchmarks/error_bars.py draws 400."""
    rng = np.random.default_rng(3)
    template = kernelfit.find_kernel(*rng.normal(size=(2, 40, 50)), kernel.shape)
    truth = [number.value for _, number, _ in measure_psf(kernel).rows()]
    factor = 0.015 * kernel.max() * np.eye(kernel.size)
    hits = []
    for _ in range(100):
        noisy = kernel + (factor @ rng.standard_normal(kernel.size)).reshape(kernel.shape)
        fit = dataclasses.replace(template, kernel=noisy, root=factor, root_scale=1.0, findings=())
        rows = measure_psf(fit).rows()
        away = np.array([number.value for _, number, _ in rows]) - truth
        away[6] = (away[6] + 90) % 180 - 90
        hits.append(np.abs(away) <= 1.96 * np.array([number.stderr for _, number, _ in rows]))
    share = np.mean(hits, axis=0)
    assert (share >= 0.87).all() and share.mean() < 0.98, dict(zip([name for name, _, _ in rows], share, strict=True))


def test_what_symmetry_fixes_is_told():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(60, 70))
    y, x = np.mgrid[-4:5, -3:4]
    target = scipy.signal.convolve2d(image, np.exp(-(y**2) / 5 - x**2 / 3) / 12, mode="same", boundary="symm")
    stats = kernelfit.accumulate(image, target + rng.normal(0.0, 0.05, target.shape), (9, 7))
    found = stats.solve(Constrained(symmetric="both")).psf()
    assert str(found.shift_rows) == str(found.shift_cols) == "0 by symmetry"
    assert str(found.angle).endswith("90 by symmetry") and found.fwhm_along.stderr > 0
    square = kernelfit.accumulate(image, target, (7, 7)).solve(GaussianProcess(symmetric="square")).psf()
    assert str(square.ellipticity) == "0 by symmetry" and str(square.angle) == "not defined"
    assert "by symmetry" in str(found) and found.to_dict()["shift_rows"] == {"value": 0.0, "stderr": None}
    array = measure_psf(np.outer([1, 2, 1], [1, 2, 3, 2, 1]))
    assert str(array.shift_rows) == "0 by symmetry"
