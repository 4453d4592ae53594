"""Files of kernels: what goes in comes out again."""

import dataclasses
import json

import numpy as np
import pytest

import kernelfit
from kernelfit.imageio.kernels import SUFFIXES, read_kernel, write_kernel
from kernelfit.imageio.read import ImageFileError

tifffile = pytest.importorskip("tifffile")
fits = pytest.importorskip("astropy.io.fits")

KERNEL = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 5.0, 8.0, 1.0], [0.0, 0.0, 1.0, 0.0]]) / 18


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(20, 230, (39, 47), dtype=np.uint8)


@pytest.fixture(scope="module")
def fit(pixels):
    noise = np.random.default_rng(4).normal(0, 0.5, pixels.shape)
    target = kernelfit.apply_kernel(pixels, KERNEL, operation="correlation") + noise
    return kernelfit.find_kernel(pixels, target, (3, 4), operation="correlation")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kernel_comes_back_to_the_bit(suffix, fit, tmp_path):
    path = tmp_path / f"kernel{suffix}"
    write_kernel(path, fit)
    held = read_kernel(str(path))
    assert held.kernel.dtype == float and held.kernel.tobytes() == np.ascontiguousarray(fit.kernel).tobytes()
    if suffix in (".json", ".fits", ".tif", ".tiff", ".npz"):
        assert held.convention == fit.convention
    else:
        assert held.convention is None
    if suffix in (".json", ".fits", ".npz"):
        assert held.verdict == fit.verdict.value == "solved"
        np.testing.assert_array_equal(held.stderr, fit.stderr)
    else:
        assert held.stderr is None
    with pytest.raises(FileExistsError):
        write_kernel(path, fit)
    write_kernel(path, fit, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("channels, shape", [("separate", (3, 3, 4)), ("mixed", (2, 3, 3, 4)), ("mixed", (1, 1, 3, 4))])
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".fits", ".json", ".npz"])
def test_kernels_of_channels_keep_their_axes(suffix, channels, shape, fit, tmp_path):
    taps = np.random.default_rng(0).normal(size=shape)
    several = dataclasses.replace(fit, kernel=taps, root=None, channels=channels, channel_axis=-1)
    write_kernel(tmp_path / f"k{suffix}", several)
    np.testing.assert_array_equal(read_kernel(str(tmp_path / f"k{suffix}")).kernel, taps)


def test_other_programs_read_the_kernel(fit, tmp_path):
    """Not through our own reader: what NumPy, json, astropy and tifffile make of the files."""
    for suffix in (".csv", ".txt", ".json", ".fits", ".tif"):
        write_kernel(tmp_path / f"k{suffix}", fit)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "k.csv", delimiter=","), fit.kernel)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "k.txt"), fit.kernel)
    fields = json.loads((tmp_path / "k.json").read_text())
    assert fields["kernel"] == fit.kernel.tolist() and fields["stderr"] == fit.stderr.tolist()
    assert fields["convention"]["operation"] == "correlation" and fields["verdict"]["name"] == fit.verdict.name
    with fits.open(tmp_path / "k.fits") as hdus:
        np.testing.assert_array_equal(hdus[0].data, fit.kernel)
        np.testing.assert_array_equal(hdus["ERROR"].data, fit.stderr)
        assert hdus[0].header["KFOPER"] == "correlation"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "k.tif"), fit.kernel)


def test_json_has_no_word_for_infinity(tmp_path):
    flat = np.full((9, 9), 2.0)
    fit = kernelfit.find_kernel(flat, flat, 3)
    write_kernel(tmp_path / "k.json", fit)
    fields = json.loads((tmp_path / "k.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert fields["condition"] is None


def test_a_pickled_kernel_is_refused(tmp_path):
    np.save(tmp_path / "k.npy", np.array([[1.0, None]], dtype=object))
    with pytest.raises(ImageFileError, match="allow_pickle"):
        read_kernel(str(tmp_path / "k.npy"))
