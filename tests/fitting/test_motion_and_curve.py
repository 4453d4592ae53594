"""Motion, curve and kernel found together, against a dense joint system; motions of several pairs, and boundaries."""

import dataclasses

import numpy as np
import pytest
import scipy.signal

import kernelfit
from helpers import assert_close
from kernelfit.core import registration
from kernelfit.core.curve import SIDES
from kernelfit.data.warp import Spline
from kernelfit.fitting import joint, pipeline, registration_columns, registration_round
from motions import KERNEL, corners, error, motion, pair, scene

GAMMA, PADDED = 2.2, np.pad(KERNEL, 1)


def bent(kind, side="both", shape=(110, 130), kernel=KERNEL, seed=0, noise=0.002):
    """Return an image and its target, whose light is moved, the light of both if aligned, and the motion."""
    at, matrix = scene(shape, seed), motion(kind, shape, seed)
    image, moved = (np.clip(0.5 + 0.25 * (at(m) - 600) / 200, 0.02, 0.98) for m in (np.eye(3), matrix))
    grain = noise * np.random.default_rng(seed + 9).normal(size=shape)
    target, aligned = (
        np.clip(scipy.signal.convolve2d(one, kernel, mode="same") + grain, 1e-3, 1) for one in (moved, image)
    )
    x = image if side == "target" else image ** (1 / GAMMA)
    return x, target if side == "image" else target ** (1 / GAMMA), image, aligned, matrix


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_motion_curve_and_kernel_are_found(side):
    x, y, image, aligned, matrix = bent("affine", side)
    fit = kernelfit.find_kernel(x, y, (9, 11), register="affine", curve="gamma", curve_side=side)
    plain = kernelfit.find_kernel(image, aligned, (9, 11))
    assert fit.verdict.ok
    assert error(fit, PADDED) < 1.32 * error(plain, PADDED)
    assert corners(fit, matrix) < 5 * fit.registration.displacement_stderr.max() < 0.05
    assert abs(fit.curve.parameters[0] - GAMMA) < 4 * fit.curve.stderr[0] < 0.02
    assert np.nanstd(fit.residual(x, y)) < 0.01
    assert not kernelfit.check_noise(x, y, fit).coloured
    for one in ("register", "curve"):  # either alone leaves more
        keywords = {"register": "affine"} if one == "register" else {"curve": "gamma", "curve_side": side}
        assert error(kernelfit.find_kernel(x, y, (9, 11), **keywords), PADDED) > 2 * error(fit, PADDED)


def test_errors_are_those_of_the_dense_joint_system():
    kernel = np.array([[0.02, 0.1, 0.05, 0.0], [0.1, 0.4, 0.15, 0.02], [0.03, 0.1, 0.03, 0.0]])
    x, y, _, _, _ = bent("rigid", shape=(60, 75), kernel=kernel)
    inner = np.pad(np.zeros((44, 59), dtype=bool), 8, constant_values=True)
    fit = kernelfit.find_kernel(x, y, (3, 4), register="rigid", curve="gamma", mask=inner)
    (gamma,), matrix, k = fit.curve.parameters, fit.registration.matrix, fit.kernel
    generators = [*registration.GENERATORS["rigid"], *registration.SHIFTS]
    used = fit.weights[1:-1, 2:-1] > 0

    def lit(generator, power):
        return Spline(x**power).at(matrix @ registration.motion(generator, x.shape), x.shape, 1)[0]

    def made(generator, power):
        return scipy.signal.convolve2d(lit(generator, power), k, mode="valid")[used]

    patches = np.lib.stride_tricks.sliding_window_view(lit(np.zeros((3, 3)), gamma), k.shape)[:, :, ::-1, ::-1]
    slopes = [(made(3e-4 * g, gamma) - made(-3e-4 * g, gamma)) / 6e-4 for g in generators]
    model, still = made(np.zeros((3, 3)), gamma), np.zeros((3, 3))
    curve = (made(still, gamma + 1e-3) - made(still, gamma - 1e-3)) / 2e-3 - model * np.log(model) / gamma
    whole = np.column_stack([patches[used].reshape(-1, k.size), *slopes, curve])
    joint = fit.noise_std**2 * np.linalg.inv(whole.T @ whole)
    assert_close(fit.stderr.ravel(), np.sqrt(np.diag(joint))[: k.size], 0.05)
    assert_close(fit.curve.stderr, np.sqrt(np.diag(joint))[-1:], 0.02)
    effects = [registration.field_at(g, registration.corners_of(x.shape), x.shape).ravel() for g in generators]
    table = np.stack(effects, axis=1) @ joint[k.size : -1, k.size : -1] @ np.stack(effects)
    assert_close(fit.registration.displacement_stderr.ravel(), np.sqrt(np.diag(table)), 0.05)
    taps = np.linalg.solve(whole.T @ whole, whole.T @ (y[1:-1, 2:-1][used] ** gamma - model))  # nothing is left to find
    assert np.all(np.abs(taps[k.size :]) < 0.3 * np.sqrt(np.diag(joint))[k.size :])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["srgb", "monotone"])
def test_other_curves_go_with_a_motion(family):
    x, y, image, aligned, matrix = bent("similarity", seed=2)
    if family == "srgb":
        x, y = (np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055) for v in (x**GAMMA, y**GAMMA))
    fit = kernelfit.find_kernel(x, y, (9, 11), register="similarity", curve=family)
    plain = kernelfit.find_kernel(image, aligned, (9, 11))
    assert error(fit, PADDED) < 1.32 * error(plain, PADDED)
    assert corners(fit, matrix) < 0.01


def settings():
    """Yield a name, and what makes the arguments of a call of an image, a target and a random generator."""

    def masked(x, y, rng):
        bad = rng.random(y.shape) < 0.05
        return x, np.where(bad, 0.4, y), {"mask": bad}

    def hole(x, y, rng):
        bad = np.zeros(x.shape, dtype=bool)
        bad[50:53, 60:64] = True
        return np.where(bad, 0.7, x), y, {"image_mask": bad}

    yield "mask", masked
    yield "hole", hole
    yield "background", lambda x, y, rng: (x, (0.9 * y**GAMMA + 0.05) ** (1 / GAMMA), {"background": 0})
    yield "stride", lambda x, y, rng: (x, y[1::2, ::2], {"stride": 2, "offset": (1, 0)})
    yield "colours", lambda x, y, rng: (np.stack([x, x**1.1], -1), np.stack([y, y**1.1], -1), {"channel_axis": -1})
    yield "auto", lambda x, y, rng: (x, y, {"solver": "auto"})


@pytest.mark.slow
@pytest.mark.parametrize("name, make", [pytest.param(*s, id=s[0]) for s in settings()])
def test_both_go_with_everything_else(name, make):
    x, y, _, _, matrix = bent("rigid", seed=3)
    x, y, keywords = make(x, y, np.random.default_rng(8))
    fit = kernelfit.find_kernel(x, y, (9, 11), register="rigid", curve="gamma", **keywords)
    assert corners(fit, matrix) < 0.02
    assert abs(fit.curve.parameters[0] - GAMMA) < (0.3 if name == "colours" else 0.03)


@pytest.mark.parametrize("kind", ["rigid", pytest.param("shift", marks=pytest.mark.slow)])
def test_several_pairs_have_a_motion_each(kind, tmp_path):
    shapes = (110, 130), (90, 120)
    pairs = [pair(kind, shape, seed, noise=2.0) for seed, shape in enumerate(shapes)]
    (images, targets, aligned, matrices) = ([one[i] for one in pairs] for i in range(4))
    fit = kernelfit.find_kernel(images, targets, (9, 11), register=kind)
    assert fit.verdict.ok
    plain = kernelfit.find_kernel(images, aligned, (9, 11))
    assert error(fit, PADDED) < 1.3 * error(plain, PADDED)
    assert 0.6 < np.sqrt(np.mean(((fit.kernel - PADDED) / fit.stderr) ** 2)) < 1.3
    for i, (shape, matrix) in enumerate(zip(shapes, matrices, strict=True)):
        own, places = fit.registration.of(i), registration.corners_of(shape)
        off = own.displacement - (registration.moved(matrix, places) - places)
        assert own.shape == shape and np.abs(off / own.displacement_stderr).max() < 4
        assert np.nanstd(fit.residual(images[i], targets[i], pair=i)) == pytest.approx(fit.noise_std, rel=0.05)
    alone = kernelfit.find_kernel(images[0], targets[0], (9, 11), register=kind).registration
    assert_close(fit.registration.displacement_stderr, alone.displacement_stderr, 0.5)
    fit.save(tmp_path / "fit.npz")
    back = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert_close(back.registration.of(1).matrix, fit.registration.of(1).matrix, 1e-15)
    assert not kernelfit.check_noise(images, targets, fit).coloured
    with pytest.raises(ValueError, match="each has a motion of its own"):
        fit.predict(images[0])
    with pytest.raises(ValueError, match="from 0 to 1"):
        fit.registered(images[0], pair=2)


@pytest.mark.slow
def test_pairs_with_masks_and_a_curve():
    pairs = [bent("rigid", seed=seed) for seed in (4, 5)]
    (x, y, _, _, matrices) = ([one[i] for one in pairs] for i in range(5))
    bad = np.random.default_rng(0).random(x[0].shape) < 0.05
    y[0] = np.where(bad, 0.4, y[0])
    fit = kernelfit.find_kernel(x, y, (9, 11), register="rigid", curve="gamma", mask=[bad, None])
    assert abs(fit.curve.parameters[0] - GAMMA) < 4 * fit.curve.stderr[0] < 0.02
    places = registration.corners_of(x[0].shape)
    for i, matrix in enumerate(matrices):
        found = fit.registration.of(i).displacement
        assert np.abs(found - (registration.moved(matrix, places) - places)).max() < 0.02


@pytest.mark.parametrize(
    "boundary, padding",
    [("symm", "symmetric"), pytest.param("nearest", "edge", marks=pytest.mark.slow)],
)
def test_a_boundary_is_that_of_the_registered_image(boundary, padding):
    at, shape = scene((110, 130), 1), (110, 130)
    matrix = motion("similarity", shape, 1)
    image, moved = at(np.eye(3)), np.pad(at(matrix), ((3, 3), (4, 4)), mode=padding)
    target = scipy.signal.convolve2d(moved, KERNEL, mode="valid") + np.random.default_rng(2).normal(0, 3, shape)
    fit, without = (
        kernelfit.find_kernel(image, target, (9, 11), register="similarity", boundary=b) for b in (boundary, None)
    )
    assert fit.n_pixels > without.n_pixels + 500 and fit.verdict.ok
    assert 0.6 < np.sqrt(np.mean(((fit.kernel - PADDED) / fit.stderr) ** 2)) < 1.3
    assert corners(fit, matrix) < 4 * fit.registration.displacement_stderr.max()
    assert np.isfinite(fit.predict(image)).sum() >= fit.n_pixels


def noisy(shape, seed=0):
    """Return an image that is noise, and what a line makes of it: of its motion little is known."""
    image = np.random.default_rng(seed).normal(size=shape)
    line = np.exp(-(np.arange(-3, 4)[:, None] ** 2) / 2 - np.arange(-4, 5) ** 2 / 30.0)
    return image, scipy.signal.convolve2d(image, line / line.sum(), mode="same")


def test_what_the_kernels_errors_make_of_the_columns_is_known():
    """The average of many draws, against the trace of dense matrices."""
    shape, sides = (40, 50), (5, 7)
    image, target = noisy(shape)
    target += np.random.default_rng(1).normal(0, 0.1, shape)
    model = kernelfit.Model(sides, register="similarity")
    scene = registration_round.Scene.of(image, None, None, 1)
    search = registration_round.Search([scene], target, model, kernelfit.Selection(), pipeline.Settings())
    place = search.start
    one, slopes = search.round(place), [[]]
    search.images(place, slopes)
    columns = registration_columns.Columns(one.plan, search.generators, search.places, [shape], 2)
    columns = dataclasses.replace(columns, changes=search.changes(slopes))
    draws = [joint.drawn(one.groups, seed) for seed in range(60)]
    found = np.mean([joint.precision(joint.shares_of(one.plan, d, columns, 1), d)[0] for d in draws], axis=0)

    def patches(values):
        return np.lib.stride_tricks.sliding_window_view(values, sides)[:, :, ::-1, ::-1].reshape(-1, 35)

    a = patches(image)
    slopes = [np.asarray(plan.groups[0][0].sources[0].array) for plan in columns.changes]
    hat = np.linalg.inv(a.T @ a)
    free = [patches(s) - a @ (hat @ (a.T @ patches(s))) for s in slopes]
    expected = [[np.trace(hat @ (x.T @ y)) for y in free] for x in free]
    assert_close(np.diag(found), np.diag(expected), 0.15)
    guess = np.diag(search._expected(one.groups, 2)) / np.diag(expected)
    assert (0.7 < guess).all() and (guess < 2.0).all()  # on which depends whether the draw is worth its time
    spurious = joint.precision(joint.shares_of(one.plan, draws[0], columns, 1), draws[0])[0]
    plain, right = (joint.solved(one.shares, one.groups, b) for b in (None, spurious))
    assert plain[2] == 0 < right[2] < 0.75
    s, b = joint.precision(one.shares, one.groups)[0], spurious
    assert_close(right[1], np.linalg.inv(s - b) @ s @ np.linalg.inv(s - b), 1e-6)


@pytest.mark.parametrize("words", [{"register": "shift"}, {"curve": "gamma"}], ids=str)
@pytest.mark.parametrize("how", ["masked array", "image_mask", "saturated"])
def test_one_of_two_images_has_bad_pixels(words, how):
    rng = np.random.default_rng(3)
    kernel = np.outer([1, 2, 1], [1, 3, 4, 1]) / 36
    images = [rng.random((60, 71)) * 0.7 + 0.1 for _ in range(2)]
    targets = [kernelfit.apply_kernel(one, kernel) + rng.normal(0, 1e-3, one.shape) for one in images]
    bad = np.zeros((60, 71), dtype=bool)
    bad[20:26, 30:37] = True
    images[0][bad] = 0.95
    expected = kernelfit.find_kernel(images, targets, (3, 4), image_mask=[bad, np.zeros_like(bad)], **words)
    given, more = images, {"image_mask": [bad, None]}
    if how == "masked array":
        given, more = [np.ma.array(images[0], mask=bad), images[1]], {}
    elif how == "saturated":
        more = {"saturated": (None, 0.9)}
    fit = kernelfit.find_kernel(given, targets, (3, 4), **more, **words)
    assert fit.n_pixels == expected.n_pixels
    np.testing.assert_allclose(fit.kernel, expected.kernel, rtol=0, atol=1e-7)
    np.testing.assert_allclose(fit.kernel, kernel, rtol=0, atol=0.01)


def test_a_curve_sees_the_mask_of_one_of_two_targets():
    rng = np.random.default_rng(4)
    light = rng.random((60, 71)) * 0.8 + 0.1
    kernel = np.outer([1, 2, 1], [1, 3, 4, 1]) / 36
    target = kernelfit.apply_kernel(light, kernel, boundary="symm")
    bad = np.zeros(target.shape, dtype=bool)
    bad[10:30, 5:40] = True
    spoiled = np.ma.array(np.where(bad, 0.9, target), mask=bad)
    fit = kernelfit.find_kernel([light, light], [spoiled, target], (3, 4), curve="gamma", boundary="symm")
    np.testing.assert_allclose(fit.kernel, kernel, rtol=0, atol=1e-6)
    assert fit.n_pixels == 2 * target.size - bad.sum()
