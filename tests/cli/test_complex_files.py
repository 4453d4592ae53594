"""Complex images and signals on the command line."""

import json

import numpy as np
import pytest

import kernelfit
from helpers import assert_close
from kernelfit.cli import parser
from kernelfit.imageio import kernels


def normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    image, kernel = normal(rng, 30, 41), normal(rng, 2, 3)
    np.save("image.npy", image)
    np.save("target.npy", kernelfit.apply_kernel(image, kernel, boundary="wrap") + 0.1 * normal(rng, 30, 41))
    sent = normal(rng, 300)
    np.save("sent.npy", sent)
    np.savetxt("sent.csv", sent, fmt="%.17g%+.17gj")
    np.save("got.npy", np.convolve(sent, [1, 0.5j, 0.2 - 0.3j])[:300] + 0.1 * normal(rng, 300))
    return tmp_path


def run(capsys, *argv):
    code = parser.main(list(argv))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.slow
def test_kernels_are_kept_in_files(folder, capsys):
    image, target = np.load("image.npy"), np.load("target.npy")
    call = ["find", "image.npy", "target.npy", "--shape", "2,3", "--boundary", "wrap", "--solver", "least-squares"]
    fit = kernelfit.find_kernel(image, target, (2, 3), boundary="wrap")
    for name in ("k.npz", "k.npy", "k.json", "k.csv", "k.txt"):
        said = run(capsys, *call, "-o", name)
        assert "modulus" in said and "phase" in said
        held = kernels.read_kernel(name)
        assert_close(held.kernel, fit.kernel)
        if name.endswith(("npz", "json")):
            assert_close(held.stderr, fit.stderr)
            assert_close(held.as_fit().stderr, fit.stderr)
            assert held.convention == fit.convention
        assert list(held.planes()) == ["real part", "imaginary part"]
        run(capsys, "apply", "image.npy", name, "--boundary", "wrap", "-o", "made.npy", "--force")
        assert_close(np.load("made.npy"), kernelfit.apply_kernel(image, fit.kernel, boundary="wrap"))
    assert "imaginary part" in run(capsys, "inspect", "k.npz")
    run(capsys, "deconvolve", "target.npy", "k.npz", "--boundary", "wrap", "--balance", "0.01", "-o", "back.npy")
    assert_close(np.load("back.npy"), kernelfit.deconvolve(target, fit.kernel, boundary="wrap", balance=0.01))
    told = json.loads(run(capsys, *call, "--json"))
    assert told["kernel"][1][2] == {"real": fit.kernel[1, 2].real, "imag": fit.kernel[1, 2].imag}


def test_signals(folder, capsys):
    said = run(capsys, "find", "sent.csv", "got.npy", "--lags", "0,3", "-o", "h.csv")
    assert "complex samples" in said
    found = kernels.read_kernel("h.csv").kernel
    assert_close(found.ravel(), [1, 0.5j, 0.2 - 0.3j, 0], 0.05)


@pytest.mark.slow
def test_pictures_and_the_report(folder, capsys):
    pytest.importorskip("matplotlib")
    for pair in (("image.npy", "target.npy", "--shape", "2,3"), ("sent.npy", "got.npy", "--lags", "0,3")):
        run(capsys, "find", *pair, "--report", "page.html", "--force")
        page = (folder / "page.html").read_text()
        for name in ("Modulus", "Phase", "Residual"):
            assert f'<img alt="{name}"' in page
    image, target = np.load("image.npy"), np.load("target.npy")
    fit = kernelfit.find_kernel(image, target, (2, 3), boundary="wrap")
    figure = fit.plot(image, target)
    titles = [ax.get_title() for ax in figure.axes]
    assert any(title.startswith("modulus, up to") for title in titles) and "phase, where it is known" in titles
    (shown,) = [ax for ax in figure.axes if ax.get_title().startswith("phase")]
    assert_close(shown.images[0].get_array(), np.angle(fit.kernel, deg=True))
    several = np.stack([image, image[::-1]])
    mixed = kernelfit.find_kernel(several, target[None], (2, 3), boundary="wrap", channels="mixed", channel_axis=0)
    figure = mixed.plot(several, target[None])
    assert sum("modulus" in ax.get_title() for ax in figure.axes) == 2
