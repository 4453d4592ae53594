"""Kernels that vary over the image, and backgrounds, on the command line; their pictures."""

import json

import numpy as np
import pytest

import kernelfit
from kernelfit.cli import parser

SHAPE = (50, 64)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    image = rng.normal(10, 3, SHAPE)
    target = kernelfit.apply_kernel(image * np.linspace(1, 2, 64), np.full((3, 4), 1 / 12), boundary="symm")
    target += 7 + np.linspace(-1, 1, 50)[:, None] + rng.normal(0, 0.01, SHAPE)
    np.save("image.npy", image)
    np.save("target.npy", target)
    return image, target


def run(capsys, *argv):
    code = parser.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_find_and_apply(pair, capsys):
    image, target = pair
    find = ("find", "image.npy", "target.npy", "--shape", "3,4", "--background", "1")
    code, out, _ = run(capsys, *find, "--variation", "1", "-o", "kernel.npz")
    assert code == 0 and "varying as a polynomial of degree 1" in out
    fit = kernelfit.KernelFit.load("kernel.npz")
    same = kernelfit.find_kernel(image, target, (3, 4), background=1, variation=1, solver="auto")
    assert np.array_equal(fit.kernel, same.kernel)
    assert run(capsys, "apply", "image.npy", "kernel.npz", "-o", "all.npy")[0] == 0
    assert np.abs(np.load("all.npy") - target)[2:-2, 2:-2].max() < 0.1
    assert run(capsys, "apply", "image.npy", "kernel.npz", "--no-background", "-o", "bare.npy")[0] == 0
    assert np.allclose(np.load("all.npy") - np.load("bare.npy"), fit.background.image())
    code, out, _ = run(capsys, *find, "--variation", "auto", "--json")
    found = json.loads(out)
    assert found["convention"]["field"]["variation"]["degree"] == 1 and "variation='auto'" in found["python"]


@pytest.mark.slow
def test_backgrounds_files_and_what_is_refused(pair, capsys):
    image, _ = pair
    find = ("find", "image.npy", "target.npy", "--shape", "3,4", "--background")
    assert run(capsys, *find, "0", "-o", "flat.npz")[0] in (0, 1)
    flat = kernelfit.KernelFit.load("flat.npz").background.coefficients
    np.save("part.npy", image[:30])
    for more, shift in (((), float(flat[0])), (("--no-background",), 0.0)):
        assert run(capsys, "apply", "part.npy", "flat.npz", "--force", "-o", "part_made.npy", *more)[0] == 0
        bare = kernelfit.apply_kernel(image[:30], kernelfit.KernelFit.load("flat.npz").kernel, boundary="symm")
        assert np.allclose(np.load("part_made.npy") - bare, shift)
    assert run(capsys, *find, "1", "-o", "plane.npz")[0] in (0, 1)
    assert "of another image" in run(capsys, "apply", "part.npy", "plane.npz", "-o", "p.npy")[2]
    for name in ("kernel.json", "kernel.npz", "kernel.tif"):
        assert run(capsys, *find, "1", "--variation", "1", "-o", name)[0] == 0
        assert "varying" in run(capsys, "inspect", name)[1]
    code, _, err = run(capsys, *find, "1", "--variation", "1", "-o", "kernel.fits")
    assert code == 2 and "write .npz or .json" in err
    code, _, err = run(capsys, "deconvolve", "target.npy", "kernel.npz", "-o", "d.npy")
    assert code == 2 and "varies over the image" in err
    assert run(capsys, "apply", "part.npy", "kernel.npz", "-o", "q.npy")[0] == 2


@pytest.mark.slow
def test_pictures(pair):
    pytest.importorskip("matplotlib")
    image, target = pair
    y, x = np.mgrid[-3:4, -4:5]
    bump = np.exp(-(y**2 + x**2 / 2) / 4) / 20
    target = kernelfit.apply_kernel(image * np.linspace(1, 2, 64), bump) + np.random.default_rng(1).normal(
        0, 0.01, SHAPE
    )
    fit = kernelfit.find_kernel(image, target, (7, 9), variation=1)
    ax = kernelfit.plot.kernel_grid(fit)
    assert ax.get_images()[0].get_array().shape == (5 * 8 - 1, 5 * 10 - 1)
    assert "flux" in kernelfit.plot.flux_map(fit).get_title()
    assert "ellipticity" in kernelfit.plot.width_map(fit).get_title()
    assert len(fit.plot().axes) >= 6 and len(fit.plot(image, target).axes) >= 9
    page = kernelfit.report.report_html(fit, image, target)
    assert page.count("over the field") >= 3
    with pytest.raises(ValueError, match="need one that varies"):
        kernelfit.plot.flux_map(kernelfit.find_kernel(image, target, (7, 9)))
