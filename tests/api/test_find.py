"""Pair -> kernel, end to end: the original question, round trips, accuracy, error bars, verdicts, and files."""

import functools

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, camera, grid, scipy_targets, smooth_image
from kernelfit import Verdict, apply_kernel, find_kernel

# ---- the question that started the project (Stack Overflow 55560333) ------------------------------------------------

QUESTION = np.array(
    [
        [94, 166, 76, 106, 152, 232],
        [48, 242, 30, 98, 46, 210],
        [52, 60, 86, 60, 216, 248],
        [52, 236, 116, 240, 224, 184],
        [138, 160, 146, 254, 236, 252],
        [94, 100, 224, 246, 152, 74],
    ]
)
ANSWERED = np.array(
    [
        [15, 49, 23, 105, 0, 0],
        [43, 30, 108, 124, 0, 0],
        [58, 120, 112, 92, 0, 0],
        [73, 127, 118, 126, 0, 0],
        [112, 123, 76, 37, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
)


@pytest.mark.parametrize("dtype", [int, np.uint8, float])
def test_the_question(dtype, method):
    fit = find_kernel(QUESTION.astype(dtype), ANSWERED.astype(dtype), shape=5, boundary="fill", method=method)
    truth = np.zeros((5, 5))
    truth[1, 0] = 0.5
    np.testing.assert_allclose(fit.kernel, truth, rtol=0, atol=1e-12)
    target = scipy.signal.convolve2d(QUESTION, fit.kernel, mode="same", boundary="fill")
    assert np.linalg.norm(target - ANSWERED) <= 1e-12 * np.linalg.norm(ANSWERED)
    assert fit.rank == 25 and fit.n_pixels == 36
    assert np.sqrt(fit.rss) <= 1e-12 * np.linalg.norm(ANSWERED)


def test_the_question_without_a_boundary():
    with pytest.raises(ValueError, match="4 interior pixels cannot determine 25 taps") as caught:
        find_kernel(QUESTION, ANSWERED, shape=5, boundary=None)
    for remedy in ("boundary", "fill", "wrap", "symm", "mirror", "nearest"):
        assert remedy in str(caught.value)


# ---- round trips ----------------------------------------------------------------------------------------------------


def test_round_trip(scene):
    """The kernel that comes back makes the target again, in scipy's hands and in ours."""
    target = scene.exact_target
    fit = find_kernel(scene.image, target, scene.shape, **scene.convention)
    assert fit.kernel.shape == scene.shape and fit.kernel.dtype == np.float64
    matrix, used = scene.design
    assert fit.n_pixels == used.sum()
    assert fit.rank == np.linalg.matrix_rank(matrix)
    if fit.rank == fit.kernel.size:
        assert_close(fit.kernel, scene.kernel, 1e-12 * np.linalg.cond(matrix), "kernel")
        for name, again in scipy_targets(scene, scene.image, fit.kernel):
            assert_close(again, target, 1e-10, name)
    remade = apply_kernel(scene.image, fit.kernel, **scene.forward)
    assert_close(remade[used], target[used], 1e-10, "apply_kernel")
    assert_close(fit.predict(scene.image)[used], target[used], 1e-10, "predict")


def test_round_trip_is_no_accident(scene):
    """Noisy targets: the kernel is the least-squares one, the least norm where several are."""
    target = scene.target
    fit = find_kernel(scene.image, target, scene.shape, **scene.convention)
    matrix, used = scene.design
    best = np.linalg.lstsq(matrix, target[used], rcond=None)[0]
    condition = np.linalg.cond(matrix) if fit.rank == best.size else 1e2
    error = np.linalg.norm(fit.kernel.ravel() - best)
    assert error <= 1e-13 * condition**2 * np.linalg.norm(best)
    residual = target[used] - matrix @ best
    np.testing.assert_allclose(fit.rss, residual @ residual, rtol=1e-8, atol=1e-20 * (target[used] @ target[used]))


@grid("shape, operation", [((7, 10), "convolution"), ((12, 5), "correlation"), ((2, 9), "correlation")], 3, ids=str)
def test_round_trip_on_a_larger_image(shape, operation, boundary, method):
    image = smooth_image(140, 211, seed=1)
    kernel = np.random.default_rng(2).normal(size=shape)
    truth = {"operation": operation, **boundary, "boundary": boundary["boundary"] or "nearest"}
    target = apply_kernel(image, kernel, **truth)
    fit = find_kernel(image, target, shape, operation=operation, method=method, **boundary)
    assert fit.method == method and fit.method_reason
    assert_close(fit.kernel, kernel, 1e-12)
    assert_close(apply_kernel(image, fit.kernel, **truth), target, 1e-13)
    assert fit.verdict is Verdict.SOLVED and fit.verdict.ok


@pytest.mark.parametrize("function, mode", [
    (scipy.ndimage.correlate, "mirror"), (scipy.ndimage.correlate, "nearest"), (scipy.ndimage.convolve, "reflect"),
    (scipy.ndimage.convolve, "wrap"), (scipy.ndimage.correlate, "constant"),
])  # fmt: skip
def test_a_filter_made_with_ndimage(function, mode):
    """Even sides: ndimage's centre is side // 2, declared by origin."""
    boundary = {"mirror": "mirror", "nearest": "nearest", "reflect": "symm", "wrap": "wrap", "constant": "fill"}[mode]
    image = smooth_image(37, 61, seed=3)
    kernel = np.random.default_rng(4).normal(size=(4, 6))
    target = function(image, kernel, mode=mode, cval=50.0)
    operation = "correlation" if function is scipy.ndimage.correlate else "convolution"
    fit = find_kernel(image, target, (4, 6), boundary=boundary, fillvalue=50.0, origin=(2, 3), operation=operation)
    assert_close(fit.kernel, kernel, 1e-12)


@pytest.mark.parametrize("wrong", ["fill", "wrap", "nearest"])
def test_a_wrong_boundary_shows(wrong):
    """Declaring the wrong boundary must spoil the fit, or the boundary would not be used at all."""
    image = smooth_image(30, 44, seed=5)
    kernel = np.random.default_rng(6).normal(size=(5, 4))
    target = apply_kernel(image, kernel, boundary="mirror")
    right = find_kernel(image, target, (5, 4), boundary="mirror")
    other = find_kernel(image, target, (5, 4), boundary=wrong)
    assert right.rss < 1e-20 * (target**2).sum() < 1e-12 * other.rss
    assert np.abs(other.kernel - kernel).max() > 1e6 * np.abs(right.kernel - kernel).max()


# ---- accuracy -------------------------------------------------------------------------------------------------------


@functools.cache
def photograph(side, rows, cols, exact):
    """(image, target, the true kernel, the kernel by numpy.linalg.lstsq); rows and cols are (first, past the last)."""
    picture = camera()[slice(*rows), slice(*cols)].astype(float)
    rng = np.random.default_rng(side)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    kernel = np.exp(-((4 * (x - 0.6) / side) ** 2) - (6 * (y + 0.4) / side) ** 2) + 0.05 * rng.random((side, side))
    kernel /= kernel.sum()
    if exact:  # then the target has no rounding either: whatever error is left is the solver's own
        kernel = np.round(kernel * 2**24) / 2**24
    target = scipy.signal.convolve2d(picture, kernel, mode="valid")
    matrix, _ = naive.design_dense(picture, (side, side), mode="valid", boundary=None)
    by_lstsq = np.linalg.lstsq(matrix, target.ravel(), rcond=None)[0].reshape(side, side)
    return picture, target, kernel, by_lstsq


@grid("exact", [False, True], 2, ids=["any", "dyadic"])
@pytest.mark.parametrize(
    "side, rows, cols",
    # the matrix that lstsq needs: 50 MB, 36 MB, 76 MB; the whole picture at 15 taps would be 450 MB and no harder
    [
        pytest.param(5, (0, 512), (0, 512), id="5"),
        pytest.param(9, (100, 300), (60, 360), id="9", marks=pytest.mark.slow),
        pytest.param(15, (100, 300), (60, 300), id="15", marks=pytest.mark.slow),
    ],
)
def test_no_less_accurate_than_lstsq(side, rows, cols, exact, method):
    """A photograph, free of noise: the kernel's error is at most that of numpy.linalg.lstsq on the im2col matrix."""
    camera, target, kernel, by_lstsq = photograph(side, rows, cols, exact)
    fit = find_kernel(camera, target, side, method=method)
    error, error_lstsq = (np.linalg.norm(k - kernel) / np.linalg.norm(kernel) for k in (fit.kernel, by_lstsq))
    assert error <= error_lstsq, f"{error:.2g}, lstsq {error_lstsq:.2g}"
    assert error_lstsq < 1e-12  # or the yardstick is broken
    assert fit.refined >= 1 and fit.verdict is Verdict.SOLVED


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_error_bars_cover_the_truth():
    """Over 500 draws each tap's 95% interval holds the truth 93 to 97% of the time, and stderr is the real scatter."""
    rng = np.random.default_rng(7)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(25, 34)), 0.7)
    kernel = rng.normal(size=(3, 4))
    clean = scipy.signal.convolve2d(image, kernel, mode="same", boundary="symm")
    noise_std = 0.5
    inside, errors, claimed, noise = [], [], [], []
    for draw in range(500):
        target = clean + np.random.default_rng([8, draw]).normal(0.0, noise_std, clean.shape)
        fit = find_kernel(image, target, (3, 4), boundary="symm", workers=1)
        inside.append(np.abs(fit.kernel - kernel) <= 1.959964 * fit.stderr)
        errors.append(fit.kernel - kernel)
        claimed.append(fit.stderr**2)
        noise.append(fit.noise_std**2)
    assert 0.93 <= np.mean(inside) <= 0.97
    assert np.all((np.mean(inside, axis=0) > 0.91) & (np.mean(inside, axis=0) < 0.99))
    np.testing.assert_allclose(np.mean(noise), noise_std**2, rtol=0.01)  # s^2 is unbiased
    np.testing.assert_allclose(np.std(errors, axis=0), np.sqrt(np.mean(claimed, axis=0)), rtol=0.12)
    assert np.all(np.abs(np.mean(errors, axis=0)) < 4 * np.sqrt(np.mean(claimed, axis=0) / 500))  # k is unbiased


def test_the_numbers_of_a_fit(few_scenes):
    """rss, noise_std, r_squared, covariance, stderr and condition by their formulas."""
    scene = few_scenes
    target = scene.target
    fit = find_kernel(scene.image, target, scene.shape, **scene.convention)
    matrix, used = scene.design
    n, m = matrix.shape
    y = target[used]
    solution, *_ = np.linalg.lstsq(matrix, y, rcond=None)
    residual = y - matrix @ solution
    rss = residual @ residual
    gram = matrix.T @ matrix
    condition = np.linalg.cond(gram)
    assert (fit.n_pixels, fit.rank) == (n, m)
    slack = m * (1 + 1e-9)  # whatever the norm it is taken in, or estimated in: all of them lie within a factor of m
    assert condition / slack <= fit.condition <= condition * slack
    assert fit.r_squared == pytest.approx(1 - rss / ((y - y.mean()) @ (y - y.mean())), abs=1e-9)
    if n > m:
        assert fit.rss == pytest.approx(rss, rel=1e-8)
        assert fit.noise_std == pytest.approx(np.sqrt(rss / (n - m)), rel=1e-8)
        covariance = rss / (n - m) * np.linalg.inv(gram)
        np.testing.assert_allclose(
            fit.covariance(), covariance, rtol=0, atol=1e-13 * condition * np.abs(covariance).max()
        )
        np.testing.assert_allclose(fit.stderr, np.sqrt(np.diag(fit.covariance())).reshape(scene.shape), rtol=1e-12)
    assert fit.stderr.shape == fit.kernel.shape and fit.covariance().shape == (m, m)


def test_as_many_pixels_as_taps_leave_no_error_bar(tight_scene):
    """With n == taps the fit is exact by construction: its residual says nothing of the noise, and it says so."""
    matrix, _ = tight_scene.design
    assert matrix.shape[0] == matrix.shape[1]
    fit = find_kernel(tight_scene.image, tight_scene.target, tight_scene.shape, **tight_scene.convention)
    assert fit.verdict is not Verdict.SOLVED and not fit.verdict.ok
    assert not np.any(fit.stderr == 0.0)


def test_statistics_alone_solve_as_well():
    """accumulate(...).solve() is find_kernel without the second look at the pixels."""
    image, target = smooth_image(90, 71, seed=9), smooth_image(90, 71, seed=10)
    fit = find_kernel(image, target, (4, 3), boundary="wrap")
    solved = kernelfit.accumulate(image, target, (4, 3), boundary="wrap").solve()
    assert_close(solved.kernel, fit.kernel, 1e-9)
    assert_close(solved.stderr, fit.stderr, 1e-9)
    assert solved.rss == pytest.approx(fit.rss, rel=1e-9)
    assert (solved.rank, solved.n_pixels, solved.convention) == (fit.rank, fit.n_pixels, fit.convention)
    assert solved.refined == 0


# ---- verdicts: doubtful problems are answered, and named ------------------------------------------------------------


def doubtful_images():
    rng = np.random.default_rng(11)
    tile = rng.normal(size=(3, 2))
    rows, cols = 24, 31
    # name, image, words of which at least one must be used, the kernel's shape
    yield "constant", np.full((rows, cols), 7.0), ("constant", "same value", "flat"), (4, 3)
    yield (
        "varies down only",
        np.repeat(rng.normal(size=(rows, 1)), cols, axis=1),
        ("direction", "along", "column", "horizontal"),
        (4, 3),
    )
    yield (
        "varies across only",
        np.repeat(rng.normal(size=(1, cols)), rows, axis=0),
        ("direction", "along", "row", "vertical"),
        (3, 5),
    )
    yield "periodic", np.tile(tile, (8, 16))[:rows, :cols], ("period", "repeat"), (5, 4)
    yield "periodic across", np.tile(rng.normal(size=(rows, 3)), (1, 11))[:, :cols], ("period", "repeat"), (2, 5)


@grid("boundary_name", [None, "nearest"], 2)
@pytest.mark.parametrize(
    "name, image, words, shape", list(doubtful_images()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_deficient_image(name, image, words, shape, boundary_name, method):
    kernel = np.random.default_rng(12).normal(0.3, 1.0, shape)
    target = apply_kernel(image, kernel, boundary="nearest")
    convention = {"mode": "same", "boundary": boundary_name}
    matrix, used = naive.design_dense(image, shape, **convention)
    rank = np.linalg.matrix_rank(matrix)
    fit = find_kernel(image, target, shape, boundary=boundary_name, method=method)
    if rank == kernel.size:  # the edge can supply what the interior lacks
        assert name.startswith("periodic") and boundary_name == "nearest"
        assert_close(fit.kernel, kernel, 1e-9)
        return
    assert fit.rank == rank
    assert fit.condition == np.inf
    assert Verdict.RANK_DEFICIENT in [finding.verdict for finding in fit.findings]
    assert not fit.verdict.ok
    told = " ".join([fit.verdict.value, *(finding.detail for finding in fit.findings), fit.summary()]).lower()
    assert any(word in told for word in words), told
    assert str(rank) in told and str(kernel.size) in told
    minimum = np.linalg.pinv(matrix, rcond=1e-10) @ target[used]
    assert_close(fit.kernel.ravel(), minimum, 1e-9, "the kernel of least norm")
    assert_close(fit.predict(image)[used], target[used], 1e-10, "prediction")
    assert np.isfinite(fit.kernel).all() and np.isfinite(fit.stderr).all() and np.isfinite(fit.covariance()).all()


@pytest.mark.parametrize(
    "name, image, words, shape", list(doubtful_images()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_deficient_image_with_noise(name, image, words, shape):
    """s^2 counts the rank, not the taps; the covariance is s^2 times the pseudo-inverse."""
    rng = np.random.default_rng(13)
    target = apply_kernel(image, rng.normal(0.3, 1.0, shape), boundary="nearest") + rng.normal(0, 0.01, image.shape)
    fit = find_kernel(image, target, shape)
    matrix, used = naive.design_dense(image, shape, mode="same", boundary=None)
    inverse = np.linalg.pinv(matrix, rcond=1e-10)
    minimum = inverse @ target[used]
    rank = np.linalg.matrix_rank(matrix)
    rss = ((target[used] - matrix @ minimum) ** 2).sum()
    assert fit.rank == rank and not fit.verdict.ok
    assert fit.rss == pytest.approx(rss, rel=1e-6)
    assert fit.noise_std == pytest.approx(np.sqrt(rss / (matrix.shape[0] - rank)), rel=1e-6)
    covariance = fit.noise_std**2 * inverse @ inverse.T
    np.testing.assert_allclose(fit.covariance(), covariance, rtol=0, atol=1e-6 * np.abs(covariance).max())
    np.testing.assert_allclose(fit.kernel.ravel(), minimum, rtol=0, atol=1e-8 * np.abs(minimum).max())


def test_a_blank_image():
    target = np.random.default_rng(14).normal(size=(20, 31))
    fit = find_kernel(np.zeros((20, 31)), target, (3, 4))
    assert not fit.kernel.any() and fit.rank == 0 and not fit.verdict.ok
    assert Verdict.RANK_DEFICIENT in [finding.verdict for finding in fit.findings]


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_target_without_signal(value):
    image = np.random.default_rng(15).normal(size=(20, 31))
    fit = find_kernel(image, np.full((20, 31), value), (3, 4))
    assert not fit.verdict.ok
    assert Verdict.NO_SIGNAL in [finding.verdict for finding in fit.findings]
    if value == 0.0:
        assert not fit.kernel.any() and fit.rss == 0.0
    fit.summary()


def test_noise_that_dominates():
    rng = np.random.default_rng(16)
    image, noise = rng.normal(size=(2, 30, 41))
    fit = find_kernel(image, noise, (5, 4))
    assert Verdict.NOISE_DOMINATES in [finding.verdict for finding in fit.findings] and not fit.verdict.ok
    signal = find_kernel(image, apply_kernel(image, rng.normal(size=(5, 4))) + 0.01 * noise, (5, 4))
    assert signal.verdict is Verdict.SOLVED and signal.findings == ()


@pytest.mark.parametrize("blur, named", [(3.0, Verdict.ILL_CONDITIONED), (4.0, Verdict.RANK_DEFICIENT)])
def test_an_image_without_fine_detail_is_named(blur, named):
    """Determined on paper, hardly or not at all in numbers; the target is reproduced all the same."""
    rng = np.random.default_rng(17)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(60, 75)), blur)
    target = apply_kernel(image, rng.normal(size=(5, 6)))
    fit = find_kernel(image, target, (5, 6))
    assert fit.verdict is named and not fit.verdict.ok
    assert fit.condition > 1e12 and (fit.rank < 30) == (named is Verdict.RANK_DEFICIENT)
    _, used = naive.design_dense(image, (5, 6), mode="same", boundary=None)
    assert_close(fit.predict(image)[used], target[used], 1e-6)


def test_verdicts_say_what_to_do():
    assert Verdict.SOLVED.ok
    for verdict in Verdict:
        assert isinstance(verdict.value, str) and verdict.value
        assert verdict.ok == (verdict is Verdict.SOLVED)
    assert len({verdict.value for verdict in Verdict}) == len(Verdict)


@pytest.mark.parametrize(
    "settings",
    [{"balance": 0.1}, {"detrend": None}, {"taper": 0.2, "method": "fft"}, {"tolerance": 0.1, "method": "direct"}],
    ids=str,
)
def test_settings_of_another_method_are_refused(settings):
    image = np.random.default_rng(3).normal(size=(20, 31))
    with pytest.raises(ValueError, match="need (solver|method)=|only an iteration has one"):
        find_kernel(image, image, (3, 4), **settings)


def test_a_refused_pair_leaves_nothing_behind():
    image, target = np.random.default_rng(4).normal(size=(2, 300, 210))
    before = find_kernel(image, target, (5, 12), method="fft").kernel
    bad = image.copy()
    bad[17, 20] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        find_kernel(bad, target, (5, 12), method="fft")
    assert (find_kernel(image, target, (5, 12), method="fft").kernel == before).all()
