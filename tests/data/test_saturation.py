"""An upper end that is said excludes saturated pixels of the image, as a mask of them does."""

import numpy as np
import pytest

import kernelfit
from helpers import assert_close
from kernelfit import accumulate_stream, apply_kernel, find_kernel, kernel_map

KERNEL = np.outer([1, 2, 1], [1, 3, 4, 1]) / 36
TOP = 420.0


def pair(seed=0, size=(60, 71)):
    """A sharp image whose brightest pixels were cut off after the target was made."""
    rng = np.random.default_rng(seed)
    light = np.abs(rng.normal(0, 40, size)) ** 1.3
    target = apply_kernel(light, KERNEL) + rng.normal(0, 0.01, size)
    return np.minimum(light, TOP), target


IMAGE, TARGET = pair()
HIT = IMAGE >= TOP
ENDS = (None, TOP)


def both(verb, image, target, *args, hit, **more):
    """Return what the ends give, and what a mask of the image's pixels there and one of the target's give."""
    return (
        verb(image, target, *args, saturated=ENDS, **more),
        verb(image, target, *args, image_mask=hit, saturated=ENDS, **more),
    )


def test_the_kernel_is_right_and_the_bits_are_those_of_the_mask():
    assert 5 < HIT.sum() < 100
    fit, expected = both(find_kernel, IMAGE, TARGET, (3, 4), hit=HIT)
    np.testing.assert_array_equal(fit.kernel, expected.kernel)
    assert fit.notes == expected.notes and "image pixel" in fit.notes[0]
    assert_close(fit.kernel, KERNEL, 1e-4)
    assert np.abs(find_kernel(IMAGE, TARGET, (3, 4)).kernel - KERNEL).max() > 1e-3


def test_a_mask_that_is_given_is_all_that_excludes():
    none = np.zeros_like(HIT)
    fit = find_kernel(IMAGE, TARGET, (3, 4), image_mask=none, saturated=ENDS)
    np.testing.assert_array_equal(
        fit.kernel, find_kernel(IMAGE, TARGET, (3, 4), saturated=ENDS, image_mask=none).kernel
    )
    assert fit.n_pixels == find_kernel(IMAGE, TARGET, (3, 4)).n_pixels - (TARGET[1:-1, 2:-1] >= TOP).sum()


def test_an_image_of_other_values_has_other_ends():
    fit = find_kernel(1000 + IMAGE, TARGET, (3, 4), background=0, saturated=(None, 150))
    assert fit.n_pixels == find_kernel(1000 + IMAGE, TARGET, (3, 4), background=0, mask=TARGET >= 150).n_pixels
    assert find_kernel(IMAGE, TARGET, (3, 4), saturated="auto").notes == ()


class Stored:
    """An array that can only be sliced."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim

    def __getitem__(self, key):
        return self.array[key]


@pytest.mark.parametrize("stored", [False, True])
def test_streams_and_slices(stored):
    image, target = (Stored(IMAGE), Stored(TARGET)) if stored else (IMAGE, TARGET)
    expected = find_kernel(IMAGE, TARGET, (3, 4), image_mask=HIT, saturated=ENDS)
    assert_close(find_kernel(image, target, (3, 4), saturated=ENDS).kernel, expected.kernel, 1e-12)
    stats = accumulate_stream([(image, target)], (3, 4), saturated=ENDS, block=25)
    assert stats.n_pixels == expected.n_pixels
    assert_close(stats.solve().kernel, expected.kernel, 1e-9)


def test_maps_pairs_and_channels():
    other, made = pair(1, (50, 64))
    found, expected = both(kernel_map, IMAGE, TARGET, (3, 4), (2, 2), hit=HIT)
    np.testing.assert_array_equal(found.kernels, expected.kernels)
    given = [IMAGE, other], [TARGET, made]
    fit, masked = both(find_kernel, *given, (3, 4), hit=[HIT, other >= TOP])
    np.testing.assert_array_equal(fit.kernel, masked.kernel)
    colours = np.stack([IMAGE, IMAGE[::-1]], axis=2), np.stack([TARGET, TARGET], axis=2)
    words = {"channel_axis": 2, "channels": "mixed", "background": 0}
    fit, masked = both(find_kernel, *colours, (3, 4), hit=colours[0] >= TOP, **words)
    np.testing.assert_array_equal(fit.kernel, masked.kernel)


def test_volumes_and_signals():
    volume, made = (
        np.stack([pair(s, (20, 23))[0] for s in range(7)]),
        np.stack([pair(s, (20, 23))[1] for s in range(7)]),
    )
    fit, masked = both(find_kernel, volume, made, (1, 3, 4), hit=volume >= TOP)
    assert masked.n_pixels < find_kernel(volume, made, (1, 3, 4)).n_pixels
    np.testing.assert_array_equal(fit.kernel, masked.kernel)
    signal, heard = IMAGE.ravel(), np.convolve(np.minimum(IMAGE.ravel(), 1e9), [1, 2, 3], "same")
    fit, masked = both(find_kernel, signal, heard, 3, hit=signal >= TOP)
    np.testing.assert_array_equal(fit.kernel, masked.kernel)


def test_dask():
    da = pytest.importorskip("dask.array")
    scale = pytest.importorskip("kernelfit.scale")
    lazy = [da.from_array(array, chunks=30) for array in (IMAGE, TARGET)]
    fit = scale.find_kernel(*lazy, (3, 4), saturated=ENDS, block=30)
    expected = find_kernel(IMAGE, TARGET, (3, 4), image_mask=HIT, saturated=ENDS)
    assert fit.n_pixels == expected.n_pixels
    assert_close(fit.kernel, expected.kernel, 1e-12)


@pytest.mark.parametrize("kind", ["memory", "stored", "mapped", "dask"])
def test_more_than_a_tenth_counts_wherever_the_image_lies(kind, tmp_path):
    words, low = {"saturated": (None, 150.0), "boundary": "wrap"}, IMAGE < 150
    assert 0.1 < np.mean(~low) < 0.5
    expected = find_kernel(IMAGE, TARGET, (3, 4), image_mask=np.zeros_like(low), **words)
    if kind == "dask":
        da = pytest.importorskip("dask.array")
        scale = pytest.importorskip("kernelfit.scale")
        both = [da.from_array(array, chunks=30) for array in (IMAGE, TARGET)]
        found = scale.find_kernel(*both, (3, 4), block=30, **words)
    else:
        np.save(tmp_path / "image.npy", IMAGE)
        mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
        found = find_kernel({"memory": IMAGE, "stored": Stored(IMAGE), "mapped": mapped}[kind], TARGET, (3, 4), **words)
    assert found.n_pixels == expected.n_pixels
    assert_close(found.kernel, expected.kernel, 1e-11)


@pytest.mark.slow
def test_motions_and_no_shape():
    fit, masked = both(find_kernel, IMAGE, TARGET, (3, 4), hit=HIT, register="shift")
    np.testing.assert_array_equal(fit.kernel, masked.kernel)
    free = kernelfit.find_kernel(IMAGE, TARGET, saturated=ENDS)
    rows, cols = free.kernel.shape
    assert rows >= 3 and cols >= 4 and free.verdict.ok
