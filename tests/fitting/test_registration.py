"""Motion and kernel found together: against a dense joint system, against the truth, beside everything else."""

import dataclasses

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import assert_close, smooth_image
from kernelfit.core import registration
from kernelfit.data.plan import make_plan
from kernelfit.data.warp import Spline
from kernelfit.fitting import registration as registration_fit
from kernelfit.fitting import registration_round, registration_start
from kernelfit.fitting.pipeline import Settings
from motions import KERNEL, corners, error, motion, pair, scene


@pytest.mark.parametrize("fine", [False, True])
def test_a_spline_reads_between_the_pixels(fine):
    image = np.random.default_rng(0).normal(size=(23, 31))
    matrix = np.array([[0.99, 0.05, 1.3], [-0.04, 1.02, -2.1], [1e-4, -2e-4, 1.0]])
    warped, outside = Spline(image, fine=fine).at(matrix, image.shape, 2)
    places = matrix @ np.stack([*np.indices(image.shape).reshape(2, -1), np.ones(image.size)])
    places = places[:2] / places[2]
    beyond = [(p < -0.05) | (p > n - 0.95) for p, n in zip(places, image.shape, strict=True)]
    assert np.array_equal(outside.ravel(), beyond[0] | beyond[1])
    if fine:  # the cosine series, summed at the points of the finer grid
        basis = [
            np.cos(np.pi * np.multiply.outer(0.5 * (np.arange(2 * n) + 0.5), np.arange(n)) / n)
            * np.r_[1, [2] * (n - 1)]
            for n in image.shape
        ]
        image = basis[0] @ scipy.fft.dctn(image, norm="forward") @ basis[1].T
        places = 2 * places + 0.5
    expected = scipy.ndimage.map_coordinates(image, places, order=5, mode="reflect").reshape(warped.shape)
    assert_close(warped[~outside], expected[~outside], 1e-6)  # of single precision


def test_bad_pixels_spoil_no_more_than_their_neighbours():
    image = smooth_image(60, 70)
    bad = np.zeros(image.shape, dtype=bool)
    bad[30, 40] = True
    matrix = motion("affine", image.shape)
    clean, outside = Spline(image).at(matrix, image.shape, 1)
    for spoiled in (np.where(bad, np.nan, image), np.where(bad, 1e9, image)):
        warped, unknown = Spline(spoiled, bad).at(matrix, image.shape, 1)
        assert 0 < (unknown & ~outside).sum() < 200
        assert np.abs(warped - clean)[~unknown].max() < 0.02 * image.std()


@pytest.mark.parametrize("kind", registration.KINDS)
def test_a_homography_through_the_corners_is_the_motion(kind):
    matrix, places = motion(kind, (40, 50)), registration.corners_of((40, 50))
    assert_close(registration.through(places, registration.moved(matrix, places)), matrix, 1e-10)


def test_parameters_say_what_was_done():
    turn, scale = np.deg2rad(0.7), 1.02
    linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / scale
    matrix, middle = np.eye(3), np.array([19.5, 24.5])
    matrix[:2, :2], matrix[:2, 2] = linear, middle - linear @ middle + [1.5, -0.5]
    figures = registration.Registration("affine", matrix, (40, 50), np.eye(8)).parameters
    expected = {"shift_row": 1.5, "shift_col": -0.5, "rotation": 0.7, "scale": scale, "stretch": 0, "shear": 0}
    assert {name: round(value, 9) + 0.0 for name, (value, _) in figures.items()} == expected
    image = np.zeros((40, 50))
    image[19:21, 44:46] = 1.0  # right of the middle; turned counter-clockwise it goes up
    warped, _ = Spline(image).at(
        np.linalg.inv(registration.motion(-turn * 20 * registration._TURN, (40, 50))), (40, 50), 1
    )
    assert scipy.ndimage.center_of_mass(warped.clip(0))[0] < 19


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "affine")) for k in registration.KINDS]
)
def test_motion_and_kernel_are_found(kind):
    image, target, aligned, matrix = pair(kind)
    fit = kernelfit.find_kernel(image, target, (9, 11), register=kind)
    plain = kernelfit.find_kernel(image, aligned, (9, 11))
    kernel = np.pad(KERNEL, 1)
    assert fit.registration.kind == kind and fit.registration.centred
    assert fit.verdict.ok
    assert error(fit, kernel) < 1.4 * error(plain, kernel)
    assert corners(fit, matrix) < 5 * fit.registration.displacement_stderr.max() < 0.05
    left = fit.residual(image, target)
    assert np.nanstd(left) == pytest.approx(fit.noise_std, rel=0.03)
    for name, (value, stderr) in fit.registration.parameters.items():
        true = dataclasses.replace(fit.registration, matrix=matrix).parameters[name][0]
        assert abs(value - true) < 5 * stderr, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shift", "similarity", "homography"])
def test_large_motions_are_found(kind):
    at, shape = scene((220, 260), 4), (220, 260)
    matrix = motion(kind, shape, 4, (0.15, 0.03 if kind == "homography" else 0.09, 20.0))
    image = at(np.eye(3))
    target = scipy.signal.convolve2d(at(matrix), KERNEL, mode="same") + np.random.default_rng(0).normal(size=shape)
    fit = kernelfit.find_kernel(image, target, (9, 11), register=kind)
    assert corners(fit, matrix) < 0.05


def dense(fit, image, generators):
    """Return the covariance of the taps and of the parameters of some generators, by the dense joint system."""
    shape, kernel = fit.kernel.shape, fit.kernel
    spline, matrix = Spline(image), fit.registration.matrix

    def made(generator):
        warped, _ = spline.at(matrix @ registration.motion(generator, image.shape), image.shape, 1)
        return scipy.signal.convolve2d(warped, kernel, mode="valid")

    warped, _ = spline.at(matrix, image.shape, 1)
    used = fit.weights[tuple(slice(k // 2, n - (k - 1) // 2) for n, k in zip(image.shape, shape, strict=True))] > 0
    patches = np.lib.stride_tricks.sliding_window_view(warped, shape)[:, :, ::-1, ::-1]
    taps = patches.reshape(-1, kernel.size)[used.ravel()]
    slopes = np.stack([((made(1e-5 * g) - made(-1e-5 * g)) / 2e-5).ravel()[used.ravel()] for g in generators], axis=1)
    whole = np.concatenate([taps, slopes], axis=1)
    return fit.noise_std**2 * np.linalg.inv(whole.T @ whole)


@pytest.mark.parametrize("kind", ["rigid", pytest.param("homography", marks=pytest.mark.slow)])
def test_errors_are_those_of_the_dense_joint_system(kind):
    kernel = np.array([[0.02, 0.1, 0.05, 0.0], [0.1, 0.4, 0.15, 0.02], [0.03, 0.1, 0.03, 0.0]])
    image, target, _, _ = pair(kind, (60, 75), kernel=kernel)
    inner = np.pad(np.zeros((44, 59), dtype=bool), 8, constant_values=True)  # the same pixels count in every round
    fit = kernelfit.find_kernel(image, target, (3, 4), register=kind, mask=inner)
    generators = [*registration.GENERATORS[kind], *registration.SHIFTS]  # no kernel so small holds a shift
    joint = dense(fit, image, generators)
    assert_close(fit.stderr.ravel(), np.sqrt(np.diag(joint))[: kernel.size], 0.05)
    places = registration.corners_of(image.shape)
    effects = np.stack([registration.field_at(g, places, image.shape).ravel() for g in generators], axis=1)
    table = effects @ joint[kernel.size :, kernel.size :] @ effects.T
    assert_close(fit.registration.displacement_stderr.ravel(), np.sqrt(np.diag(table)), 0.05)


@pytest.mark.slow
def test_errors_of_a_centred_kernel_are_those_of_the_dense_joint_system():
    image, target, _, _ = pair("similarity", (80, 95))
    shape = KERNEL.shape
    fit = kernelfit.find_kernel(image, target, shape, register="similarity")
    generators = list(registration.GENERATORS["similarity"])
    joint = dense(fit, image, generators)
    total = fit.kernel.sum()
    lags = [np.arange(k) - (k - 1) / 2 for k in shape]
    follows = np.zeros((2, len(joint)))  # the centroid, with the taps
    follows[:, : fit.kernel.size] = [g.ravel() / total for g in np.meshgrid(*lags, indexing="ij")]
    places = registration.corners_of(image.shape)
    effects = np.zeros((8, len(joint)))
    effects[:, fit.kernel.size :] = np.stack(
        [registration.field_at(g, places, image.shape).ravel() for g in generators], 1
    )
    for axis in (0, 1):
        effects[axis::2] -= follows[axis]
    assert_close(fit.registration.covariance, effects @ joint @ effects.T, 0.05)
    back = np.eye(fit.kernel.size, len(joint))
    for axis in (0, 1):
        wide = np.pad(fit.kernel, 1)
        slope = np.gradient(wide, axis=axis)[1:-1, 1:-1].ravel()
        back += np.outer(slope, follows[axis])
    assert_close(fit.stderr.ravel(), np.sqrt(np.diag(back @ joint @ back.T)), 0.05)
    own = follows[:, : fit.kernel.size]
    assert np.trace(own @ fit.covariance() @ own.T) < 0.02 * np.trace(follows @ joint @ follows.T)  # it stays centred


def settings():
    """Yield a name, and what makes the arguments of a call of an image, a target and a random generator."""

    def some(shape, rng):
        return rng.random(shape) < 0.05

    def masked(image, target, rng):
        bad = some(target.shape, rng)
        return image, np.where(bad, 1e6, target), {"mask": bad}

    def missing(image, target, rng):
        return image, np.where(some(target.shape, rng), np.nan, target), {"nan": "mask"}

    def holes(image, target, rng):
        bad = np.zeros(image.shape, dtype=bool)
        bad[50:54, 60:65] = True
        return np.where(bad, np.nan, image), target, {"image_mask": bad}

    def brought(image, target, rng):
        bad = np.zeros(image.shape, dtype=bool)
        bad[20:22, 90] = True
        return np.ma.MaskedArray(np.where(bad, 1e9, image), bad), target, {}

    yield "mask", masked
    yield "nan", missing
    yield "image mask", holes
    yield "masked image", brought
    yield "weights", lambda i, t, rng: (i, t, {"weights": 0.5 + rng.random(t.shape)})
    yield "background", lambda i, t, rng: (i, t + 40 + 0.5 * np.arange(t.shape[1]), {"background": 1})
    yield "robust", lambda i, t, rng: (i, t + 500 * (rng.random(t.shape) < 0.01), {"robust": "huber"})
    yield "photons", lambda i, t, rng: (i, rng.poisson(np.maximum(400 * t, 0)) / 400, {"noise": (400.0, 0.0)})
    yield "valid", lambda i, t, rng: (i, t[4:-4, 5:-5], {})
    yield "crop", lambda i, t, rng: (i, t[5:, :-9], {"mode": "crop", "origin": (9, 5)})
    yield "correlation", lambda i, t, rng: (i, t, {"operation": "correlation"})
    yield "stride", lambda i, t, rng: (i, t[1::2, ::3], {"stride": (2, 3), "offset": (1, 0)})
    yield "auto", lambda i, t, rng: (i, t, {"solver": "auto"})
    yield "colours", lambda i, t, rng: (np.stack([i, 2 * i], -1), np.stack([t, 2 * t], -1), {"channel_axis": -1})
    yield (
        "separate",
        lambda i, t, rng: (
            np.stack([i, i]),
            np.stack([t, t + rng.normal(size=t.shape)]),
            {"channel_axis": 0, "channels": "separate"},
        ),
    )
    yield (
        "mixed",
        lambda i, t, rng: (
            np.stack([i, rng.normal(size=i.shape)]),
            np.stack([t, t + rng.normal(size=t.shape)]),
            {"channel_axis": 0, "channels": "mixed"},
        ),
    )


QUICK = ("image mask", "background", "stride", "colours")


@pytest.mark.parametrize(
    "name, make", [pytest.param(*s, id=s[0], marks=[pytest.mark.slow] * (s[0] not in QUICK)) for s in settings()]
)
def test_it_goes_with_everything_else(name, make):
    image, target, _, matrix = pair("similarity", (120, 140), 3)
    image, target, keywords = make(image, target, np.random.default_rng(8))
    fit = kernelfit.find_kernel(image, target, (9, 11), register="similarity", **keywords)
    assert corners(fit, matrix) < max(5 * fit.registration.displacement_stderr.max(), 1e-3)
    assert fit.registration.displacement_stderr.max() < (0.2 if name == "mixed" else 0.05)
    residual = fit.residual(image.filled(np.nan) if isinstance(image, np.ma.MaskedArray) else image, target)
    assert np.isfinite(residual).mean() > 0.5
    assert np.nanmedian(np.abs(residual)) < 1.0


def test_aligned_pairs_suffer_no_harm():
    image, _, aligned, _ = pair("shift", seed=5)
    fit, plain = (kernelfit.find_kernel(image, aligned, (9, 11), register=kind) for kind in ("affine", None))
    assert error(fit, np.pad(KERNEL, 1)) < 1.06 * error(plain, np.pad(KERNEL, 1))
    assert np.abs(fit.registration.displacement).max() < 4 * fit.registration.displacement_stderr.max()


@pytest.mark.slow
def test_a_kernel_without_a_centre_keeps_the_shift():
    kernel = np.random.default_rng(3).random((7, 9))
    image, _, aligned, _ = pair("shift", seed=6, kernel=kernel / kernel.sum())
    fit, plain = (kernelfit.find_kernel(image, aligned, (7, 9), register=kind) for kind in ("rigid", None))
    assert not fit.registration.centred
    assert fit.registration.parameters["shift_row"] == pytest.approx((0.0, 0.0), abs=1e-9)
    assert "keeps the shift" in fit.summary()
    assert np.abs(fit.kernel - plain.kernel).max() < 3 * plain.stderr.max()


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"boundary": "fill"}, "edge stays"),
        ({"variation": 1}, "is a motion"),
        ({"method": "wiener"}, "never sees a residual"),
        ({"method": "cg"}, "inverse Gram matrix"),
        ({"image_noise": 1.0}, "not white"),
        ({"errors": "sandwich"}, "white noise"),
        ({"register": "turn"}, "need one of"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_words(keywords, words):
    image = smooth_image(40, 50)
    with pytest.raises(ValueError, match=words):
        kernelfit.find_kernel(image, image, 5, **{"register": "rigid", **keywords})


@pytest.mark.parametrize("where", ["image", "target"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused_as_ever(where, value):
    image, target = smooth_image(60, 71), smooth_image(60, 71)
    (image if where == "image" else target)[20, 31] = value
    with pytest.raises(ValueError, match=rf"got {where} .*first at \(row, column\) \(20, 31\).*nan='mask'"):
        kernelfit.find_kernel(image, target, (5, 4), register="rigid")
    assert np.isfinite(kernelfit.find_kernel(image, target, (5, 4), register="rigid", nan="mask").kernel).all()


def test_other_verbs_refuse_it_in_words():
    image = smooth_image(40, 50)
    for call, words in (
        (lambda: kernelfit.find_kernel(image[0], image[0], 5, register="shift"), "two dimensions"),
        (lambda: kernelfit.kernel_map(image, image, 5, register="shift", tiles=2), "find_kernel"),
        (lambda: kernelfit.accumulate(image, image, 5, register="shift"), "find_kernel"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_fit_is_kept_told_and_applied(tmp_path):
    image, target, _, matrix = pair("affine", (70, 80))
    fit = kernelfit.find_kernel(image, target, (7, 9), register="affine")
    fit.save(tmp_path / "fit.npz")
    back = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert back.registration.parameters == fit.registration.parameters
    assert np.array_equal(back.predict(image), fit.predict(image), equal_nan=True)
    assert "register='affine'" in fit.reproduce()
    assert "rotation" in fit.summary()
    place, stderr = fit.registration.at(0, 0)
    assert_close(place, fit.registration.displacement[0], 1e-9)
    assert_close(stderr, fit.registration.displacement_stderr[0], 1e-4)
    assert np.isfinite(fit.registration.stderr).all()
    assert np.isnan(fit.registered(image)).any()
    assert not kernelfit.check_noise(image, target, fit).coloured
    with pytest.raises(ValueError, match="need \\(70, 80\\)"):
        fit.predict(image[1:])
    with pytest.raises(ValueError, match="with a motion"):
        fit.export("scipy")
    with pytest.raises(ValueError, match="with a motion, need one without"):
        kernelfit.check_boundary(image, target, fit)


@pytest.mark.slow
def test_a_motion_of_too_few_parameters_is_told():
    image, target, _, _ = pair("affine", (200, 220), 2, noise=0.05)
    fit = kernelfit.find_kernel(image, target, (9, 11), register="shift")
    (told,) = (f.remedy for f in fit.findings if f.verdict is kernelfit.Verdict.MISALIGNED)
    assert "take register='rigid', or a part" in told
    plain = kernelfit.find_kernel(image, target, (15, 17))
    (told,) = (f for f in plain.findings if f.verdict is kernelfit.Verdict.MISALIGNED)
    assert "register='similarity'" in str(told)


def test_pixels_of_a_level_are_means_of_what_is_known():
    image, bad = np.random.default_rng(1).random((2, 11, 17))
    for known in (np.ones_like(image), bad > 0.4):
        made, unknown = registration_start._binned(image, known == 0, (1, 2), [2, 3], [4, 5])
        for i, j in np.ndindex(4, 5):
            part = np.s_[1 + 2 * i : 3 + 2 * i, 2 + 3 * j : 5 + 3 * j]
            count = known[part].sum()
            assert unknown[i, j] == (2 * count <= 6)
            assert unknown[i, j] or abs(made[i, j] - (image * known)[part].sum() / count) < 1e-12


def test_the_changes_of_the_image_are_its_derivatives():
    """Columns of J, of a motion that is far from none, against differences of the warped image."""
    image = np.random.default_rng(3).normal(size=(40, 50))
    scene = registration_round.Scene.of(image, None, None, 1)
    model = kernelfit.Model((5, 7), register="homography")
    search = registration_round.Search([scene], image, model, kernelfit.Selection(), None)
    matrix = registration.motion(sum(0.02 * g for g in search.generators), image.shape)
    place = registration_round.Place((matrix,))
    search.images(place, slopes := [[]])
    plans = search.changes(slopes)
    assert len(plans) == len(search.generators) == 6
    for plan, generator in zip(plans, search.generators, strict=True):
        ends = [scene.at(matrix @ registration.motion(s * generator, image.shape)).data for s in (1e-5, -1e-5)]
        change = np.asarray(plan.groups[0][0].sources[0].array)
        assert_close(change, (ends[0] - ends[1]) / 2e-5, 1e-7)


def search_of(image, target, kind, sides=(9, 11)):
    """Return the search for a motion at full size."""
    plan = make_plan(image, target, kernelfit.Model(sides, register=kind), kernelfit.Selection())
    seen = [registration_round.Scene.of(image, None, None, 1)]
    return registration_round.Search(seen, target, plan.model, plan.selection, Settings())


def corner_errors(search, one):
    """Return the standard deviation of each corner, of draws of a round's errors."""
    places = registration.corners_of(search.scenes[0].shape)
    steps = np.random.default_rng(4).multivariate_normal(np.zeros(len(one.step)), one.covariance, 4000)
    drawn = [search.after(dataclasses.replace(one, step=step), np.zeros(2)).matrices[0] for step in steps]
    there = np.array([registration.moved(matrix, places) for matrix in drawn])
    return np.sqrt(there.var(axis=0).sum(axis=1))


@pytest.mark.parametrize("doubt", [0.0, 0.3])
def test_the_last_step_leaves_a_fifth_of_the_errors_of_a_corner(doubt):
    image, target, _, matrix = pair("affine")
    search = search_of(image, target, "affine")
    one = dataclasses.replace(search.round(registration_round.Place((matrix,))), doubt=doubt)
    least, step = 0.2 * corner_errors(search, one).max(), one.step
    length = search.length(one.place, search.after(one, np.zeros(2)))
    for factor, last in ((0.85, True), (1.15, False)):  # what is left of a step: what is doubtful, and a five-hundredth
        scaled = dataclasses.replace(one, step=step * factor * least / (length * (doubt + 0.002)))
        assert registration_fit._is_last(search, scaled, search.after(scaled, np.zeros(2))) == last


@pytest.mark.parametrize(
    "noise, off", [(0.3, 0.0), (0.3, 0.5), pytest.param(1e-3, 0.5, marks=pytest.mark.slow)], ids=str
)
def test_rounds_end_when_another_would_change_nothing(noise, off):
    image, target, _, matrix = pair("affine", noise=noise)
    search = search_of(image, target, "affine")
    start = matrix @ registration.motion(off / 65 * search.generators[0], image.shape)  # pixels, at the edges
    end = registration_fit.settled(search, registration_round.Place((start,)))
    assert end.done
    assert end.rounds <= (1 if off == 0 else 3 if noise > 0.1 else 5)
    after = search.round(end.place)
    centre, _ = registration_round.centroid_of(after.taps, after.groups[0][0].convention)
    left = search.length(after.place, search.after(after, centre))
    assert left < 0.25 * corner_errors(search, after).max() + 1e-6


def test_where_taps_are_near_slopes_of_the_prediction_make_the_same_step():
    image, target, _, matrix = pair("homography", (230, 280))
    search, steps = search_of(image, target, "homography"), []
    start = matrix @ registration.motion(0.1 / 140 * search.generators[0], image.shape)
    assert search.near and not search_of(image[:110, :130], target[:110, :130], "homography").near
    for search.near in (True, False):
        steps.append(search.round(registration_round.Place((start,))))
    near, exact = steps
    assert np.abs(exact.step[0]) > 5 * np.sqrt(exact.covariance[0, 0])
    assert (np.abs(near.step - exact.step) < 0.1 * np.sqrt(np.diag(exact.covariance))).all()
    assert_close(near.covariance, exact.covariance, 0.01)


def test_a_level_above_the_values_costs_no_precision():
    image, matrix = smooth_image(23, 31), motion("affine", (23, 31))
    steep = np.empty((2, 2, 23, 31))
    plain, high = (
        Spline(image + level).at(matrix, image.shape, 1, s)[0] for level, s in zip((0, 1e6), steep, strict=True)
    )
    assert_close(high - 1e6, plain, 1e-6)
    assert_close(steep[1], steep[0], 1e-6)


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_after_a_short_step_the_images_follow_their_slopes(kind):
    image, target, _, matrix = pair(kind, (80, 95))
    search = search_of(image, target, kind)
    one = search.round(registration_round.Place((matrix,)))
    for factor, follows in ((0.9, True), (1.1, False)):
        table = sum((i + 1) * g for i, g in enumerate(search.generators)) + registration.SHIFTS[1]
        moved = [matrix @ registration.motion(1e-3 * s * table, image.shape) for s in (1, 0)]
        length = search.length(registration_round.Place((moved[1],)), registration_round.Place((moved[0],)))
        size = 1e-3 * factor * registration_round._SHORT / length
        place = registration_round.Place((matrix @ registration.motion(size * table, image.shape),))
        both = [make(place) for make in (lambda p: search.plan_after(one, p), search.plan)]
        before, after, exact = (np.asarray(p.groups[0][0].sources[0].array[10:-10, 10:-10]) for p in (one.plan, *both))
        assert np.array_equal(after, exact) != follows
        assert np.linalg.norm(after - exact) < 0.02 * np.linalg.norm(exact - before)
