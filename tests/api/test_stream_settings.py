"""`accumulate_stream` with everything that `find_kernel` takes, block by block."""

import json

import numpy as np
import pytest
import scipy.signal

import naive
from helpers import assert_close, grid
from kernelfit import Verdict, accumulate_stream, find_kernel
from kernelfit.core import npz

SHAPE = (3, 5)
SIZES = ((62, 45), (40, 57))
TAPS = np.random.default_rng(7).random(SHAPE)


def pair_of(*shape, seed=0, noise=0.01, offset=0.0):
    """Return an image, its channels last if there are any, and what the kernel and noise make of it."""
    rng = np.random.default_rng([seed, *shape])
    image = rng.random(shape) + offset
    planes = image.reshape(*shape[:2], -1)
    made = [scipy.signal.convolve2d(planes[..., c], (c + 1) * TAPS, mode="same") for c in range(planes.shape[2])]
    return image, np.stack(made, axis=-1).reshape(shape) + noise * rng.standard_normal(shape)


PAIRS = [pair_of(*size) for size in SIZES]
COLOUR = [pair_of(*size, 2) for size in SIZES]
MASKS = [np.random.default_rng(i).random(size) < 0.06 for i, size in enumerate(SIZES)]
WEIGHTS = [np.random.default_rng(i).random(size) + 0.5 for i, size in enumerate(SIZES)]
SETTINGS = {
    "mask": {"mask": MASKS},
    "image mask": {"image_mask": MASKS},
    "weights": {"weights": WEIGHTS},
    "background": {"background": 2},
    "background and mask": {"background": 1, "mask": MASKS},
    "background and weights": {"background": 0, "weights": WEIGHTS},
    "image noise": {"image_noise": 0.02},
    "photons": {"noise": (50.0, 1.0)},
    "photons and background": {"noise": (50.0, 1.0), "background": 1},
}
CHANNELS = [
    {"channel_axis": -1, "channels": channels, **more}
    for channels in ("shared", "separate", "mixed")
    for more in ({}, {"background": 1}, {"mask": MASKS})
]


def lists(pairs):
    return [image for image, _ in pairs], [target for _, target in pairs]


def same_fit(assert_close, actual, expected, tolerance=1e-9):
    assert_close(actual.kernel, expected.kernel, tolerance, "kernel")
    assert_close(actual.stderr, expected.stderr, tolerance, "stderr")
    assert actual.noise_std == pytest.approx(expected.noise_std, rel=tolerance)
    assert actual.n_pixels == expected.n_pixels
    assert actual.verdict.ok == expected.verdict.ok  # what is wrong is judged on another sample of the pixels
    assert (actual.channels, actual.channel_axis) == (expected.channels, expected.channel_axis)
    assert (actual.background is None) == (expected.background is None)
    if expected.background is not None:
        assert_close(actual.background.coefficients, expected.background.coefficients, tolerance, "background")
        assert_close(actual.background.stderr, expected.background.stderr, tolerance, "background's stderr")


@grid("settings", [*SETTINGS.values(), *CHANNELS], 3, ids=lambda s: " ".join(s))
def test_a_stream_is_the_fit(settings):
    pairs = COLOUR if "channel_axis" in settings else PAIRS
    expected = find_kernel(*lists(pairs), SHAPE, **settings)
    for block, workers in ((None, 1), ((17, 20), 2)):
        stats = accumulate_stream(pairs, SHAPE, block=block, workers=workers, **settings)
        same_fit(assert_close, stats.solve(), expected)


def test_masks_of_all_pairs_or_of_each():
    pairs = [pair_of(40, 57, seed=i) for i in (1, 2)]
    expected = find_kernel(*lists(pairs), SHAPE, mask=[MASKS[1]] * 2)
    same_fit(assert_close, accumulate_stream(iter(pairs), SHAPE, mask=MASKS[1]).solve(), expected)
    items = [(*pair, MASKS[1]) for pair in pairs]
    same_fit(assert_close, accumulate_stream(iter(items), SHAPE).solve(), expected)
    expected = find_kernel(*lists(pairs), SHAPE, mask=[None, MASKS[1]])
    same_fit(assert_close, accumulate_stream(pairs, SHAPE, mask=[None, MASKS[1]]).solve(), expected)
    for masks, text in (([MASKS[1]], "pair 1: got a list of 1 as mask"), ([None] * 3, "got a list of 3 as mask for 2")):
        with pytest.raises(ValueError, match=text):
            accumulate_stream(pairs, SHAPE, mask=masks)
    with pytest.raises(ValueError, match="pair 0: got mask= beside a pair with its own"):
        accumulate_stream(items, SHAPE, mask=MASKS[1])


@pytest.mark.slow
@grid("loss", ["huber", "tukey", "clip"], 4)
@grid("more", [{"background": 1}, {}, {"mask": MASKS}], 3, ids=str)
def test_outliers_are_held_down(loss, more):
    """Blocks, with a scale from the sample: here that is of all pixels, so that the kernels agree as weights settle."""
    pairs = []
    for i, (image, target) in enumerate(PAIRS):
        spoiled = target.copy()
        spoiled[np.random.default_rng([9, i]).random(target.shape) < 0.02] += 3.0
        pairs.append((image, spoiled))
    expected = find_kernel(*lists(pairs), SHAPE, robust=loss, **more)
    fit = accumulate_stream(pairs, SHAPE, robust=loss, block=(64, 64), **more).solve()
    error = np.linalg.norm(expected.stderr)
    assert np.linalg.norm(fit.kernel - expected.kernel) < 0.05 * error
    assert_close(fit.stderr, expected.stderr, 0.02)
    assert Verdict.NOT_CONVERGED not in [f.verdict for f in fit.findings]
    plain = find_kernel(*lists(pairs), SHAPE, **more)
    assert np.linalg.norm(plain.kernel - expected.kernel) > error  # they matter
    small = accumulate_stream(lambda: iter(pairs), SHAPE, robust=loss, block=(13, 16), **more).solve()
    assert np.linalg.norm(small.kernel - expected.kernel) < 0.2 * error


def test_what_must_be_read_again_takes_no_iterator():
    for settings in ({"noise": "poisson"}, {"robust": "clip"}):
        left = iter(PAIRS)
        with pytest.raises(ValueError, match="with an iterator of pairs, which is read once: .* need a list of pairs"):
            accumulate_stream(left, SHAPE, **settings)
        assert len(list(left)) == 2  # and none was taken
    turns = iter([PAIRS, PAIRS[:1]])
    with pytest.raises(ValueError, match="got 1 pairs of . blocks when the stream was read again"):
        accumulate_stream(lambda: next(turns), SHAPE, noise=(50.0, 1.0))
    for settings, text in (
        ({"errors": "sandwich"}, "got errors='sandwich' with statistics alone"),
        ({"method": "cg"}, r"got ConjugateGradient\(\) with statistics alone"),
        ({"method": "wiener"}, r"got Wiener\(\) with statistics alone"),
    ):
        with pytest.raises(ValueError, match=text):
            accumulate_stream(PAIRS, SHAPE, **settings)
    with pytest.raises(ValueError, match="pair 1: got another number of channels"):
        accumulate_stream([COLOUR[0], pair_of(40, 57, 3)], SHAPE, channel_axis=-1, channels="separate")


@pytest.mark.parametrize("background", [None, 1])
def test_refined_where_the_source_can_be_read_again(background):
    pairs = [pair_of(*size, noise=0.0, offset=3e3) for size in SIZES]
    keywords = {"background": background, "block": (17, 20)}
    again = accumulate_stream(pairs, SHAPE, **keywords).solve()
    once = accumulate_stream(iter(pairs), SHAPE, **keywords).solve()
    assert again.refined >= 1 and once.refined == 0
    assert_close(again.kernel, TAPS, 1e-11)
    assert np.linalg.norm(once.kernel - TAPS) > 10 * np.linalg.norm(again.kernel - TAPS)
    if background is not None:
        assert np.abs(again.background.coefficients).max() < np.abs(once.background.coefficients).max()


# ---- checkpoints ----------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.slow
@grid(
    "settings",
    [
        {"background": 1, "mask": MASKS},
        {"channel_axis": -1, "channels": "mixed", "background": 0},
        {"channel_axis": -1, "channels": "separate"},
        {"image_noise": 0.02},
        {"noise": (50.0, 1.0)},
    ],
    4,
    ids=str,
)
@pytest.mark.parametrize("after", [2, 11])
def test_an_interrupted_run_ends_with_the_same_bits(settings, after, tmp_path):
    """In the midst of a pair, whose background is not eliminated yet; and the sample is the same."""
    pairs = COLOUR if "channel_axis" in settings else PAIRS
    settings = {**settings, "block": (17, 20), "workers": 1}
    whole = accumulate_stream(pairs, SHAPE, **settings)
    file = tmp_path / "sums.npz"

    def stop(_, done, __):
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        accumulate_stream(pairs, SHAPE, checkpoint=file, every=0, progress=stop, **settings)
    again = accumulate_stream(pairs, SHAPE, checkpoint=file, **settings)
    for one, other in zip(getattr(again, "parts", (again,)), getattr(whole, "parts", (whole,)), strict=True):
        assert one.gram.tobytes() == other.gram.tobytes() and one.moment.tobytes() == other.moment.tobytes()
        assert [t.key for t in one.context.tiles] == [t.key for t in other.context.tiles]
    assert again.solve().kernel.tobytes() == whole.solve().kernel.tobytes()
    assert again.solve().findings == whole.solve().findings
    if whole.solve().background is not None:
        assert again.solve().background.coefficients.tobytes() == whole.solve().background.coefficients.tobytes()
    with pytest.raises(ValueError, match="and a call with operation='correlation'"):
        accumulate_stream(pairs, SHAPE, checkpoint=file, operation="correlation", **settings)


def test_an_old_checkpoint_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "sums.npz"
    header = {"call": {"shape": list(SHAPE)}, "pairs": 1, "blocks": 0, "digest": "", "levels": []}
    npz.save(file, "Checkpoint", json.loads(json.dumps(header)), {}, overwrite=False)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="which another version of kernelfit wrote .* choose another name"):
        accumulate_stream(PAIRS, SHAPE, checkpoint=file)
    assert file.read_bytes() == before


# ---- the sample of pixels -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_residual_of_a_stream_is_judged():
    rng = np.random.default_rng(0)

    def frames(coloured):
        for i in range(6):
            image, target = pair_of(90, 101, seed=i)
            noise = rng.standard_normal((92, 103))
            smooth = naive.apply(noise, np.full((3, 3), 1 / 3), mode="valid", boundary=None)
            yield image, target + coloured * smooth

    assert accumulate_stream(frames(0.0), SHAPE).solve().verdict is Verdict.SOLVED
    assert accumulate_stream(frames(0.05), SHAPE).solve().verdict is Verdict.COLOURED_NOISE


@pytest.mark.slow
def test_the_sample_does_not_depend_on_workers_and_is_bounded():
    pairs = [pair_of(90, 101, seed=i) for i in range(12)]
    one = accumulate_stream(pairs, SHAPE, block=(30, 40), workers=1)
    two = accumulate_stream(iter(pairs), SHAPE, block=(30, 40), workers=2)
    assert [t.key for t in one.context.tiles] == [t.key for t in two.context.tiles]
    assert len(one.context.tiles) <= 64 and len({t.at for t in one.context.tiles}) > 8


def test_nearly_all_saturated_is_used_as_in_memory():
    rng = np.random.default_rng(0)
    image = rng.random((70, 61))
    target = np.where(rng.random((68, 59)) < 0.5, 0, 255).astype(np.uint8)
    expected = find_kernel(image, target, 3)
    stats = accumulate_stream([(image, target)], 3)
    assert stats.n_pixels == expected.n_pixels == target.size
    assert_close(stats.solve().kernel, expected.kernel, 1e-9)
    clipped = np.clip(300 * image[1:-1, 1:-1], 0, 255).astype(np.uint8)
    assert accumulate_stream([(image, clipped)], 3).n_pixels == find_kernel(image, clipped, 3).n_pixels < clipped.size
