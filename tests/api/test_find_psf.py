"""A camera simulated in front of a printed target: its kernel comes out, with the registration and the light."""

import json

import numpy as np
import pytest
import scipy.signal

import kernelfit
from helpers import assert_close
from kernelfit.analysis.target_warp import Warp, homography, rendered

S = 4


def blur(step, half=2.5, widths=(0.42, 0.55)):
    """Return a slanting blur on a grid of so many points to a pixel, of sum 1."""
    at = np.arange(-round(half * step), round(half * step) + 1) / step
    y, x = at[:, None], at[None, :]
    taps = np.exp(-0.5 * ((y / widths[0]) ** 2 + ((x - 0.3 * y) / widths[1]) ** 2))
    return taps / taps.sum()


def corners_of(size, centre, tilt=3.0, roll=1.5):
    """Return where the corners of a square lie that is tilted towards a camera six sides away."""
    a, r = np.deg2rad([tilt, roll])
    y, x = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]).T * size
    near = 6 / (6 + np.sin(a) * (x + 0.7 * y) / size)
    y, x = y * near, x * np.cos(a) * near
    return np.stack([y * np.cos(r) - x * np.sin(r) + centre[0], y * np.sin(r) + x * np.cos(r) + centre[1]], axis=1)


def camera(pattern, corners, shape, noise=0.01, vignetting=0.35, bend=0.0, seed=0, fine=12):
    """Return a capture: the pattern on a grid finer than the kernel's, blurred, a pixel in `fine` kept."""
    half = 3
    rows, cols = (np.arange(-half * fine, (n - 1 + half) * fine + 1) / fine for n in shape)
    y, x = np.meshgrid(rows, cols, indexing="ij")
    middle = np.array(shape) / 2
    far = ((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (middle**2).sum()
    to = homography(corners, np.array([[0, 0], [0, pattern.shape[1]], pattern.shape, [pattern.shape[0], 0]]) - 0.5)
    seen = np.stack([y + bend * far * (y - middle[0]), x + bend * far * (x - middle[1]), np.ones_like(y)])
    a, b, c = np.tensordot(to, seen, 1)
    i, j = np.rint(a / c).astype(int), np.rint(b / c).astype(int)
    inside = (i >= 0) & (i < pattern.shape[0]) & (j >= 0) & (j < pattern.shape[1])
    printed = np.where(inside, pattern[i.clip(0, pattern.shape[0] - 1), j.clip(0, pattern.shape[1] - 1)], 1.0)
    made = scipy.signal.fftconvolve(printed, blur(fine), mode="same")[half * fine :: fine, half * fine :: fine]
    made = made[: shape[0], : shape[1]]
    y, x = np.mgrid[: shape[0], : shape[1]]
    light = 1 - vignetting * ((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (middle**2).sum()
    return light * (0.1 + 0.8 * made) + np.random.default_rng(seed).normal(0, noise, shape)


def error_of(found):
    """Return the relative error of the kernel."""
    truth = np.zeros(found.kernel.shape)
    true = blur(S)
    at = (len(truth) - len(true)) // 2
    true, truth = (true[-at:at, -at:at], truth) if at < 0 else (true, truth)
    at = max(at, 0)
    truth[at : at + len(true), at : at + len(true)] = true
    return np.linalg.norm(found.kernel - truth) / np.linalg.norm(truth)


@pytest.fixture(scope="module")
def small():
    pattern = np.random.default_rng(0).integers(0, 2, (110, 120))
    corners = corners_of(46, (34, 38))
    return pattern, corners, camera(pattern, corners, (66, 75), fine=24)


@pytest.mark.slow
def test_kernel_registration_and_light(small):
    pattern, corners, capture = small
    before = pattern.copy(), capture.copy()
    near = corners + np.random.default_rng(1).normal(0, 1, (4, 2))
    found = kernelfit.find_psf(capture, pattern, corners=near, shape=17)
    assert found.fit.convention.stride == (S, S) and found.kernel.shape == found.stderr.shape == (17, 17)
    assert error_of(found) < 0.03 and abs(found.kernel.sum() - 1) < 1e-12  # few pixels
    assert np.abs(found.registration.corners - corners).max() < 0.1
    assert np.all(np.abs(found.registration.corners - corners) < 5 * found.registration.corners_stderr)
    top, bottom, left, right = found.registration.window
    assert found.registration.gain.shape == (bottom - top, right - left) == found.target.shape
    y, x = np.mgrid[top:bottom, left:right]
    light = 1 - 0.35 * ((y - 33) ** 2 + (x - 37.5) ** 2) / (33**2 + 37.5**2)
    middle = found.registration.gain[10:-10, 10:-10] / (0.8 * light[10:-10, 10:-10])
    assert np.abs(middle - 1).max() < 0.05
    assert_close(found.registration.residual, 0.01, 0.1)
    made = found.fit.predict(found.seen)
    assert np.nanstd(made - found.target) < 0.03
    mtf = found.mtf
    assert mtf.frequency[-1] == S / 2 and mtf.rows[0] == mtf.cols[0] == pytest.approx(1)
    wave = np.exp(-2j * np.pi * np.outer(mtf.frequency, np.arange(21) - 10) / S)
    for axis, values, errors in ((1, mtf.rows, mtf.rows_stderr), (0, mtf.cols, mtf.cols_stderr)):
        truth = np.abs(wave @ blur(S).sum(axis=axis))
        beyond = mtf.frequency > 0.2
        assert np.all(np.abs(values - truth)[beyond] < 6 * errors[beyond] + 0.01)
    assert "FWHM" in str(found) and "corners at" in str(found)
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert fields["oversample"] == S and len(fields["mtf"]["rows"]) == len(mtf.frequency)
    for array, old in zip((pattern, capture), before, strict=True):
        assert np.array_equal(array, old)


@pytest.mark.slow
def test_what_the_capture_looks_on():
    """A wave over many cells is a wave where the warp says, and stays one between pixels."""
    rows, cols = np.mgrid[:130, :118]

    def wave(a, b):
        return np.sin(2 * np.pi * a / 40) * np.cos(2 * np.pi * b / 50 + 0.4)

    warp = Warp.of(corners_of(26, (16.3, 17.1), tilt=8, roll=5), (130, 118), 2)
    warp = warp.with_parameters(np.concatenate([warp.parameters[:8], [0.2, -0.1, 0.1, 0.05, -0.2, 0.1]]))
    for pattern, step in ((wave(rows, cols), 4), (wave(rows, cols), 3)):
        seen = rendered(pattern, warp, (1, 32, 2, 34), step)
        assert seen.shape == (30 * step + 1, 31 * step + 1)
        at = warp(1 + np.arange(len(seen))[:, None] / step, 2 + np.arange(seen.shape[1])[None] / step)
        inside = (at[0] > -0.4) & (at[0] < 129.4) & (at[1] > -0.4) & (at[1] < 117.4)
        beyond = (at[0] < -0.6) | (at[0] > 129.6) | (at[1] < -0.6) | (at[1] > 117.6)
        assert not np.isnan(seen[inside]).any() and np.isnan(seen[beyond]).all() and beyond.any()
        middle = (at[0] > 20) & (at[0] < 110) & (at[1] > 20) & (at[1] < 98)
        assert np.abs(seen - wave(*at))[middle].max() < 0.02


def test_homography_and_displacement():
    start = np.array([[1.0, 2], [3, 40], [50, 45], [48, 3], [20, 20]])
    matrix = np.array([[1.1, 0.02, 3], [-0.03, 0.9, 1], [1e-4, -2e-4, 1]])
    moved = np.hstack([start, np.ones((5, 1))]) @ matrix.T
    assert_close(homography(start, moved[:, :2] / moved[:, 2:]), matrix, 1e-9)
    warp = Warp.of(start[:4], (30, 20), 3)
    rng = np.random.default_rng(0)
    warp = warp.with_parameters(warp.parameters + rng.normal(0, 0.1, len(warp.parameters)))
    rows, cols = rng.random((2, 6)) * 40
    here = np.array(warp(rows, cols))
    for index, (down, across) in enumerate(warp.displacements(rows, cols)):
        values = warp.parameters
        values[index] += 1e-3
        there = np.array(warp.with_parameters(values)(rows, cols))
        again = np.array(warp(rows + 1e-3 * down, cols + 1e-3 * across))
        assert np.abs(there - again).max() < 1e-2 * max(np.abs(there - here).max(), 1e-6)


@pytest.mark.slow
def test_other_grids(small):
    pattern, corners, capture = small
    found = kernelfit.find_psf(capture, pattern, 3, corners=corners, solver=kernelfit.NonNegative())
    assert found.kernel.shape == (15, 15) and found.fit.convention.stride == (3, 3)
    truth = blur(3)[1:-1, 1:-1]
    assert np.linalg.norm(found.kernel - truth) / np.linalg.norm(truth) < 0.2


def test_markers_say_where_the_corners_are(small):
    pattern, corners, capture = small
    ends = np.array([[0, 0], [0, 120], [110, 120], [110, 0]]) - 0.5
    cells = np.array([[-10.0, -5], [0, 125], [100, 110], [115, 10], [50, 50]])
    to = homography(ends, corners)
    places = np.hstack([cells, np.ones((5, 1))]) @ to.T
    places = places[:, :2] / places[:, 2:]
    found = kernelfit.find_psf(
        capture, pattern, markers=(cells, places), shape=13, solver=kernelfit.NonNegative(), distortion=0
    )
    assert np.abs(found.registration.corners - corners).max() < 0.1
    assert (found.kernel >= 0).all() and found.registration.displacement.size == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"oversample": 0}, "oversample"),
        ({"shape": 8}, "odd"),
        ({"shape": (5, 7)}, "both axes"),
        ({"corners": [[0, 0], [0, 9]]}, "four pairs"),
        ({"corners": np.eye(4)[:, :2], "markers": (1, 2)}, "one or the other"),
        ({"markers": ([[0, 0]], [[1, 1]])}, "at least four"),
        ({"distortion": -1}, "distortion"),
        ({"mask": np.zeros((3, 4))}, "mask"),
        ({"shape": 61}, "come closer"),
    ],
)
def test_bad_calls(small, words, message):
    pattern, corners, capture = small
    given = {} if {"corners", "markers"} & set(words) else {"corners": corners}
    with pytest.raises(ValueError, match=message):
        kernelfit.find_psf(capture, pattern, **given, **words)


@pytest.mark.slow
def test_noise_is_no_target(small):
    with pytest.raises(ValueError, match="not found"):
        kernelfit.find_psf(np.random.default_rng(0).random((60, 70)), small[0])
    with pytest.raises(ValueError, match="not found"):
        kernelfit.find_psf(np.zeros((60, 70)), small[0])


def test_another_pattern_is_not_found(small):
    pattern, corners, capture = small
    with pytest.raises(ValueError, match="not found"):
        kernelfit.find_psf(capture, 1 - pattern, corners=corners)
    with pytest.raises(ValueError, match="one value"):
        kernelfit.find_psf(capture, np.ones((20, 30)))


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1])
def test_a_target_is_looked_for_and_the_kernel_is_right_to_two_per_cent(turn):
    pattern = np.random.default_rng(0).integers(0, 2, (256, 256))
    corners = corners_of(96, (70, 80))
    capture = camera(pattern, corners, (140, 160), bend=0.01)
    found = kernelfit.find_psf(capture, np.rot90(pattern, turn))
    assert error_of(found) < 0.02
    assert np.linalg.norm(found.stderr) / np.linalg.norm(found.kernel) < 0.02


@pytest.mark.slow
def test_saturated_pixels_do_not_count(small):
    pattern, corners, capture = small
    values = np.rint(np.clip(capture, 0, 0.9) * 255).astype(np.uint8)
    values[30:33, 30:36] = 255
    found = kernelfit.find_psf(values, pattern, corners=corners, shape=13, solver=kernelfit.NonNegative())
    again = kernelfit.find_psf(
        values.astype(float), pattern, corners=corners, shape=13, solver=kernelfit.NonNegative(), mask=values == 255
    )
    assert_close(found.kernel, again.kernel, 1e-6)


@pytest.mark.slow
def test_pixels_that_are_no_numbers_are_refused_unless_left_out(small):
    pattern, corners, capture = small
    holes = capture.astype(float)
    holes[20, 30] = np.nan
    with pytest.raises(ValueError, match=r"1 pixel NaN or infinite, the first at \(row, column\) \(20, 30\).*mask="):
        kernelfit.find_psf(holes, pattern, corners=corners)
    found = kernelfit.find_psf(holes, pattern, corners=corners, mask=np.isnan(holes))
    plain = kernelfit.find_psf(capture, pattern, corners=corners)
    assert np.abs(found.kernel - plain.kernel).max() < 0.05 * plain.kernel.max()


@pytest.mark.slow
def test_noise_in_which_no_pattern_lies():
    """Cells as large as they can be in it are as small as pixels."""
    rng = np.random.default_rng(0)
    for shape in ((60, 64), (120, 130), (30, 200)):
        with pytest.raises(ValueError, match="not found|larger|smaller"):
            kernelfit.find_psf(rng.random((120, 130)), rng.random(shape))


@pytest.mark.slow
def test_a_capture_that_is_not_light_is_told_what_a_capture_can_do():
    pattern = np.random.default_rng(0).integers(0, 2, (110, 120))
    corners = corners_of(90, (55, 59))
    encoded = np.clip(camera(pattern, corners, (110, 119)), 1e-3, None) ** (1 / 2.2)
    findings = kernelfit.find_psf(encoded, pattern, corners=corners, shape=17).fit.findings
    (told,) = [finding for finding in findings if finding.verdict is kernelfit.Verdict.NONLINEAR]
    assert "proportional to light" in told.text and "curve=" not in told.text
