"""Results of several channels and pairs, taken apart, drawn and reported."""

import dataclasses

import numpy as np
import pytest

import kernelfit
from helpers import grid
from kernelfit import find_kernel, split_channels
from kernelfit.analysis import residuals
from kernelfit.plotting import overview, panels
from kernelfit.plotting.report import report_html

matplotlib = pytest.importorskip("matplotlib")
Figure = pytest.importorskip("matplotlib.figure").Figure

matplotlib.use("Agg")
NAMES = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(scope="module")
def scene():
    """Colours whose channels mix: target channel c is a sum over the channels s of the image."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (31, 40, 3))
    kernels = rng.normal(size=(3, 3, 2, 3)) * np.array([[1, 0.2, 0], [0.1, 1, 0.3], [0.2, 0, 1]])[..., None, None]
    return image, kernels, rng


def made(image, kernels, rng, mixed):
    words = {"boundary": "symm"}
    planes = [
        sum(kernelfit.apply_kernel(image[..., s], kernels[c, s], **words) for s in (range(3) if mixed else [c]))
        for c in range(3)
    ]
    return np.stack(planes, axis=-1) + rng.normal(0, 1, image.shape)


@pytest.fixture(scope="module", params=["shared", "separate", "mixed"])
def colours(request, scene):
    image, kernels, rng = scene
    if request.param == "shared":
        kernels = np.broadcast_to(kernels[0, 0], (3, 3, 2, 3))
    target = made(image, kernels, rng, request.param == "mixed") + np.linspace(0, 30, 40)[:, None]
    fit = find_kernel(image, target, (2, 3), channels=request.param, channel_axis=-1, background=1)
    return fit, image, target


def test_every_kernel_comes_with_its_own_errors(colours):
    fit, _, _ = colours
    found = split_channels(fit, NAMES)
    kernels, errors = fit.kernel.reshape(-1, 2, 3), fit.stderr.reshape(-1, 2, 3)
    for one, kernel, error in zip(found.values(), kernels, errors, strict=True):
        np.testing.assert_array_equal(one.kernel, kernel)
        np.testing.assert_allclose(one.stderr, error, rtol=1e-12)
        assert one.parts == () and one.channel_axis is None and one.rank == 6
        assert np.isfinite(one.psf().sum.stderr) and one.sample(3, 0).shape == (3, 2, 3)
    names = {"shared": [""], "separate": list(NAMES), "mixed": [f"{c} from {s}" for c in NAMES for s in NAMES]}
    assert list(found) == names[fit.channels]
    assert list(split_channels(fit))[-1] in ("", "channel 2", "channel 2 from channel 2")


def test_covariance_of_a_mixed_kernel_is_its_block(scene):
    image, kernels, rng = scene
    fit = find_kernel(image, made(image, kernels, rng, True), (2, 3), channels="mixed", channel_axis=-1)
    one = split_channels(fit)["channel 1 from channel 2"]
    np.testing.assert_allclose(one.covariance(), fit.parts[1].covariance()[12:, 12:], rtol=1e-12)


def test_windows_are_the_residual_of_each_target(colours):
    fit, image, target = colours
    whole = fit.residual(image, target)[0:30, 1:39]
    parts = residuals.windows(fit, image, target)
    flat = [one for part in parts for one in part]
    assert len(parts) == (1 if fit.channels == "shared" else 3) and len(flat) == 3
    for channel, one in enumerate(flat):
        inside = whole[..., channel]
        inside = inside[np.isfinite(inside).any(axis=1)][:, np.isfinite(inside).any(axis=0)]
        np.testing.assert_allclose(one[: inside.shape[0], : inside.shape[1]], inside, atol=1e-9)
    tiled = residuals.window(fit, image, target)
    assert np.isfinite(tiled).sum() == sum(one.size for one in flat)
    np.testing.assert_allclose(np.nansum(tiled**2), sum((one**2).sum() for one in flat))


def test_windows_of_pairs_with_masks_and_backgrounds(scene):
    image, kernels, rng = scene
    images = [image[..., 0], image[:25, ::-1, 1]]
    targets = [kernelfit.apply_kernel(i, kernels[0, 0]) + rng.normal(0, 1, i.shape) for i in images]
    masks = [rng.random(i.shape) < 0.1 for i in images]
    fit = find_kernel(images, targets, (2, 3), mask=masks)
    for pair, one in enumerate(residuals.windows(fit, images, targets)[0]):
        left = np.where(masks[pair], np.nan, fit.residual(images[pair], targets[pair]))
        left = left[np.isfinite(left).any(axis=1)][:, np.isfinite(left).any(axis=0)]
        np.testing.assert_allclose(one, left, atol=1e-9)
    shifted = [t + 10 * (i + 1) for i, t in enumerate(targets)]
    fit = find_kernel(images, shifted, (2, 3), background=0)
    means = [abs(one.mean()) for one in residuals.windows(fit, images, shifted)[0]]
    assert max(means) < 0.2
    with pytest.raises(ValueError, match="the lists of images and targets"):
        residuals.window(fit, images[0], shifted[0])
    with pytest.raises(ValueError, match="different number"):
        residuals.window(fit, images, shifted[0])


def test_correlation_does_not_reach_from_one_window_to_the_next():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(60, 70))
    twice = residuals.tiled([noise, noise])
    table, alone = residuals.autocorrelation(twice), residuals.autocorrelation(noise)
    np.testing.assert_allclose(table, alone, atol=1e-12)


def test_wrong_planes_are_refused(colours):
    fit, image, target = colours
    with pytest.raises(ValueError, match="2 channels|target of 2"):
        residuals.window(fit, image, target[..., :2])
    with pytest.raises(ValueError, match="3 dimensions|need 3"):
        residuals.window(fit, image[..., 0], target[..., 0])
    with pytest.raises(TypeError, match="KernelFit"):
        split_channels(fit.kernel)
    if fit.parts:
        with pytest.raises(ValueError, match="2 names"):
            split_channels(fit, ["a", "b"])


@grid("colours", ["shared", "separate", "mixed"], 3, indirect=True)
def test_one_figure_for_all_channels(colours):
    fit, image, target = colours
    figure = fit.plot(image, target, figure=Figure(layout="constrained"))
    titles = [ax.get_title() for each in (figure.subfigs or [figure]) for ax in each.axes]
    n_kernels, n_parts = fit.kernel.size // 6, max(1, len(fit.parts))
    assert sum(title.startswith("cuts") for title in titles) == n_kernels
    assert sum("residual," in title for title in titles) == n_parts
    above = [each.get_suptitle() for each in figure.subfigs] or [figure.get_suptitle()]
    assert len(above) == n_parts and all("solved" in text for text in above)
    assert n_parts == 1 or above[1].startswith("channel 1: ")


@pytest.mark.slow
@grid("colours", ["shared", "separate", "mixed"], 3, indirect=True)
def test_report_shows_each_channel(colours):
    fit, image, target = colours
    few = dataclasses.replace(fit, parts=fit.parts[:])
    page = report_html(few, image, target, names=NAMES)
    n_kernels, n_parts = fit.kernel.size // 6, max(1, len(fit.parts))
    assert page.count('alt="Kernel"') == page.count('alt="Errors"') == n_kernels
    assert page.count('alt="Residual"') == n_parts
    if fit.parts:
        for name, part in zip(NAMES, fit.parts, strict=True):
            assert f"The fit: {name}" in page and f"{part.noise_std:.4g}" in page
    for kernel in fit.kernel.reshape(-1, 6):
        assert all(f"{tap:.5g}" in page for tap in kernel)


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, 300))
    kernel = np.exp(-np.arange(9) / 3.0)[None]
    target = kernelfit.apply_kernel(image, kernel) + rng.normal(0, 0.05, image.shape)
    return image, target


@pytest.mark.slow
def test_kernels_along_one_axis(line):
    image, target = line
    fit = find_kernel(image, target, (1, 9))
    page = report_html(fit, image, target)
    assert "Row" in page
    assert [one.get_label() for one in panels.frequency_response(fit).lines] == ["horizontal"]
    assert [one.get_label() for one in panels.cuts(fit).lines][1:] == ["row 0"]
    assert overview.residual(fit, image, target).get_ylabel() == "standard deviations"
    psf = fit.psf()
    assert np.isfinite(psf.sum.stderr)
    fit = find_kernel(image.T, target.T, (9, 1))
    assert [one.get_label() for one in panels.frequency_response(fit).lines] == ["vertical"]


@pytest.mark.slow
def test_division_by_frequency_shows_its_spectrum(scene):
    image, kernels, rng = scene
    target = kernelfit.apply_kernel(image[..., 0], kernels[0, 0], boundary="wrap") + rng.normal(0, 5, (31, 40))
    fit = find_kernel(image[..., 0], target, (2, 3), method="wiener", boundary="wrap")
    ax = panels.spectrum(fit)
    coherence, passed = (one.get_ydata() for one in ax.lines[:2])
    np.testing.assert_array_equal(coherence, fit.spectrum.coherence)
    np.testing.assert_array_equal(passed, fit.spectrum.passed)
    assert f"{fit.spectrum.determined:.0%} determined" in ax.get_title()
    assert 'alt="Spectrum"' in report_html(fit, image[..., 0], target)
    with pytest.raises(ValueError, match="method='wiener'"):
        panels.spectrum(find_kernel(image[..., 0], target, (2, 3)))


@pytest.mark.slow
def test_iterative_fits_without_a_covariance(scene):
    image, kernels, rng = scene
    target = kernelfit.apply_kernel(image[..., 0], kernels[0, 0]) + rng.normal(0, 5, (31, 40))
    fit = find_kernel(image[..., 0], target, (2, 3), method="cg")
    assert fit.factor is None
    assert "about" in panels.error(fit).get_title() and "not known" in panels.frequency_response(fit).get_title()
    page = report_html(fit, image[..., 0], target)
    assert "of a typical tap" in page and "conjugate gradients" in page
    blind = dataclasses.replace(fit, typical_stderr=np.nan)
    assert not panels.error(blind).images and "errors not known" in panels.cuts(blind).get_title()


def test_errors_of_what_the_image_leaves_open_are_not_called_small():
    flat = np.full((20, 24), 3.0)
    fit = find_kernel(flat, flat, (3, 2))
    assert panels.error(fit).get_title() == "error of what is known"
    assert "of what is known" in panels.cuts(fit).get_title()


def test_fitted_taps_leave_room_for_chance(scene):
    image, kernels, rng = scene
    target = kernelfit.apply_kernel(image[..., 0], kernels[0, 0]) + rng.normal(0, 5, (31, 40))
    fit = find_kernel(image[..., 0], target, (9, 11))
    left = residuals.window(fit, image[..., 0], target)
    assert residuals.chance(left, fit) == pytest.approx(4 / np.sqrt(left.size) + 99 / fit.n_pixels)
