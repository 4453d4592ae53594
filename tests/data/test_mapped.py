"""A file that is cut while its pixels are mapped is an error, where the process would die of it."""

import subprocess
import sys

import numpy as np
import pytest

import kernelfit
from kernelfit.data import reader as mapped

CODE = """
import os, sys, numpy as np, kernelfit
from kernelfit import io
how, name = sys.argv[1:]
image = io.read_image(name) if how != "own" else np.load(name, mmap_mode="r")[3:, ::2]
whole = os.path.getsize(name)
target, taps = np.ones(image.shape), np.ones((2, 3))
def cut(*_): os.truncate(name, whole // 3)
def door():
    if how == "later":
        return kernelfit.accumulate(image, target, (3, 5), saturated=None, progress=cut, method="fft", workers=1)
    cut()
    if how == "apply":
        return kernelfit.apply_kernel(image, taps)
    if how == "deconvolve":
        return kernelfit.deconvolve(image, taps)
    if how == "channels":
        return kernelfit.find_kernel(image[..., None], target[..., None], (3, 5), channel_axis=-1)
    return kernelfit.find_kernel(image, target, (3, 5))
try:
    door()
except ValueError as error:
    print(error)
"""


SLOW = [pytest.param(how, marks=pytest.mark.slow) for how in ("find", "own", "apply", "deconvolve", "channels", "fits")]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["later", *SLOW])
def test_a_file_cut_after_it_was_opened(tmp_path, how):
    image = np.random.default_rng(0).random((1500, 1700) if how == "later" else (310, 290))
    name = tmp_path / ("a.fits" if how == "fits" else "a.npy")
    if how == "fits":
        pytest.importorskip("astropy.io.fits").writeto(name, image)
    else:
        np.save(name, image)
    done = subprocess.run([sys.executable, "-c", CODE, how, str(name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "has been cut to" in done.stdout


def test_what_is_mapped_reads_as_it_is(tmp_path):
    image = np.random.default_rng(0).random((31, 47))
    np.save(tmp_path / "a.npy", np.asfortranarray(image))
    stored = np.load(tmp_path / "a.npy", mmap_mode="r")
    view = mapped.plain(stored)
    assert isinstance(view, mapped.Mapped) and type(view[2:5]) is np.ndarray and view[3, 4] == image[3, 4]
    assert type(mapped.plain(np.ma.masked_array(image))) is np.ndarray
    fit = kernelfit.find_kernel(stored, image, (3, 5))
    assert np.array_equal(fit.kernel, kernelfit.find_kernel(image, image, (3, 5)).kernel)
    with open(tmp_path / "raw", "wb") as file:
        file.write(b"x" * 70000 + image.tobytes())
    part = np.memmap(tmp_path / "raw", mode="r", offset=70000, shape=image.shape)  # past the first pages
    assert mapped.plain(part)._end == 70000 + part.nbytes
