"""Spectra of a pair: against the plain formula, additive, the same for any number of threads, saved and loaded."""

import warnings

import numpy as np
import pytest

from helpers import assert_close, smooth_image
from kernelfit import SpectralStats, accumulate_spectra, set_fft
from kernelfit.compiled import spectra
from kernelfit.solvers import block_toeplitz

NAMES = ("image_power", "target_power", "cross")


@pytest.fixture
def pair_of_images():
    image = smooth_image(150, 131, seed=3)
    target = np.random.default_rng(4).normal(size=(147, 127)) + image[2:-1, 1:-3]
    return image, target


def naive_spectra(x, y):
    """Orthonormal transforms of a pair of blocks, by the definition."""
    n, m = x.shape
    rows = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    cols = np.exp(-2j * np.pi * np.outer(np.arange(m), np.arange(m // 2 + 1)) / m)
    x, y = (rows @ v @ cols / np.sqrt(n * m) for v in (x, y))
    return np.abs(x) ** 2, np.abs(y) ** 2, x.conj() * y


def test_periodic_pair_taken_whole_is_the_plain_formula():
    image, target = np.random.default_rng(0).normal(size=(2, 14, 11))
    stats = accumulate_spectra(image, target, (3, 4), boundary="wrap")
    for name, expected in zip(NAMES, naive_spectra(image, target), strict=True):
        assert_close(getattr(stats, name), expected, 1e-12, name)
    assert stats.periodic and stats.n_blocks == 1 and stats.n_pixels == image.size
    assert stats.weight_square == pytest.approx(image.size)
    assert stats.target_energy == pytest.approx(np.sum(target**2)) and stats.target_sum == pytest.approx(target.sum())


def test_blocks_are_the_plain_formula():
    """Two blocks without tapers or detrending: their spectra add up; the image is read under the target."""
    image = np.random.default_rng(1).normal(size=(22, 36))
    target = np.random.default_rng(2).normal(size=(20, 32))  # a kernel of 3 x 5, mode valid
    stats = accumulate_spectra(image, target, (3, 5), block=(20, 16), taper=0, detrend=None)
    inside = image[1:-1, 2:-2]
    left, right = (naive_spectra(inside[:, s], target[:, s]) for s in (slice(16), slice(16, 32)))
    assert stats.n_blocks == 2 and not stats.periodic
    for name, a, b in zip(NAMES, left, right, strict=True):
        assert_close(getattr(stats, name), a + b, 1e-12, name)


def test_statistics_of_two_pairs_add():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 2, 30, 41))
    first, second = (accumulate_spectra(*p, 3, boundary="wrap") for p in (a, b))
    both = first + second
    for name in NAMES:
        assert_close(getattr(both, name), getattr(first, name) + getattr(second, name), 1e-15, name)
    assert both.n_blocks == 2 and both.n_pixels == 2 * 30 * 41 and both.periodic
    assert both.target_energy == pytest.approx(first.target_energy + second.target_energy)


def test_only_the_same_blocks_add():
    rng = np.random.default_rng(6)
    stats = accumulate_spectra(*rng.normal(size=(2, 30, 41)), 3, boundary="wrap")
    for other in (
        accumulate_spectra(*rng.normal(size=(2, 41, 30)), 3, boundary="wrap"),
        accumulate_spectra(*rng.normal(size=(2, 30, 41)), 5, boundary="wrap"),
        accumulate_spectra(*rng.normal(size=(2, 30, 41)), 3, boundary="wrap", operation="correlation"),
        accumulate_spectra(*rng.normal(size=(2, 30, 41)), 3, boundary="wrap", origin=0),
    ):
        with pytest.raises(ValueError, match="add up"):
            stats + other
    with pytest.raises(TypeError):
        stats + 1


def test_any_number_of_threads_gives_the_same_bits(pair_of_images):
    for block in (None, 48):
        one, three = (accumulate_spectra(*pair_of_images, (4, 5), block=block, workers=n) for n in (1, 3))
        for name in NAMES:
            assert getattr(one, name).tobytes() == getattr(three, name).tobytes(), (name, block)


def test_mean_and_offset_do_not_count(pair_of_images):
    image, target = pair_of_images
    for block in (None, 48):
        plain = accumulate_spectra(image, target, (4, 5), block=block)
        moved = accumulate_spectra(image + 1e4, target - 1e4, (4, 5), block=block)
        assert_close(moved.cross, plain.cross, 1e-8, "cross")


@pytest.mark.parametrize(
    "convert", [lambda a: a.astype(">f4"), lambda a: a[::-1, ::-1], lambda a: np.asfortranarray(a)]
)
def test_any_layout_is_read_and_never_changed(pair_of_images, convert):
    image, target = (convert(a) for a in pair_of_images)
    copies = image.copy(), target.copy()
    image.setflags(write=False)
    target.setflags(write=False)
    for block in (None, 64):
        stats = accumulate_spectra(image, target, (4, 5), block=block)
        plain = [np.ascontiguousarray(a, dtype=np.float64) for a in copies]
        assert_close(stats.cross, accumulate_spectra(*plain, (4, 5), block=block).cross, 1e-14, "cross")
    assert (image == copies[0]).all() and (target == copies[1]).all()


def test_saved_and_loaded(tmp_path, pair_of_images):
    stats = accumulate_spectra(*pair_of_images, (4, 5), block=32)
    stats.save(tmp_path / "spectra.npz")
    again = SpectralStats.load(tmp_path / "spectra.npz")
    for name, value in vars(stats).items():
        other = getattr(again, name)
        assert (value == other).all() if isinstance(value, np.ndarray) else value == other, name
    assert again.solve().kernel.tobytes() == stats.solve().kernel.tobytes()
    with pytest.raises(FileExistsError):
        stats.save(tmp_path / "spectra.npz")


def test_statistics_are_read_only(pair_of_images):
    stats = accumulate_spectra(*pair_of_images, (4, 5))
    with pytest.raises(ValueError, match="read-only"):
        stats.cross[0, 0] = 0


@pytest.mark.parametrize(
    "keywords, error, match",
    [
        ({"block": "big"}, ValueError, "block='big'"),
        ({"block": 4}, ValueError, "twice"),
        ({"block": 1.5}, TypeError, "block"),
        ({"taper": 2}, ValueError, "taper=2"),
        ({"taper": "hann"}, ValueError, "taper='hann'"),
        ({"taper": None}, TypeError, "taper=None"),
        ({"detrend": "linear"}, ValueError, "detrend='linear'"),
        ({"detrend": 1}, TypeError, "detrend=1"),
    ],
)
def test_bad_keywords_are_named(pair_of_images, keywords, error, match):
    with pytest.raises(error, match=match):
        accumulate_spectra(*pair_of_images, (4, 5), **keywords)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("block", [None, 48])
def test_pixels_that_are_not_finite_are_refused(pair_of_images, bad, block):
    image, target = (a.copy() for a in pair_of_images)
    target[20, 30] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"target with 1 pixel .*\(20, 30\)"):
            accumulate_spectra(image, target, (4, 5), block=block)


@pytest.mark.parametrize("block", [None, 32, (40, 200), "auto"])
@pytest.mark.parametrize("backend", ["pyfftw", "scipy"])
def test_every_pixel_counts_once_in_the_targets_sums(pair_of_images, block, backend):
    """However blocks overlap; and both libraries give the same spectra."""
    image, target = pair_of_images
    own = accumulate_spectra(image, target, (4, 5), block=block)
    used = target[: own.n_pixels // 127]
    assert used.size == own.n_pixels == target.size
    previous = set_fft(backend=backend)
    try:
        stats = accumulate_spectra(image, target, (4, 5), block=block)
    finally:
        set_fft(**previous)
    for name in NAMES:
        assert_close(getattr(stats, name), getattr(own, name), 1e-12, name)
    assert stats.target_energy == pytest.approx(np.sum(target**2), rel=1e-13)
    assert stats.target_sum == pytest.approx(np.sum(target), abs=1e-11 * np.abs(target).sum())
    wrapped = accumulate_spectra(image, image[::-1], (4, 5), boundary="wrap")  # by Parseval's theorem
    assert wrapped.target_energy == pytest.approx(np.sum(image**2), rel=1e-13)
    assert wrapped.target_sum == pytest.approx(np.sum(image), rel=1e-13)


@pytest.mark.parametrize("sides", [(150, 131), (133, 96), (1, 40), (2, 3)])
def test_lag_sums_are_inverse_transforms(sides):
    rng = np.random.default_rng(5)
    image, target = rng.normal(size=(2, *sides))
    shape = (min(sides[0], 6), min(sides[1], 3))
    stats = accumulate_spectra(image, target, shape, boundary="wrap")
    for workers in (1, 3):
        lags = block_toeplitz.lag_sums(stats, workers)
        power, cross = (np.fft.irfft2(s, sides) for s in (stats.image_power, stats.cross))
        rows, cols = np.arange(shape[0])[:, None], np.arange(1 - shape[1], shape[1])
        assert_close(lags.power, power[rows, cols], 1e-13, "power")
        assert_close(lags.cross, cross[stats.shift[0] - rows, stats.shift[1] - np.arange(shape[1])], 1e-13, "cross")


def test_compiled_loops_are_compiled_once(pair_of_images):
    """Of two layouts Numba makes two versions, and two processes that fill its cache at once may confuse them."""
    if not hasattr(spectra.ring_misfit, "signatures"):
        pytest.skip("nothing is compiled")
    image, target = pair_of_images
    stats = [accumulate_spectra(image, target, (4, 5), block=block) for block in (None, 32, "auto")]
    stats += [stats[1] + stats[1], accumulate_spectra(image[::2, ::-1], image[::2], 3, boundary="wrap")]
    for some in stats:
        some.solve()
    for name in ("taper", "cross_spectra", "cross_spectra_in_place", "ring_misfit", "add_products"):
        assert len(getattr(spectra, name).signatures) == 1, name


def test_weights_of_pixels_in_overlapping_blocks():
    """What a single pixel of the target adds to its power, by Parseval, for each row and for each column."""
    image, rows, cols = np.zeros((50, 61)), 49, 59

    def weight(row, col):
        target = np.zeros((rows, cols))
        target[row, col] = 1.0
        stats = accumulate_spectra(image, target, (2, 3), block=(16, 20), detrend=None)
        twice = np.full(stats.target_power.shape[1], 2.0)
        twice[[0, -1]] = 1.0  # blocks of an even number of columns
        return float((stats.target_power * twice).sum()), stats.weight_square

    down, across = [weight(r, 7)[0] for r in range(rows)], [weight(9, c)[0] for c in range(cols)]
    both, told = weight(9, 7)
    assert told == pytest.approx(np.sum(np.square(down)) * np.sum(np.square(across)) / both**2, rel=1e-9)
