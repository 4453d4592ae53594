"""`accumulate` with everything that `find_kernel` takes: the same kernels, errors and verdicts, from sums alone."""

import numpy as np
import pytest
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, assert_same_bits
from kernelfit import Verdict, accumulate, find_kernel

SHAPE = (3, 5)
SIZES = ((44, 61), (53, 40))
TAPS = np.random.default_rng(7).random(SHAPE)


def pair_of(*shape, seed=0):
    """Return an image, its channels last if there are any, and what the kernel and noise make of it."""
    rng = np.random.default_rng([seed, *shape])
    image = rng.random(shape)
    planes = image.reshape(*shape[:2], -1)
    made = [scipy.signal.convolve2d(planes[..., c], (c + 1) * TAPS, mode="same") for c in range(planes.shape[2])]
    return image, np.stack(made, axis=-1).reshape(shape) + 0.01 * rng.standard_normal(shape)


PAIRS = [pair_of(*size) for size in SIZES]
COLOUR = [pair_of(*size, 2) for size in SIZES]
MASKS = [np.random.default_rng(i).random(size) < 0.06 for i, size in enumerate(SIZES)]
WEIGHTS = [np.random.default_rng(i).random(size) + 0.5 for i, size in enumerate(SIZES)]
SETTINGS = {
    "plain": {},
    "mask": {"mask": MASKS},
    "image mask": {"image_mask": MASKS},
    "weights": {"weights": WEIGHTS},
    "stride": {"stride": (2, 1), "mode": "same"},
    "background": {"background": 2},
    "background and mask": {"background": 1, "mask": MASKS},
    "background and weights": {"background": 0, "weights": WEIGHTS},
    "image noise": {"image_noise": 0.02},
    "image noise, mask and mirror": {"image_noise": 0.02, "mask": MASKS, "boundary": "mirror"},
    "photons": {"noise": (50.0, 1.0)},
    "photons and background": {"noise": (50.0, 1.0), "background": 1},
    "huber": {"robust": "huber"},
    "clip and mask": {"robust": "clip", "mask": MASKS},
}


def scene(settings, pairs):
    """Return images and targets, at the stride of the settings, with what is laid on each."""
    down, across = settings.get("stride", (1, 1))
    return [image for image, _ in pairs], [target[::down, ::across] for _, target in pairs]


def same_fit(assert_close, actual, expected, tolerance=1e-9):
    assert_close(actual.kernel, expected.kernel, tolerance, "kernel")
    assert_close(actual.stderr, expected.stderr, tolerance, "stderr")
    assert actual.noise_std == pytest.approx(expected.noise_std, rel=tolerance)
    assert actual.n_pixels == expected.n_pixels
    assert actual.image_noise == pytest.approx(expected.image_noise)
    assert (actual.channels, actual.channel_axis) == (expected.channels, expected.channel_axis)
    assert len(actual.parts) == len(expected.parts)
    assert (actual.background is None) == (expected.background is None)
    if expected.background is not None:
        assert_close(actual.background.coefficients, expected.background.coefficients, tolerance, "background")
        assert_close(actual.background.stderr, expected.background.stderr, tolerance, "background's stderr")
        assert actual.background.shapes == expected.background.shapes


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("several", [False, True])
def test_solving_gives_the_fit(name, several):
    settings = dict(SETTINGS[name])
    images, targets = scene(settings, PAIRS)
    if not several:
        images, targets = images[0], targets[0]
        settings |= {n: settings[n][0] for n in ("mask", "image_mask", "weights") if n in settings}
    expected = find_kernel(images, targets, SHAPE, **settings)
    stats = accumulate(images, targets, SHAPE, **settings)
    same_fit(assert_close, stats.solve(), expected)
    if "robust" not in settings and "boundary" not in settings:
        assert stats.solve().verdict is expected.verdict
        assert stats.solve().notes == expected.notes


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
@pytest.mark.parametrize(
    "more",
    [{}, {"background": 1}, {"mask": MASKS}, {"solver": kernelfit.NonNegative()}],
    ids=["plain", "background", "mask", "non-negative"],
)
def test_channels(channels, more, tmp_path):
    settings = {"channel_axis": -1, "channels": channels, **more}
    solver = settings.pop("solver", None)
    images, targets = scene(settings, COLOUR)
    expected = find_kernel(images, targets, SHAPE, **settings, **({} if solver is None else {"solver": solver}))
    stats = accumulate(images, targets, SHAPE, **settings)
    assert isinstance(stats, kernelfit.NormalStats if channels == "shared" else kernelfit.ChannelStats)
    same_fit(assert_close, stats.solve(solver), expected)
    # those of the pairs add up to those of all, and are what they were when they come back from a file
    singles = [
        accumulate(i, t, SHAPE, **{**settings, **({"mask": m} if "mask" in settings else {})})
        for i, t, m in zip(images, targets, MASKS, strict=True)
    ]
    both = singles[0] + singles[1]
    same_fit(assert_close, both.solve(solver), expected)
    both.save(tmp_path / "sums.npz")
    again = type(both).load(tmp_path / "sums.npz").solve(solver)
    assert np.array_equal(again.kernel, both.solve(solver).kernel)
    assert again.findings == both.solve(solver).findings and again.notes == both.solve(solver).notes


def test_sum_adds_statistics_of_any_kind():
    each = [accumulate(image, target, SHAPE) for image, target in PAIRS]
    assert_same_bits(sum(each), each[0] + each[1])
    colour = [accumulate(*pair, SHAPE, channel_axis=-1, channels="separate") for pair in COLOUR]
    for got, expected in zip(sum(colour).parts, (colour[0] + colour[1]).parts, strict=True):
        assert_same_bits(got, expected)
    spectra = [kernelfit.accumulate_spectra(*PAIRS[0], SHAPE, block=32)] * 2
    assert np.array_equal(sum(spectra).cross, 2 * spectra[0].cross)
    with pytest.raises(TypeError, match="unsupported operand"):
        sum(each, 1)


def test_a_background_is_that_of_dense_least_squares():
    """Two pairs, each with a plane of its own beside one kernel, as one dense system."""
    degree, rows, values = 1, [], []
    for number, (image, target) in enumerate(PAIRS):
        matrix, used = naive.design_dense(image, SHAPE, mode="same", boundary=None)
        down, across = (np.linspace(-1, 1, n) for n in target.shape)
        terms = np.stack([np.ones(target.shape), *(a + np.zeros(target.shape) for a in (across, down[:, None]))], -1)
        wide = np.zeros((len(matrix), matrix.shape[1] + 6))
        wide[:, : matrix.shape[1]] = matrix
        wide[:, matrix.shape[1] + 3 * number :][:, :3] = terms[used]
        rows.append(wide)
        values.append(target[used])
    unknowns = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    fit = sum_of([accumulate(*pair, SHAPE, background=degree) for pair in PAIRS]).solve()
    assert_close(fit.kernel.ravel(), unknowns[:-6], 1e-10)
    assert_close(fit.background.coefficients, unknowns[-6:].reshape(2, 3), 1e-9)


def sum_of(stats):
    total = stats[0]
    for one in stats[1:]:
        total = total + one
    return total


@pytest.mark.parametrize("solver", [kernelfit.Penalized("gradient", 0.1), kernelfit.NonNegative()])
def test_beside_the_noise_of_the_image_the_residual_is_that_of_the_kernel_returned(solver):
    image, target = PAIRS[0]
    expected = find_kernel(image, target, SHAPE, image_noise=0.03, solver=solver)
    same_fit(assert_close, accumulate(image, target, SHAPE, image_noise=0.03).solve(solver), expected)


def test_the_noise_of_the_image_is_taken_off_once():
    """The sums are those of `without_image_noise`, and adding two of them takes off what is in both."""
    image, target = PAIRS[0]
    stats = accumulate(image, target, SHAPE, image_noise=0.03)
    less, share = accumulate(image, target, SHAPE).without_image_noise(0.03)
    assert share == 1.0
    assert_close(stats.gram, less.gram, 1e-14)
    expected = find_kernel([p[0] for p in PAIRS], [p[1] for p in PAIRS], SHAPE, image_noise=0.03)
    both = sum_of([accumulate(*pair, SHAPE, image_noise=0.03) for pair in PAIRS])
    same_fit(assert_close, both.solve(), expected)
    rest = both - accumulate(*PAIRS[1], SHAPE, image_noise=0.03)
    assert_close(rest.gram, stats.gram, 1e-11)
    # where not all of it can be taken off, the share is that of all pixels, and is said
    large = sum_of([accumulate(*pair, SHAPE, image_noise=0.4) for pair in PAIRS]).solve()
    expected = find_kernel([p[0] for p in PAIRS], [p[1] for p in PAIRS], SHAPE, image_noise=0.4)
    assert large.image_noise == pytest.approx(expected.image_noise) and large.image_noise < 0.4
    assert Verdict.IMAGE_NOISE in [f.verdict for f in large.findings]
    with pytest.raises(ValueError, match="crop them first"):
        stats.crop(1)


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"errors": "sandwich"}, "got errors='sandwich' with statistics alone: they come of the residual"),
        ({"method": "cg"}, r"got ConjugateGradient\(\) with statistics alone: .*; need find_kernel"),
        ({"method": "wiener"}, r"got Wiener\(\) with statistics alone: .*; need accumulate_spectra"),
        ({"tolerance": 0.1}, "got tolerance= with statistics alone: only an iteration has one"),
        ({"mask": [MASKS[0]]}, r"got mask of shape \(1, 44, 61\), need"),
        ({"channels": "separate"}, "got channels='separate' without channel_axis"),
    ],
)
def test_what_is_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        accumulate(*PAIRS[0], SHAPE, **settings)


def test_value_objects_are_the_same_as_keywords():
    image, target = PAIRS[0]
    model = kernelfit.Model(SHAPE, boundary="wrap", background=0)
    selection, execution = kernelfit.Selection(mask=MASKS[0]), kernelfit.Execution(engine="direct", workers=1)
    whole = accumulate(image, target, model, selection=selection, execution=execution, noise=kernelfit.Noise())
    flat = accumulate(image, target, SHAPE, boundary="wrap", background=0, mask=MASKS[0], method="direct", workers=1)
    assert_same_bits(whole, flat)


def test_saturated_pixels_are_left_out_by_default():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (60, 43)).astype(np.uint8)
    target = np.clip(1.4 * image[1:-1, :-2] - 20.0, 0, 255).astype(np.uint8)
    stats, fit = accumulate(image, target, 3), find_kernel(image, target, 3)
    assert stats.n_pixels == fit.n_pixels < 0.9 * target.size
    assert stats.solve().notes[:1] == fit.notes[:1]
    assert accumulate(image, target, 3, saturated=None).n_pixels == target.size


# ---- the sample of pixels -------------------------------------------------------------------------------------------


def correlated(shape, seed):
    """Return a pair whose noise is correlated from pixel to pixel."""
    rng = np.random.default_rng([seed, *shape])
    image, noise = rng.random(shape), rng.standard_normal((shape[0] + 2, shape[1] + 2))
    smooth = naive.apply(noise, np.full((3, 3), 1 / 3), mode="valid", boundary=None)
    return image, naive.apply(image, TAPS, mode="same", boundary="fill", fillvalue=0.0) + 0.05 * smooth


def test_the_residual_is_judged_and_where_it_is_not_that_is_said(tmp_path):
    white = accumulate(*pair_of(150, 131), SHAPE)
    assert white.solve().verdict is Verdict.SOLVED
    stats = accumulate(*correlated((150, 131), 1), SHAPE)
    assert stats.solve().verdict is Verdict.COLOURED_NOISE is find_kernel(*correlated((150, 131), 1), SHAPE).verdict
    # a sum has the sample of both parts, a part of a sum has none
    assert (stats + accumulate(*correlated((90, 121), 2), SHAPE)).solve().verdict is Verdict.COLOURED_NOISE
    rest = (white + white) - white
    assert [f.verdict for f in rest.solve().findings] == [Verdict.RESIDUAL_UNCHECKED]
    sums = ("gram", "moment", "target_energy", "target_sum", "n_pixels", "supports", "convention")
    bare = kernelfit.NormalStats(**{name: getattr(white, name) for name in sums})
    for unchecked in (bare, white + bare, bare + white, white.crop((1, 5))):
        assert Verdict.RESIDUAL_UNCHECKED in [f.verdict for f in unchecked.solve().findings]
    assert not Verdict.RESIDUAL_UNCHECKED.ok
    stats.save(tmp_path / "sums.npz")
    assert kernelfit.NormalStats.load(tmp_path / "sums.npz").solve().findings == stats.solve().findings


@pytest.mark.slow
def test_the_sample_of_many_sums_is_bounded_and_of_all_of_them():
    pairs = [pair_of(80, 70, seed=i) for i in range(20)]
    total = sum_of([accumulate(*pair, SHAPE) for pair in pairs])
    back = sum_of([accumulate(*pair, SHAPE) for pair in reversed(pairs)])
    tiles = total.context.tiles
    pixels = sum(tile.observation.geometry.n_pixels for tile in tiles)
    assert 2**16 <= pixels <= 2**16 + 64**2 and len(tiles) <= 64
    assert len({tile.at for tile in tiles}) > 8
    assert [t.key for t in tiles] == [t.key for t in back.context.tiles]  # in whatever order they are added
    assert all(tile.observation.targets[0].array.base is None for tile in tiles)  # keeps no image alive


def test_pixels_that_do_not_count_are_not_looked_at():
    image, target = pair_of(150, 131)
    mask = np.zeros(target.shape, bool)
    mask[:, 40:90] = True
    spoiled = np.where(mask, 1e6, target)
    fit = accumulate(image, spoiled, SHAPE, mask=mask).solve()
    assert fit.verdict is Verdict.SOLVED and fit.noise_std == pytest.approx(0.01, rel=0.05)
