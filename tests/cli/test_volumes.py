"""The commands on volumes: stacks of TIFF pages, arrays of three axes."""

import json
from pathlib import Path

import numpy as np
import pytest

import kernelfit
from helpers import assert_close
from kernelfit.cli import main
from kernelfit.imageio.kernels import read_kernel
from kernelfit.io import ImageFileError, read_volume

tifffile = pytest.importorskip("tifffile")
TAPS = np.random.default_rng(1).uniform(0.1, 1.0, (2, 3, 4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    before = rng.uniform(0, 100, (7, 15, 18)).astype(np.float32)
    after = kernelfit.apply_kernel(before, TAPS, boundary="mirror") + 5 + 0.1 * rng.normal(size=before.shape)
    monkeypatch.chdir(tmp_path)
    np.save("before.npy", before)
    np.save("after.npy", after)
    tifffile.imwrite("before.tif", before, photometric="minisblack")
    tifffile.imwrite("packed.tif", before, photometric="minisblack", compression="deflate")
    tifffile.imwrite("after.tif", after, photometric="minisblack", compression="zlib")
    tifffile.imwrite("imagej.tif", before, imagej=True)
    tifffile.imwrite("swapped.tif", before, photometric="minisblack", byteorder=">")
    np.save("mask.npy", np.arange(18) % 6 == 0 * np.zeros(before.shape))
    return before, after


WORDS = ["--volume", "--shape", "2,3,4", "--boundary", "mirror", "--background", "0"]


def test_bare_numbers_are_a_volume_beside_one(folder, capsys):
    before, after = folder
    fit = kernelfit.find_kernel(before, after, (2, 3, 4), boundary="mirror", background=0)
    fit.save("fit.npz")
    np.save("taps.npy", TAPS)
    for pair in (("fit.npz", "taps.npy"), ("taps.npy", "fit.npz")):
        assert main(["compare", *pair]) == 0
        assert "24 degrees" in capsys.readouterr().out
    np.save("taps.npy", TAPS[::-1])
    assert main(["compare", "fit.npz", "taps.npy"]) == 1


@pytest.mark.slow
def test_find_apply_and_inspect(folder, capsys):
    before, after = folder
    assert main(["find", "before.tif", "after.tif", *WORDS, "-o", "kernel.npz", "--report", "page.html"]) == 0
    said = capsys.readouterr().out
    assert "2 x 3 x 4" in said and "7 x 15 x 18 pixels" in said
    fit = kernelfit.find_kernel(before, after, (2, 3, 4), boundary="mirror", background=0)
    held = read_kernel("kernel.npz")
    assert_close(held.kernel, fit.kernel, 1e-12)
    assert "taps of a volume" in Path("page.html").read_text() and "read_volume(" in Path("page.html").read_text()
    assert main(["apply", "packed.tif", "kernel.npz", "--volume", "-o", "again.npy"]) == 0
    assert_close(np.load("again.npy"), fit.predict(before), 1e-12)
    assert main(["apply", "before.npy", "kernel.npz", "--volume", "-o", "again.tif", "--no-background"]) == 0
    bare = kernelfit.apply_kernel(before, fit.kernel, boundary="mirror")
    assert_close(tifffile.imread("again.tif"), bare, 1e-6)
    mask = np.zeros(before.shape, dtype=np.uint8)
    mask[3, 4, 5] = 1
    np.save("mask.npy", mask)
    words = ["--volume", "--balance", "0.1", "--mask", "mask.npy", "--edges", "fade", "-o", "sharp.npy"]
    assert main(["deconvolve", "after.tif", "kernel.npz", *words]) == 0
    expected = kernelfit.deconvolve(after, fit.kernel, balance=0.1, mask=mask, edges="fade")
    assert_close(np.load("sharp.npy"), expected, 1e-12)
    assert main(["deconvolve", "after.npy", "before.npy", "--volume", "-o", "x.png"]) == 2
    capsys.readouterr()
    assert main(["inspect", "kernel.npz", "--plot", "kernel.png"]) == 0
    assert "2 x 3 x 4" in capsys.readouterr().out
    assert Path("kernel.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "json", "tif", "fits"])
def test_kernels_of_every_kind(folder, kind, capsys):
    if kind == "fits":
        pytest.importorskip("astropy")
    words = [*WORDS, "--mask", "mask.npy", "--solver", "least-squares", "-o", f"kernel.{kind}", "--json"]
    assert main(["find", "before.npy", "after.npy", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    before, after = folder
    mask = np.load("mask.npy") != 0
    fit = kernelfit.find_kernel(before, after, (2, 3, 4), boundary="mirror", background=0, mask=mask)
    assert mask.any() and told["n_pixels"] == fit.n_pixels == (~mask).sum()
    held = read_kernel(f"kernel.{kind}")
    assert_close(held.kernel, fit.kernel, 1e-12)
    assert held.of_volumes
    if kind != "npy":
        assert held.convention == fit.convention
    assert main(["inspect", f"kernel.{kind}"]) == 0
    edge = ["--boundary", "mirror"]
    assert (
        main(
            [
                "apply",
                "before.npy",
                f"kernel.{kind}",
                "--volume",
                *edge,
                "-o",
                "again.fits" if kind == "fits" else "again.npy",
            ]
        )
        == 0
    )
    if kind != "fits":
        assert_close(np.load("again.npy"), fit.predict(before) - fit.background.coefficients[0], 1e-12)


@pytest.mark.parametrize("name", ["before.tif", "packed.tif", "imagej.tif", "swapped.tif", "before.npy"])
def test_volumes_of_files(folder, name):
    before, after = folder
    volume = read_volume(name)
    assert volume.shape == before.shape
    np.testing.assert_array_equal(np.asarray(volume), before)
    np.testing.assert_array_equal(np.asarray(volume[2:5, 3, 1:9:2]), before[2:5, 3, 1:9:2])
    np.testing.assert_array_equal(np.asarray(volume[-1]), before[-1])
    fit = kernelfit.find_kernel(volume, after, (2, 3, 4), boundary="mirror", background=0)
    assert_close(fit.kernel, kernelfit.find_kernel(before, after, (2, 3, 4), boundary="mirror", background=0).kernel)


@pytest.mark.parametrize("store", ["h5py", "zarr"])
def test_volumes_of_stores(folder, store):
    module = pytest.importorskip(store)
    before, after = folder
    if store == "h5py":
        with module.File("pair.h5", "w") as file:
            file.create_dataset("before", data=before, chunks=(3, 8, 8))
        volume = read_volume("pair.h5", dataset="before")
    else:
        made = module.create_array("pair.zarr", shape=before.shape, chunks=(3, 8, 8), dtype=before.dtype)
        made[...] = before
        volume = read_volume("pair.zarr")
    fit = kernelfit.find_kernel(volume, after, (2, 3, 4), boundary="mirror", method="fft")
    assert_close(fit.kernel, kernelfit.find_kernel(before, after, (2, 3, 4), boundary="mirror").kernel, 1e-9)


@pytest.mark.parametrize("words, told", [
    (["--volume"], "three numbers"), (["--volume", "--shape", "2,3"], "--shape of 2 numbers"),
    (["--shape", "2,3,4"], "need --volume"), ([*WORDS, "--page", "1"], "got --page with --volume"),
    ([*WORDS, "--channels", "shared"], "got --channels with --volume"),
    (["--volume", "--shape", "2,3,4,5"], "need one whole number"),
], ids=str)  # fmt: skip
def test_refusals(folder, words, told, capsys):
    assert main(["find", "before.npy", "after.npy", *words]) == 2
    assert told in capsys.readouterr().err


def test_files_that_are_no_volumes(folder, capsys):
    tifffile.imwrite("colours.tif", np.zeros((3, 9, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite("one.tif", np.zeros((9, 9), np.uint8))
    np.save("flat.npy", np.zeros((9, 9)))
    for name in ("colours.tif", "one.tif", "flat.npy"):
        with pytest.raises(ImageFileError, match="need"):
            read_volume(name)
    data = Path("packed.tif").read_bytes()
    Path("cut.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises((ImageFileError, OSError)):
        np.asarray(read_volume("cut.tif"))
    assert main(["find", "before.tif", "after.tif", "--shape", "3"]) == 2
    assert "7 planes" in capsys.readouterr().err
    assert main(["apply", "before.npy", "after.npy", "--volume", "-o", "x.png"]) == 2
