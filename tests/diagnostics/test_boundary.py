"""Which boundary a target was made with, told from its edges."""

import numpy as np
import pytest
import scipy.stats

import naive
from helpers import grid, smooth_image
from kernelfit import GaussianProcess, NonNegative, Penalized, Verdict, apply_kernel, check_boundary, find_kernel
from kernelfit.diagnostics.boundary import BOUNDARIES

MARGIN = 12


def scene(truth, seed, shape, size=(70, 91), noise=0.01, **settings):
    """An image and its target; "unknown" is a crop of a larger scene."""
    rng = np.random.default_rng([seed, *shape])
    wide = smooth_image(size[0] + 2 * MARGIN, size[1] + 2 * MARGIN, seed)
    image = wide[MARGIN:-MARGIN, MARGIN:-MARGIN]
    kernel = rng.random(shape)
    kernel /= kernel.sum()
    if truth == "unknown":
        target = apply_kernel(wide, kernel, **settings)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    else:
        target = apply_kernel(image, kernel, boundary=truth, **settings)
    return image, target + noise * target.std() * rng.normal(size=target.shape)


@grid("declared", [None, *BOUNDARIES], 3)
@pytest.mark.parametrize("truth", [*BOUNDARIES, "unknown"])
@pytest.mark.parametrize("shape", [(4, 7), (9, 2)], ids=str)
def test_the_true_boundary_is_named(truth, declared, shape):
    """Whatever was declared, by check_boundary; and find_kernel doubts what is not true."""
    image, target = scene(truth, 1, shape)
    fit = find_kernel(image, target, shape, boundary=declared)
    found = check_boundary(image, target, fit)
    if truth == "unknown":
        assert found.best is None and found.equal == found.possible == ()
        assert not any(row.fits for row in found.rows) and "unknown" in str(found)
    else:
        assert found.best == truth and truth in found.equal and found.best in str(found)
        assert found.rows[0].boundary == truth and found.rows[0].fits
        assert found.rows[0].ratio == pytest.approx(1.0, abs=0.1)
        assert found.interior == pytest.approx(0.01 * target.std(), rel=0.1)
    assert found.declared == declared
    assert {row.boundary for row in found.rows} == set(BOUNDARIES)
    doubted = [f for f in fit.findings if f.verdict is Verdict.WRONG_BOUNDARY]
    allowed = declared is None or declared in found.equal
    assert bool(doubted) == (not allowed)
    if doubted:
        assert repr(declared) in doubted[0].detail and not fit.verdict.ok


def test_the_figures_are_those_of_the_residual():
    """rms near the edges under each boundary, with the kernel of the interior, by the oracle."""
    shape = (3, 6)
    image, target = scene("mirror", 2, shape, size=(30, 41), operation="correlation", origin=(0, 4))
    settings = {"operation": "correlation", "origin": (0, 4)}
    fit = find_kernel(image, target, shape, **settings)
    found = check_boundary(image, target, fit)
    _, used = naive.design_dense(image, shape, mode="same", boundary=None, **settings)
    inside = fit.residual(image, target)[used]
    assert found.interior == pytest.approx(np.sqrt(inside @ inside / (used.sum() - 18)), rel=1e-9)
    assert found.n_pixels == (~used).sum()
    for row in found.rows:
        if row.boundary == "fill":
            continue
        model = naive.apply(image, fit.kernel, mode="same", boundary=row.boundary, **settings)
        rms = np.sqrt(np.mean((target - model)[~used] ** 2))
        assert row.rms == pytest.approx(rms, rel=1e-9)
        assert row.ratio == pytest.approx(rms / found.interior, rel=1e-9)


@pytest.mark.parametrize("mode", ["same", "full"])
def test_the_fill_value_is_found(mode):
    image, target = scene("fill", 3, (4, 5), fillvalue=-7.0, mode=mode)
    found = check_boundary(image, target, find_kernel(image, target, (4, 5), mode=mode))
    assert found.best == "fill" and found.rows[0].fillvalue == pytest.approx(-7.0, abs=1.0)
    fit = find_kernel(image, target, (4, 5), boundary="fill", fillvalue=-7.0, mode=mode)
    assert check_boundary(image, target, fit).rows[0].fillvalue == -7.0
    assert fit.verdict is Verdict.SOLVED


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_boundaries_that_are_the_same_are_said_to_be(noise):
    """Three taps reach one pixel beyond the edge, where "symm" and "nearest" are one; one tap reaches none."""
    for truth in ("symm", "nearest"):
        image, target = scene(truth, 4, (3, 3), noise=noise)
        found = check_boundary(image, target, find_kernel(image, target, 3))
        assert set(found.equal) == {"symm", "nearest"} == set(found.possible)
        assert found.rows[1].distance == pytest.approx(0.0, abs=1e-3)
        wrong = find_kernel(image, target, 3, boundary="nearest" if truth == "symm" else "symm")
        assert wrong.verdict is Verdict.SOLVED
    image, target = scene("wrap", 5, (1, 1), noise=noise)
    found = check_boundary(image, target, find_kernel(image, target, 1))
    assert found.n_pixels == 0 and set(found.equal) == set(BOUNDARIES)


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
def test_channels_and_backgrounds(channels):
    rng = np.random.default_rng(6)
    image = np.stack([smooth_image(60, 71, seed) for seed in (7, 8)], axis=-1)
    kernel = rng.random({"shared": (3, 4), "separate": (2, 3, 4), "mixed": (2, 2, 3, 4)}[channels])
    y, x = np.mgrid[:60, :71]
    target = apply_kernel(image, kernel, boundary="mirror", channel_axis=-1) + (5 * y - 3 * x)[..., None]
    target += rng.normal(size=target.shape)
    settings = {"channel_axis": -1, "channels": channels, "background": 1}
    for declared in (None, "mirror", "wrap"):
        fit = find_kernel(image, target, (3, 4), boundary=declared, **settings)
        assert check_boundary(image, target, fit).best == "mirror"
        doubted = any(f.verdict is Verdict.WRONG_BOUNDARY for f in fit.findings)
        assert doubted == (declared == "wrap")


def test_a_doubt_is_not_raised_without_reason():
    """A target that is all noise, or a kernel that is too small: the fit is bad, but the boundary is not to blame."""
    rng = np.random.default_rng(9)
    image = smooth_image(60, 71, 10)
    for target in (rng.normal(size=image.shape), apply_kernel(image, rng.random((5, 5)), boundary="symm")):
        fit = find_kernel(image, target, (3, 4), boundary="symm")
        assert Verdict.WRONG_BOUNDARY not in [f.verdict for f in fit.findings]


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("solver", [Penalized(), GaussianProcess(), NonNegative()], ids=str)
def test_the_bias_of_a_solver_is_no_boundary(solver, noise):
    image, target = scene("fill", 13, (6, 5), noise=noise)
    fit = find_kernel(image, target, (6, 5), boundary="fill", solver=solver)
    assert Verdict.WRONG_BOUNDARY not in [f.verdict for f in fit.findings]


def test_conjugate_gradients_are_doubted_too():
    image, target = scene("symm", 11, (9, 8))
    fits = [find_kernel(image, target, (9, 8), boundary=b, method="cg") for b in ("symm", "wrap")]
    doubted = [Verdict.WRONG_BOUNDARY in [f.verdict for f in fit.findings] for fit in fits]
    assert doubted == [False, True]


def test_refused():
    image, target = scene("fill", 12, (3, 4))
    with pytest.raises(ValueError, match="mode 'valid', in which no target pixel depends"):
        check_boundary(image, target[1:-1, 1:-2], find_kernel(image, target[1:-1, 1:-2], (3, 4)))
    fit = find_kernel(image, target, (3, 4), boundary="fill")
    with pytest.raises(ValueError, match="shape|fits"):
        check_boundary(image, target[1:], fit)
    with pytest.raises(ValueError, match="interior pixels"):
        check_boundary(image[:5, :6], target[:5, :6], fit)


@pytest.mark.parametrize("truth", ["mirror", "wrap"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pixels_that_do_not_count_say_nothing_of_the_boundary(truth, weighted):
    shape = (4, 7)
    image, target = scene(truth, 3, shape)
    rng = np.random.default_rng(0)
    mask = rng.random(target.shape) < 0.05
    mask[:3, 5:20] = True
    weights = np.where(mask, 0.0, rng.gamma(9.0, 1 / 9, target.shape) if weighted else 1.0)
    target[mask] = np.nan
    keywords = {"weights": weights} if weighted else {"mask": mask}
    for declared in (None, truth, "symm"):
        fit = find_kernel(image, target, shape, boundary=declared, **keywords)
        assert (fit.verdict is Verdict.WRONG_BOUNDARY) == (declared == "symm")
        found = check_boundary(image, target, fit, **keywords)
        assert found.best == truth and found.n_pixels < target.size - np.count_nonzero(mask)
        if not weighted or declared is not None:  # the fit's own weights tell, NaN those of the others
            again = check_boundary(image, target, fit)
            assert again.best == truth and again.n_pixels == found.n_pixels
    spoilt = np.where(mask, 10 * np.nanstd(target), target)
    assert check_boundary(image, spoilt, find_kernel(image, target, shape, **keywords)).best != truth
    np.testing.assert_equal(check_boundary(image, spoilt, fit, **keywords).rows, found.rows)


def test_the_weighted_figures_are_those_of_the_residual():
    """rms near the edges of pixels of weight 1, with the weighted kernel of the interior, by the oracle."""
    shape = (3, 6)
    image, target = scene("mirror", 2, shape, size=(30, 41), operation="correlation", origin=(0, 4))
    settings = {"operation": "correlation", "origin": (0, 4)}
    weights = np.random.default_rng(0).gamma(3.0, 0.3, target.shape)
    weights[10:14, 8:30] = weights[0, :9] = 0.0
    for declared in (None, "mirror"):
        fit = find_kernel(image, target, shape, weights=weights, boundary=declared, **settings)
        found = check_boundary(image, target, fit, weights=weights)
        kernel, _, rss = naive.weighted_fit(image, target, shape, weights, mode="same", boundary=None, **settings)
        _, inside = naive.design_dense(image, shape, mode="same", boundary=None, **settings)
        n = np.count_nonzero(weights[inside])
        assert found.interior == pytest.approx(np.sqrt(rss / (n - kernel.size)), rel=1e-9)
        edges = ~inside & (weights > 0)
        assert found.n_pixels == np.count_nonzero(edges)
        for row in found.rows:
            matrix, used = naive.design_dense(
                image, shape, mode="same", boundary=row.boundary, fillvalue=np.nan_to_num(row.fillvalue), **settings
            )
            left = (target - naive.apply_design(matrix, used, kernel))[edges]
            assert row.rms == pytest.approx(np.sqrt(np.mean(left**2 * weights[edges])), rel=1e-8)


def test_several_planes_with_masks():
    parts = [scene("wrap", seed, (4, 7)) for seed in (1, 2)]
    image, target = (np.stack(a, axis=-1) for a in zip(*parts, strict=True))
    mask = np.random.default_rng(0).random(target.shape) < 0.1
    target[mask] = np.nan
    for channels in ("shared", "separate", "mixed"):
        fit = find_kernel(image, target, (4, 7), channel_axis=-1, channels=channels, mask=mask)
        found = check_boundary(image, target, fit)
        assert found.n_pixels < 0.95 * (target.size - 67 * 85 * 2)
        if channels != "shared":  # two kernels for one another's channels
            assert found.best == "wrap"
    pairs = [np.moveaxis(a, -1, 0) for a in (image, target, mask)]
    fit = find_kernel([*pairs[0][:1]] * 2, [*pairs[1][:1]] * 2, (4, 7), mask=[*pairs[2][:1]] * 2, background=1)
    assert check_boundary([*pairs[0][:1]] * 2, [*pairs[1][:1]] * 2, fit).best == "wrap"


@pytest.mark.slow
def test_a_boundary_fits_as_far_as_the_error_of_the_kernel_allows():
    """Fisher's F of the two mean squares, that of the edges with the error of a kernel of 20 taps from 64 pixels."""
    rng, between = np.random.default_rng(5), 0
    for size in np.linspace(1.4, 2.4, 20):
        image, kernel = rng.normal(size=(11, 12)), rng.normal(size=(4, 5))
        target = apply_kernel(image, kernel, boundary="symm")
        fit = find_kernel(image, target, kernel.shape)
        noise = 0.3 * rng.normal(size=target.shape)
        noise[np.isnan(fit.predict(image))] *= size
        found = check_boundary(image, target + noise, find_kernel(image, target + noise, kernel.shape))
        limit = scipy.stats.f.isf(1e-3, found.n_pixels, 64 - 20)
        for row in found.rows:
            assert row.fits == (row.ratio**2 <= limit * 64 / 44)
            between += limit < row.ratio**2 <= limit * 64 / 44
    assert between
