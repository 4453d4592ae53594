"""Errors of a kernel that varies know of what the degree of its polynomial leaves out."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage

import kernelfit
import naive
from helpers import assert_close
from kernelfit.core.field import Omitted
from kernelfit.core.findings import Verdict
from kernelfit.data.plan import make_plan
from kernelfit.diagnostics import omission, samples, tiles

SHAPE, SIDES = (300, 380), (9, 11)


def kernels(kind):
    """Return a kernel and one that it changes towards."""
    y, x = np.indices(SIDES) - (np.array(SIDES)[:, None, None] - 1) / 2
    first, second = {
        "gaussian": (np.exp(-(y**2 / 3.4 + x**2 / 5)), np.exp(-(y**2 / 6.5 + x**2 / 7))),
        "disc": (np.clip(3.2 - np.hypot(y, x), 0, 1), np.clip(3.9 - np.hypot(y, x), 0, 1)),
        "streak": (
            np.clip(1.2 - abs(y - 0.4 * x), 0, 1) * (abs(x) < 4),
            np.clip(1.2 - abs(y + 0.1 * x), 0, 1) * (abs(x) < 4),
        ),
    }[kind]
    return first / first.sum(), second / second.sum()


def scene(pixels, kind, beyond, seed):
    """Return an image, a target of a kernel of degree 2 and of `beyond` more of degrees 3 and 4, and the kernel."""
    rng = np.random.default_rng(seed + 70)
    image = scipy.ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5, mode="wrap") * 200 + rng.normal(
        100, 20, SHAPE
    )
    if pixels == "stars":
        image = np.zeros(SHAPE)
        at = tuple(rng.integers(0, n, 900) for n in SHAPE)
        image[at] = np.minimum(500 / (1 - rng.random(900)), 1e5)
        image = scipy.ndimage.gaussian_filter(image, 0.88) + 100
    first, second = kernels(kind)
    v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    place = 0.3 * u + 0.2 * v * u + 0.3 * v * v - 0.1 + beyond * (u**3 * v + 0.7 * v**4 - 0.5 * u**3)
    clean = kernelfit.apply_kernel(image, first) + kernelfit.apply_kernel(image * place, second - first)
    sigma = np.sqrt(np.maximum(clean, 1) / 4) if pixels == "stars" else 0.5
    target = clean + sigma * rng.standard_normal(SHAPE)
    return image, target, lambda row, col: first + place[row, col] * (second - first)


def pulls(fit, kernel):
    """Return the error over the standard error of all taps at places over the field."""
    rows, cols = ((np.linspace(0.1, 0.9, 5) * n).astype(int) for n in SHAPE)
    here = [(fit.at(row, col), kernel(row, col)) for row in rows for col in cols]
    return np.array([(one.kernel - truth) / one.stderr for one, truth in here])


def cover(fit, kernel):
    return np.mean(np.abs(pulls(fit, kernel)) < 1.96)


def fit_of(image, target, pixels, solver):
    keywords = {"noise": (4.0, 0.0)} if pixels == "stars" else {}
    return kernelfit.find_kernel(image, target, SIDES, variation=2, background=0, solver=solver, **keywords)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, "auto"])
@pytest.mark.parametrize("kind", ["gaussian", "disc", "streak"])
@pytest.mark.parametrize("pixels", ["texture", "stars"])
def test_nothing_is_left_out_where_the_kernel_is_of_the_degree(pixels, kind, solver):
    image, target, kernel = scene(pixels, kind, 0.0, 1)
    fit = fit_of(image, target, pixels, solver)
    assert fit.omitted is None
    assert not any(f.verdict is Verdict.VARYING for f in fit.findings)
    assert cover(fit, kernel) > 0.92


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixels", "kind", "beyond", "solver"),
    [
        ("texture", "gaussian", 0.3, None),
        ("texture", "streak", 0.3, None),
        ("texture", "gaussian", 1.0, "auto"),
        ("stars", "gaussian", 1.0, "auto"),
    ],
)
def test_errors_hold_what_a_degree_that_is_too_low_leaves_out(pixels, kind, beyond, solver):
    image, target, kernel = scene(pixels, kind, beyond, 2)
    fit = fit_of(image, target, pixels, solver)
    before = dataclasses.replace(fit, omitted=None)
    assert cover(before, kernel) < 0.9 < 0.93 < cover(fit, kernel)
    assert np.abs(pulls(fit, kernel)).max() < 0.5 * np.abs(pulls(before, kernel)).max()
    assert fit.verdict is Verdict.VARYING
    assert "variation=4" in str(fit.findings[0])
    assert_close(fit.at(20, 70).kernel, before.at(20, 70).kernel, 0.0)


@pytest.mark.parametrize(
    ("convention", "sides"), [({"stride": (1, 2)}, (5, 4)), ({"operation": "correlation"}, (3, 6))]
)
def test_the_sums_are_those_of_the_pixels_of_each_cell(convention, sides):
    rng = np.random.default_rng(3)
    image = rng.normal(size=(70, 90))
    matrix, used = naive.design_dense(image, sides, mode="valid", boundary=None, **convention)
    target = rng.normal(size=used.shape)
    weights = np.where(rng.random(used.shape) < 0.9, rng.uniform(0.5, 2, used.shape), 0.0)
    plan = make_plan(image, target, kernelfit.Model(sides, mode="valid", **convention), kernelfit.Selection())
    (observation,) = plan.groups[0]
    fit = kernelfit.find_kernel(image, target, sides, mode="valid", weights=weights, **convention)
    part = samples.sample(observation, fit, (0, 1), weights, (20, 20), [(2, 6), (40, 10)])
    shapes = rng.normal(size=(3, *sides))
    gram, score, loud, rows, cols = omission._sums(observation, part, shapes)
    features = (matrix @ shapes.reshape(3, -1).T).reshape(*used.shape, 3)
    left = target - (matrix @ fit.kernel.ravel()).reshape(used.shape)
    step = convention.get("stride", (1, 1))
    squares = np.zeros(3)
    centre = [(k - 1) / 2 for k in sides]
    for at, (row, col) in enumerate([(2, 6), (40, 10)]):
        some = np.s_[row : row + 16, col : col + 16]
        f, w = features[some].reshape(-1, 3), weights[some].ravel()
        assert_close(gram[at], (f.T * w) @ f, 1e-9)
        assert_close(score[at], (f.T * w) @ left[some].ravel(), 1e-9)
        squares += (f**2).T @ (w * left[some].ravel()) ** 2
        assert rows[at] == pytest.approx(step[0] * (row + 7.5) + centre[0])
        assert cols[at] == pytest.approx(step[1] * (col + 7.5) + centre[1])
    assert_close(loud, squares, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, kernelfit.GaussianProcess("squared-exponential")])
def test_what_the_fitted_functions_make_up_for_is_that_of_all_pixels(solver, monkeypatch):
    monkeypatch.setattr(omission, "_TILES", 80)  # all there are
    rng = np.random.default_rng(4)
    shape, sides = (256, 320), (3, 4)
    image = rng.normal(size=shape)
    image[:, 200:] *= 3  # so that the functions are not orthogonal where the image tells of them
    functions = naive.polynomials(shape, 3)
    matrix, used = naive.varying_design(image, sides, functions, mode="same", boundary="wrap")
    taps = rng.normal(size=(10, 12)) * np.where(np.arange(10) < 3, 1.0, 0.05)[:, None]
    target = (matrix @ taps.ravel()).reshape(shape) + 0.3 * rng.normal(size=shape)
    fit = kernelfit.find_kernel(image, target, sides, variation=1, mode="same", boundary="wrap", solver=solver)
    basis = fit.omitted.shapes.reshape(-1, 12)
    assert_close(basis @ basis.T, np.eye(len(basis)), 1e-12)
    assert len(basis) == 12
    gram, shared = matrix.T @ matrix, np.kron(np.eye(10), basis.T)
    gram = shared.T @ gram @ shared
    n, scale = 3 * 12, fit.omitted.mix.reshape(10 * 12, -1)[3 * 12 : 6 * 12, : 3 * 12]
    assert_close(scale, np.diag(np.diag(scale)), 1e-12)
    expected = -np.linalg.solve(gram[:n, :n], gram[:n, n : 2 * n]) @ scale
    assert_close(fit.omitted.mix.reshape(10 * 12, -1)[:n, : 3 * 12], expected, 0.15)


def varying(degree, solver=None, beyond=1.0):
    """Return a small fit of a kernel of degree 3."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(90, 120))
    v = np.linspace(-1, 1, 90)[:, None]
    target = image + kernelfit.apply_kernel(image * v**3 * beyond, np.array([[0.2, 0.5], [0.1, -0.3], [0, 0.2]]))
    target = target + 0.1 * rng.normal(size=image.shape)
    return kernelfit.find_kernel(image, target, (3, 2), variation=degree, solver=solver)


def test_the_errors_at_a_place_are_those_of_all_that_is_unknown():
    fit = varying(1)
    omitted = fit.omitted
    assert omitted.degree == 3
    for row, col in ((3, 100), (89, 0)):
        u, v = 2 * row / 89 - 1, 2 * col / 119 - 1
        functions = [
            naive.legendre_value(i, u) * naive.legendre_value(d - i, v) for d in range(4) for i in range(d + 1)
        ]
        fitted = np.kron(functions[:3], np.eye(6))
        more = sum(f * omitted.shapes.reshape(-1, 6).T @ m for f, m in zip(functions, omitted.mix, strict=True))
        here = fit.at(row, col)
        assert_close(here.covariance(), fitted @ fit.covariance() @ fitted.T + more @ more.T, 1e-9)
        assert here.omitted is None
        assert here.unsettled == fit.unsettled + more.shape[1]
    assert np.linalg.norm(here.stderr) > 1.5 * np.linalg.norm(dataclasses.replace(fit, omitted=None).at(89, 0).stderr)


def test_it_is_kept_in_files(tmp_path):
    fit = varying(1)
    fit.save(tmp_path / "fit.npz")
    back = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert_close(back.at(3, 100).stderr, fit.at(3, 100).stderr, 1e-15)
    assert isinstance(back.omitted, Omitted)


def test_a_degree_that_is_high_enough_leaves_nothing_out():
    assert varying(3).omitted is None
    assert varying(1, beyond=0.0).omitted is None
    assert varying(None).omitted is None


@pytest.mark.slow
def test_a_constant_that_was_not_fitted_is_not_left_out_by_the_degree():
    image, target, _ = scene("texture", "gaussian", 0.3, 2)
    fit = kernelfit.find_kernel(image, target + 20, SIDES, variation=2)
    assert Verdict.OFFSET in {f.verdict for f in fit.findings}
    assert fit.omitted is None


def test_the_variance_is_that_of_what_is_pulled():
    rng = np.random.default_rng(6)
    values = np.geomspace(1e-3, 1e6, 300)
    for variance in (1e-4, 3e-2):
        pull = rng.standard_normal(300) * np.sqrt(values + variance * values**2)
        found, evidence = omission._amplitude(values, pull)
        assert found == pytest.approx(variance, rel=0.3)
        assert evidence > 10
    assert omission._amplitude(values, rng.standard_normal(300) * np.sqrt(values))[1] < 5


def test_tiles_are_all_over_the_field_and_where_the_image_tells_the_most():
    rng = np.random.default_rng(7)
    image = rng.normal(size=(530, 610))
    image[:, 305:] *= 5
    image[300:330, 200:230] += 50 * rng.normal(size=(30, 30))
    target = image[2:-2, 1:-1]
    plan = make_plan(image, target, kernelfit.Model((5, 3), mode="valid"), kernelfit.Selection())
    (observation,) = plan.groups[0]
    found, share = tiles.telling_places(observation, None)
    places = np.array(found)
    assert len({tuple(p) for p in places}) == len(places) == 128
    assert len({(r * 8 // 526, c * 8 // 608) for r, c in places + 16}) > 55
    assert (places >= 0).all()
    assert (places + 32 <= target.shape).all()
    bright = {(r, c) for r in (256, 288, 320) for c in (192, 224) if r > 256}
    assert bright <= {tuple(p) for p in places}
    weights = np.ones(target.shape)
    weights[280:350, 180:260] = 0.0
    cells = np.square(image[2:514, 1:609] - np.median(image)).reshape(16, 32, 19, 32).sum(axis=(1, 3))
    told = sum(cells[r // 32, c // 32] for r, c in found)
    assert share == pytest.approx(told / cells.sum(), rel=1e-3)
    seen, _ = tiles.telling_places(observation, weights)
    assert not {(288, 192), (288, 224)} & set(seen)


def test_each_shape_has_a_variance_of_its_own():
    rng = np.random.default_rng(9)
    truth = np.array([4.0, 0.3, 0.02])
    design = rng.normal(size=(400, 300)) * 3
    drawn = rng.standard_normal(300) * np.sqrt(np.tile(truth, 100))
    told = design.T @ design
    told[2::3], told[:, 2::3] = 0.0, 0.0  # nothing tells of the last
    pulled = told @ drawn + np.linalg.cholesky(told + 1e-9 * np.eye(300)) @ rng.standard_normal(300)
    found = omission._of_each(told, pulled, 1.0, 3)
    assert_close(found, np.tile(found[:3], 100), 0.0)
    assert found[0] == pytest.approx(4.0, rel=0.3)
    assert found[1] == pytest.approx(0.3, rel=0.3)
    assert found[2] == pytest.approx(1.0)
