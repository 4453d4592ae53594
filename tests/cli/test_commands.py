"""The commands beyond `find`, and the files they read and write: what goes in comes out again."""

import contextlib
import io as std_io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import convolve2d

import kernelfit
from helpers import ENVIRONMENT, grid
from kernelfit.cli import parser
from kernelfit.cli.options import CHANNELS
from kernelfit.imageio import write
from kernelfit.imageio.kernels import read_kernel, write_kernel
from kernelfit.imageio.read import read_image

cv2 = pytest.importorskip("cv2")
h5py = pytest.importorskip("h5py")
tifffile = pytest.importorskip("tifffile")
Image = pytest.importorskip("PIL.Image")

KERNEL = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 5.0, 8.0, 1.0], [0.0, 0.0, 1.0, 0.0]]) / 18


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(20, 230, (39, 47), dtype=np.uint8)


@pytest.fixture(scope="module")
def fit(pixels):
    target = convolve2d(pixels, KERNEL, mode="same") + np.random.default_rng(4).normal(0, 0.5, pixels.shape)
    return kernelfit.find_kernel(pixels, target, (3, 4), operation="correlation")


@pytest.fixture
def folder(tmp_path, monkeypatch, pixels, fit):
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", pixels)
    Image.fromarray(pixels).save("image.png")
    rng = np.random.default_rng(4)
    np.save("target.npy", convolve2d(pixels, KERNEL, mode="same") + rng.normal(0, 0.5, pixels.shape))
    fit.save("fit.npz")
    np.savetxt("kernel.csv", KERNEL, delimiter=",", fmt="%.17g")
    return tmp_path


def run(capsys, *argv):
    code = parser.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_a_channel_of_one_file_and_a_gray_other(folder, pixels, capsys):
    colour = np.dstack([pixels, pixels[::-1], pixels[:, ::-1]])
    Image.fromarray(colour).save("colour.png")
    luma = colour @ [0.299, 0.587, 0.114]
    np.save("gray.npy", convolve2d(luma, KERNEL, mode="same"))
    start = "find colour.png gray.npy --solver least-squares --json".split()
    code, out, err = run(capsys, *start, "--shape", "3,4", "--channel", "luma")
    fields = json.loads(out)
    assert (code, err) == (0, "")
    np.testing.assert_allclose(fields["kernel"], KERNEL, atol=1e-9)
    names = {}
    with contextlib.redirect_stdout(std_io.StringIO()):
        exec(fields["python"], names)
    np.testing.assert_array_equal(names["fit"].kernel, fields["kernel"])
    code, out, _ = run(capsys, *start, "--shape", "3,4", "--channels", "mixed")  # the weights are found, too
    expected = np.array([0.299, 0.587, 0.114])[:, None, None] * KERNEL
    np.testing.assert_allclose(json.loads(out)["kernel"], expected[None], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("between", [" ", "="])
def test_a_value_may_begin_with_a_minus(folder, capsys, between):
    rng = np.random.default_rng(12)
    image = rng.normal(size=(50, 61))
    after = np.clip(convolve2d(image, np.array([[0.5, 0.2, -0.1]]), mode="same"), -0.7, 0.8)
    np.save("image.npy", image)
    np.save("after.npy", after)
    call = f"find image.npy after.npy --shape 1,3 --json --saturated{between}-0.7,0.8"
    _, out, err = run(capsys, *call.split())
    fields = json.loads(out)
    inside = after[:, 1:-1]  # no boundary was declared
    assert err == "" and fields["n_pixels"] == np.count_nonzero((inside > -0.7) & (inside < 0.8))
    np.testing.assert_allclose(fields["kernel"], [[0.5, 0.2, -0.1]], atol=1e-12)


@pytest.mark.slow
def test_luma_leaves_out_what_is_saturated_in_any_colour(folder, capsys):
    colour = np.random.default_rng(8).integers(0, 256, (60, 71, 3), dtype=np.uint8)
    taps = np.array([[0.0, -1.0, 0.0], [0.3, 2.0, -0.3]])
    planes = [convolve2d(colour[..., c].astype(float), taps, mode="same") for c in range(3)]
    after = np.clip(np.rint(np.dstack(planes)), 0, 255).astype(np.uint8)
    assert 0.05 < ((after > 0) & (after < 255)).all(axis=-1).mean() < 0.5
    Image.fromarray(colour).save("a.png")
    Image.fromarray(after).save("b.png")
    Image.fromarray((np.arange(71) < 5) * np.full((60, 1), 255, np.uint8)).save("bad.png")
    for options in ("", " --mask bad.png", " --saturated 0,255", " --saturated ,255"):
        call = f"find a.png b.png --shape 2,3 --channel luma --solver least-squares --json{options}"
        code, out, err = run(capsys, *call.split())
        fields = json.loads(out)
        assert (code, err) == (0, "") or options.endswith(",255")
        low = 0 if options != " --saturated ,255" else -1
        expected = ((after > low) & (after < 255)).all(axis=-1)[:, (5 if "mask" in options else 1) : -1][1:]
        assert fields["n_pixels"] == np.count_nonzero(expected)
        assert np.allclose(fields["kernel"], taps, atol=0.01) == (low == 0)
        names = {}
        with contextlib.redirect_stdout(std_io.StringIO()):
            exec(fields["python"], names)
        np.testing.assert_array_equal(names["fit"].kernel, fields["kernel"])
    _, out, _ = run(capsys, *"find a.png b.png --shape 2,3 --channel luma".split())
    assert "of a saturated colour, and so masked" in out
    _, out, _ = run(capsys, *"find a.png b.png --shape 2,3 --channel luma --saturated none".split())
    assert "saturated colour" not in out
    after[after > 0] = 255
    Image.fromarray(after).save("b.png")
    _, out, _ = run(capsys, *"find a.png b.png --shape 2,3 --channel luma".split())
    assert "of a saturated colour; they are used, being nearly all of it" in out


# ---- apply and deconvolve --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", write.IMAGE_SUFFIXES)
def test_apply_writes_each_format(suffix, folder, pixels, capsys):
    code, out, err = run(capsys, "apply", "image.png", "kernel.csv", "--boundary", "mirror", "-o", f"out{suffix}")
    assert (code, err) == (0, "") and "39 x 47 pixels, boundary mirror" in out
    made = np.asarray(read_image(f"out{suffix}"), dtype=float)
    expected = kernelfit.apply_kernel(pixels, KERNEL, boundary="mirror")
    atol = {".png": 0.5, ".jpg": 12, ".jpeg": 12, ".tif": 1e-4, ".tiff": 1e-4}.get(suffix, 1e-12)
    np.testing.assert_allclose(made, expected, atol=atol + 1e-9)


def test_apply_takes_the_convention_of_the_file_unless_told(folder, pixels, fit, capsys):
    run(capsys, "apply", "image.npy", "fit.npz", "--boundary", "wrap", "-o", "a.npy")
    words = {"operation": "correlation", "origin": fit.convention.origin, "boundary": "wrap"}
    np.testing.assert_array_equal(np.load("a.npy"), kernelfit.apply_kernel(pixels, fit.kernel, **words))
    run(capsys, "apply", "image.npy", "fit.npz", "--operation", "convolution", "--origin", "0,1", "-o", "b.npy")
    words = {"operation": "convolution", "origin": (0, 1), "boundary": "symm"}
    np.testing.assert_array_equal(np.load("b.npy"), kernelfit.apply_kernel(pixels, fit.kernel, **words))
    run(capsys, "apply", "image.npy", "kernel.csv", "--mode", "full", "--boundary", "fill", "--fillvalue", "7", "-o",
        "c.npy")  # fmt: skip
    np.testing.assert_allclose(np.load("c.npy"), convolve2d(pixels, KERNEL, boundary="fill", fillvalue=7), atol=1e-10)


def test_what_is_cut_off_is_said(folder, pixels, capsys):
    np.savetxt("bright.csv", [[2.0]], delimiter=",")
    code, out, _ = run(capsys, "apply", "image.png", "bright.csv", "-o", "out.png")
    cut = int((2 * pixels.astype(int) > 255).sum())
    assert code == 0 and f"{cut} of {pixels.size} values" in out
    np.testing.assert_array_equal(read_image("out.png"), np.minimum(2 * pixels.astype(int), 255))


def test_sixteen_bits_stay_sixteen(folder, pixels, capsys):
    Image.fromarray(pixels.astype(np.uint16) * 200).save("deep.png")
    np.savetxt("same.csv", [[1.0]], delimiter=",")
    run(capsys, "apply", "deep.png", "same.csv", "-o", "out.png")
    np.testing.assert_array_equal(read_image("out.png"), pixels.astype(int) * 200)
    np.save("wide.npy", pixels.astype(np.float32) * 200)
    run(capsys, "apply", "wide.npy", "same.csv", "-o", "wide.png")
    np.testing.assert_array_equal(read_image("wide.png"), pixels.astype(int) * 200)


@pytest.mark.parametrize("n_channels", [2, 3, 4])
def test_sixteen_bits_stay_sixteen_in_colour(n_channels, folder, pixels, capsys):
    colour = np.dstack([pixels, pixels[::-1], pixels[:, ::-1], np.full_like(pixels, 255)])[..., -n_channels:]
    tifffile.imwrite("deep.tif", colour.astype(np.uint16) * 257, photometric="rgb" if n_channels > 2 else None)
    np.savetxt("same.csv", [[1.0]], delimiter=",")
    code, out, err = run(capsys, "apply", "deep.tif", "same.csv", "-o", "out.png")
    assert (code, err) == (0, "") and "cut off" not in out
    np.testing.assert_array_equal(read_image("out.png", colours=True), colour.astype(int) * 257)
    if n_channels > 2:
        np.testing.assert_array_equal(cv2.imread("out.png", -1)[..., :3], colour[..., 2::-1].astype(int) * 257)


def test_colours_are_treated_one_by_one_and_alpha_left_alone(folder, pixels, capsys):
    colour = np.dstack([pixels, pixels // 2, pixels // 3, np.full_like(pixels, 200)])
    Image.fromarray(colour).save("colour.png")
    assert run(capsys, "apply", "colour.png", "kernel.csv", "--boundary", "nearest", "-o", "out.npy")[0] == 0
    made = np.load("out.npy")
    for at in range(3):
        np.testing.assert_array_equal(
            made[..., at], kernelfit.apply_kernel(colour[..., at], KERNEL, boundary="nearest")
        )
    np.testing.assert_array_equal(made[..., 3], 200)
    assert run(capsys, "deconvolve", "colour.png", "kernel.csv", "-o", "out.png")[0] == 0
    assert read_image("out.png", colours=True).shape == colour.shape


def test_stored_arrays_are_deconvolved_as_others_are(folder, pixels, capsys):
    with h5py.File("d.h5", "w") as file:
        file.create_dataset("after", data=pixels, chunks=(16, 16))
    run(capsys, "deconvolve", "image.npy", "kernel.csv", "-o", "a.npy")
    code, _, err = run(capsys, "deconvolve", "d.h5", "kernel.csv", "--dataset", "/after", "-o", "b.npy")
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))


def test_deconvolve_is_the_packages_own(folder, pixels, fit, capsys):
    options = "--balance 0.01 --penalty identity --boundary wrap -o out.npy"
    run(capsys, "deconvolve", "image.npy", "fit.npz", *options.split())
    words = {"operation": "correlation", "origin": fit.convention.origin, "boundary": "wrap"}
    expected = kernelfit.deconvolve(pixels, fit.kernel, balance=0.01, penalty="identity", **words)
    np.testing.assert_array_equal(np.load("out.npy"), expected)


def test_deconvolve_leaves_dead_pixels_out(folder, pixels, fit, capsys):
    dead = np.zeros(pixels.shape, dtype=np.uint8)
    dead[:, 5] = 255
    Image.fromarray(dead).save("dead.png")
    spoilt = np.where(dead, np.nan, pixels)
    spoilt[3, 4] = np.nan
    np.save("spoilt.npy", spoilt)
    assert run(capsys, "deconvolve", "spoilt.npy", "fit.npz", *"--mask dead.png --nan mask -o out.npy".split())[0] == 0
    words = {"operation": "correlation", "origin": fit.convention.origin}
    expected = kernelfit.deconvolve(spoilt, fit.kernel, nan="mask", **words)
    np.testing.assert_array_equal(np.load("out.npy"), expected)
    np.save("spoilt.npy", np.where(dead, 5000.0, pixels))
    code, _, err = run(capsys, "deconvolve", "spoilt.npy", "fit.npz", *"--edges fade -o out.npy --force".split())
    assert code == 0 and "kernelfit: column 5 of the target is 5000 throughout" in err and "Warning" not in err


@pytest.mark.slow
@grid("suffix", [".npz", ".npy", ".json", ".fits", ".tif"], 5)
def test_kernels_of_several_channels_are_used_one_by_one(suffix, folder, pixels, capsys):
    colour = np.dstack([pixels, pixels[::-1], pixels[:, ::-1]])
    after = np.dstack([convolve2d(colour[..., c], KERNEL * (c + 1), mode="same", boundary="symm") for c in range(3)])
    np.save("colour.npy", colour)
    np.save("after.npy", after + np.random.default_rng(5).normal(0, 0.1, after.shape))
    options = f"--shape 3,4 --channels separate --solver least-squares --boundary symm -o k{suffix}".split()
    assert run(capsys, "find", "colour.npy", "after.npy", *options)[0] == 0
    code, out, _ = run(capsys, "inspect", f"k{suffix}", "--plot", "k.png")
    assert code == 0 and all(f"channel {c}:" in out for c in range(3)) and out.count("FWHM along") == 3
    code, out, _ = run(capsys, "compare", f"k{suffix}", f"k{suffix}")
    assert code == 0 and out.count("verdict") == 3
    assert run(capsys, "apply", "colour.npy", f"k{suffix}", "--boundary", "symm", "-o", "again.npy")[0] == 0
    np.testing.assert_allclose(np.load("again.npy"), after, atol=0.5)
    assert run(capsys, "deconvolve", "after.npy", f"k{suffix}", "-o", "sharp.npy")[0] == 0
    kernel = read_kernel(f"k{suffix}")
    words = {} if kernel.convention is None else {"origin": kernel.convention.origin}
    expected = kernelfit.deconvolve(np.load("after.npy")[..., 1], kernel.kernel[1], **words)
    np.testing.assert_array_equal(np.load("sharp.npy")[..., 1], expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("n_colours", [1, 3])
def test_kernels_found_of_images_with_alpha_are_applied_to_them(n_colours, channels, folder, pixels, capsys):
    colours = np.dstack([pixels, pixels[::-1], pixels[:, ::-1]])[..., :n_colours]
    Image.fromarray(np.dstack([colours, np.full_like(pixels, 200)])).save("a.png")
    call = "find a.png a.png --shape 1,2 --boundary symm --solver least-squares --channels"
    assert run(capsys, *call.split(), channels, "-o", "k.npz")[0] < 2
    code, out, err = run(capsys, "apply", "a.png", "k.npz", "-o", "out.png")
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(read_image("out.png", colours=True), read_image("a.png", colours=True))
    code, out, err = run(capsys, "apply", "a.png", "k.npz", "--mode", "valid", "-o", "out.npy")
    assert (code, err) == (0, "") and np.load("out.npy").shape[:2] == (39, 46)


def test_a_gray_target_of_colours_is_one_plane(folder, pixels, capsys):
    colour = np.dstack([pixels, pixels[::-1], pixels[:, ::-1], np.full_like(pixels, 200)])
    Image.fromarray(colour).save("a.png")
    np.save("k.npy", np.array([0.25, 0.5, 0.25])[None, :, None, None])
    assert run(capsys, "apply", "a.png", "k.npy", "-o", "out.tif")[0] == 0
    np.testing.assert_allclose(read_image("out.tif", channel=0), colour[..., :3] @ [0.25, 0.5, 0.25])
    np.testing.assert_array_equal(read_image("out.tif", channel="alpha"), 200)


def test_mixed_kernels_are_applied_together(folder, pixels, capsys):
    colour = np.dstack([pixels, pixels[::-1]])
    np.save("colour.npy", colour)
    kernels = np.random.default_rng(6).normal(size=(2, 2, 3, 5))
    np.save("k.npy", kernels)
    assert run(capsys, "apply", "colour.npy", "k.npy", "--boundary", "wrap", "-o", "out.npy")[0] == 0
    expected = kernelfit.apply_kernel(colour, kernels, boundary="wrap", channel_axis=-1)
    np.testing.assert_array_equal(np.load("out.npy"), expected)


# ---- export ----------------------------------------------------------------------------------------------------------


def test_export_writes_what_runs_elsewhere(folder, pixels, fit, capsys):
    code, out, _ = run(capsys, "export", "fit.npz", "--to", "scipy")
    assert code == 0 and "def apply(image)" in out
    code, out, _ = run(capsys, "export", "fit.npz", "--to", "opencv", "-o", "apply.py")
    space = {}
    exec((folder / "apply.py").read_text(), space)
    inside = np.s_[3:-3, 4:-4]
    np.testing.assert_allclose(space["apply"](pixels)[inside], fit.predict(pixels)[inside], atol=1e-9)
    code, out, _ = run(capsys, "export", "kernel.csv", "--to", "latex")
    assert code == 0 and "bmatrix" in out
    for words, said in [
        (("fit.npz", "--to", "paint"), "need one of"),
        (("fit.npz", "--to", "scipy", "-o", "apply.py"), "--force"),
        (("fit.npz", "--to", "scipy", "-o", "apply.sh"), ".py"),
        (("fit.npz", "--to", "scipy", "--plane", "red"), "one kernel"),
        (("fit.npz",), "--to"),
        (("fit.npz", "--to", "imagemagick", "-o", "fit.npz"), "fit.npz"),
    ]:
        code, out, err = run(capsys, "export", *words)
        assert code == 2 and said in err and len(err.splitlines()) == 1, (words, err)


# ---- inspect and compare ---------------------------------------------------------------------------------------------


def test_inspect_says_what_is_there(folder, fit, capsys):
    code, out, _ = run(capsys, "inspect", "fit.npz")
    assert code == 0 and fit.summary() in out and str(fit.psf()) in out
    code, out, _ = run(capsys, "inspect", "kernel.csv")
    assert code == 0 and "3 x 4" in out and "not in the file" in out and "none in the file" in out
    assert str(kernelfit.measure_psf(KERNEL)) in out


@pytest.mark.slow
def test_inspect_for_machines_and_as_a_picture(folder, fit, capsys):
    _, out, _ = run(capsys, "inspect", "fit.npz", "--json", "--plot", "a.png")
    fields = json.loads(out)
    assert fields["kernel"] == fit.kernel.tolist() and fields["convention"]["operation"] == "correlation"
    assert fields["psf"] == fit.psf().to_dict()
    assert run(capsys, "inspect", "kernel.csv", "--plot", "b.png")[0] == 0
    for name in ("a.png", "b.png"):
        with Image.open(name) as picture:
            assert picture.width > 400 and len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_compare_says_whether_two_kernels_differ(folder, fit, capsys):
    code, out, _ = run(capsys, "compare", "fit.npz", "fit.npz")
    assert code == 0 and "no difference" in out
    np.savetxt("other.csv", KERNEL + 0.01, delimiter=",")
    code, out, _ = run(capsys, "compare", "kernel.csv", "other.csv")
    assert code == 1 and "differ by more than rounding" in out
    write_kernel(folder / "fit.json", fit)
    code, out, _ = run(capsys, "compare", "fit.json", "other.csv", "--json")
    fields = json.loads(out)
    assert code == 1 and fields["differ"] and fields["p_value"] < 1e-3 and fields["freedom"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernel.html", "kernel.csv.gz"])
def test_a_kernel_of_another_format_is_asked_for_as_a_kernel(name, folder, capsys):
    Path(name).write_bytes(b"<html></html>")
    code, _, err = run(capsys, "apply", "image.png", name, "-o", "out.png")
    assert code == 2 and "need a kernel's numbers, one of .npy, .csv" in err and "PNG, JPEG" not in err


@pytest.mark.parametrize("command", [("subtract", "-o", "out.npy"), ("psf",), ("audit", "kernel.csv")])
def test_colours_are_refused_with_the_options_that_there_are(command, folder, pixels, capsys):
    Image.fromarray(np.stack([pixels] * 3, -1)).save("rgb.png")
    Image.merge("LA", [Image.fromarray(pixels)] * 2).save("alpha.png")
    verb, *rest = command
    for name, channel in (("rgb", "green or luma"), ("alpha", "luma")):
        pair = [f"{name}.png", "--target", "image.png"] if verb == "psf" else [f"{name}.png", "image.png"]
        code, _, err = run(capsys, verb, *pair, *rest)
        assert code == 2 and f"choose a channel (--channel {channel})" in err and "channel_axis" not in err


def test_audit_says_whether_a_kernel_explains_a_pair(folder, capsys):
    code, out, err = run(capsys, "audit", "image.npy", "target.npy", "kernel.csv")
    assert (code, err) == (0, "") and "as it is given" in out and "shift down" in out
    code, out, _ = run(capsys, "audit", "image.png", "target.npy", "kernel.csv", "--json")
    fields = json.loads(out)
    assert code == 0 and fields["explains"] and fields["kernel_file"] == "kernel.csv"
    code, out, _ = run(capsys, "audit", "image.npy", "target.npy", "kernel.csv", "--operation", "correlation")
    assert code == 1 and "turned by 180 degrees" in out
    code, out, err = run(capsys, "audit", "-", "target.npy", "-")
    assert code == 2 and out == "" and "got - more than once" in err


@pytest.mark.slow
def test_psf_of_a_printed_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 2, (96, 96))
    fine = np.pad(np.kron(pattern, np.ones((2, 2))), 24, constant_values=1)
    blurred = convolve2d(fine, np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256, mode="same", boundary="symm")
    capture = 30 + 150 * blurred[::4, ::4] + rng.normal(0, 0.5, (60, 60))
    Path("capture.pgm").write_bytes(b"P5\n# a camera\n60 60\n255\n" + np.rint(capture).astype(np.uint8).tobytes())
    Image.fromarray((255 * pattern).astype(np.uint8)).save("pattern.png")
    corners = "5.875,5.875,5.875,53.875,53.875,53.875,53.875,5.875"
    call = ("psf", "capture.pgm", "--target", "pattern.png", "--corners", corners, "--shape", "13")
    code, out, err = run(capsys, *call, "-o", "k.npz", "--plot", "k.png")
    assert code < 2 and err == "" and "FWHM" in out and "kernel written to k.npz" in out
    assert read_kernel("k.npz").convention.stride == (4, 4) and Path("k.png").exists()
    code, out, _ = run(capsys, *call, "--solver", "non-negative", "--json")
    assert code < 2 and json.loads(out)["oversample"] == 4
    code, _, err = run(capsys, *call[:-4], "--corners", "1,2,3")
    assert code == 2 and "eight" in err


# ---- find: JSON, pipes, the report's code ----------------------------------------------------------------------------


@pytest.mark.slow
def test_json_of_find(folder, capsys):
    code, out, err = run(capsys, "find", "image.npy", "target.npy", "--shape", "3,4", "--json")
    fields = json.loads(out)
    fit = kernelfit.find_kernel(np.load("image.npy"), np.load("target.npy"), (3, 4), solver="auto")
    assert (code, err) == (0, "")
    assert fields["kernel"] == fit.kernel.tolist() and fields["stderr"] == fit.stderr.tolist()
    assert fields["verdict"] == {"name": "SOLVED", "ok": True, "text": "solved"}
    assert fields["psf"]["sum"]["value"] == fit.psf().sum.value


@pytest.mark.slow
def test_code_of_the_report_reproduces_the_kernel(folder, pixels, capsys):
    np.save("stack.npy", np.stack([pixels, pixels[::-1]]))
    options = (
        "--shape 3,4 --boundary symm --operation correlation --origin 2,1 --solver ridge --strength 0.001 --page 1"
    )
    options += " --report report.html -o kernel.npy"
    np.save("stack2.npy", np.stack([np.load("target.npy")] * 2))
    code, _, err = run(capsys, "find", "stack.npy", "stack2.npy", *options.split())
    assert code < 2 and err == ""
    page = Path("report.html").read_text()
    call = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1].replace("&#x27;", "'").replace("&quot;", '"')
    names = {}
    with contextlib.redirect_stdout(std_io.StringIO()):
        exec(call, names)
    assert names["fit"].kernel.tobytes() == np.load("kernel.npy").tobytes()


@pytest.mark.slow
@grid("channels", CHANNELS, 3)
def test_colours_and_background(channels, folder, pixels, capsys):
    colour = np.dstack([pixels, np.roll(pixels, 7, axis=0), pixels[::-1, ::-1], np.full_like(pixels, 255)])
    Image.fromarray(colour).save("colour.png")
    rng = np.random.default_rng(5)
    after = np.dstack([0.5 * colour[..., c] + 10 + rng.normal(0, 0.5, pixels.shape) for c in range(3)])
    np.save("after.npy", after)
    options = f"colour.png after.npy --shape 1,3 --channels {channels} --background 0 --solver least-squares".split()
    options += ["--report", "r.html"]
    code, out, err = run(capsys, "find", *options, "--json", "-o", "k.npz")
    fields = json.loads(out)
    assert (code, err) == (0, "")
    words = {"channel_axis": -1, "channels": channels, "background": 0}
    fit = kernelfit.find_kernel(colour[..., :3].copy(), after, (1, 3), **words)
    np.testing.assert_array_equal(fields["kernel"], fit.kernel)
    np.testing.assert_allclose(fields["background"]["coefficients"], 10, atol=0.3)
    assert fields["channels"] == channels and kernelfit.KernelFit.load("k.npz").kernel.shape == fit.kernel.shape
    names = {}
    with contextlib.redirect_stdout(std_io.StringIO()):
        exec(fields["python"], names)
    np.testing.assert_array_equal(names["fit"].kernel, fit.kernel)
    page = Path("r.html").read_text()
    assert "Solved" in page and "residual is not white" not in page
    assert ("The fit: green" in page) == (channels != "shared")
    if channels == "separate":
        assert list(fields["psf"]) == ["red", "green", "blue"]


@pytest.mark.slow
def test_masks_weights_noise_and_outliers_by_name(folder, pixels, capsys):
    rng = np.random.default_rng(6)
    target = np.load("target.npy")
    spoiled = target.copy()
    bad = rng.random(target.shape) < 0.05
    spoiled[bad] = np.nan
    spoiled[3, 4] = 1e6
    np.save("spoiled.npy", spoiled)
    Image.fromarray((bad * 255).astype(np.uint8)).save("bad.png")
    np.save("weights.npy", rng.uniform(1, 2, target.shape))
    options = "--mask bad.png --weights weights.npy --robust tukey -o k.npz".split()
    start = "find image.npy spoiled.npy --shape 3,4 --solver least-squares --json".split()
    code, out, err = run(capsys, *start, *options)
    assert (code, err) == (0, "")
    fields = json.loads(out)
    words = {"mask": bad, "weights": np.load("weights.npy"), "robust": "tukey"}
    expected = kernelfit.find_kernel(pixels, spoiled, (3, 4), **words)
    np.testing.assert_array_equal(fields["kernel"], expected.kernel)
    np.testing.assert_allclose(fields["kernel"], KERNEL, atol=0.01)
    names = {}
    with contextlib.redirect_stdout(std_io.StringIO()):
        exec(fields["python"], names)
    np.testing.assert_array_equal(names["fit"].kernel, expected.kernel)
    code, out, _ = run(capsys, *start, "--nan", "mask", "--noise", "2,3", "--robust", "clip", "--saturated", "none")
    assert code == 0
    code, seen, _ = run(capsys, *start, "--nan", "mask", "--noise", "2,3", "--robust", "clip", "--saturated=-5,200.5")
    words = {"nan": "mask", "noise": (2.0, 3.0), "robust": "clip", "saturated": (-5.0, 200.5)}
    assert json.loads(seen)["kernel"] == kernelfit.find_kernel(pixels, spoiled, (3, 4), **words).kernel.tolist()
    words = {"nan": "mask", "noise": (2.0, 3.0), "robust": "clip", "saturated": None}
    np.testing.assert_array_equal(
        json.loads(out)["kernel"], kernelfit.find_kernel(pixels, spoiled, (3, 4), **words).kernel
    )


@pytest.mark.slow
def test_npy_through_pipes(folder, fit, capsys):
    call = [sys.executable, "-m", "kernelfit"]
    data = Path("image.npy").read_bytes()
    found = subprocess.run([*call, "find", "-", "target.npy", "--shape", "3,4", "--solver", "least-squares", "-o", "-"],
                           input=data, capture_output=True, env=ENVIRONMENT)  # fmt: skip
    assert found.returncode == 0 and b"verdict     solved" in found.stderr
    expected = kernelfit.find_kernel(np.load("image.npy"), np.load("target.npy"), (3, 4)).kernel
    kernel = np.load(std_io.BytesIO(found.stdout), allow_pickle=False)
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-13)
    made = subprocess.run(
        [*call, "apply", "image.npy", "-", "-o", "-"], input=found.stdout, capture_output=True, env=ENVIRONMENT
    )
    assert (made.returncode, made.stderr) == (0, b"")
    result = np.load(std_io.BytesIO(made.stdout), allow_pickle=False)
    np.testing.assert_array_equal(result, kernelfit.apply_kernel(np.load("image.npy"), kernel, boundary="symm"))


@pytest.mark.parametrize("data", [b"", b"not an array"])
def test_garbage_on_stdin_is_one_line(data, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", std_io.TextIOWrapper(std_io.BytesIO(data)))
    code, out, err = run(capsys, "find", "-", "target.npy", "--shape", "3")
    assert (code, out) == (2, "") and "need NPY on the standard input" in err and err.count("\n") == 1


def test_demo_writes_a_pair_that_can_be_solved(folder, capsys):
    code, out, _ = run(capsys, "demo", "--write", ".")
    assert code == 0 and "kernelfit find before.png after.png" in out
    code, _, _ = run(
        capsys, "find", "before.png", "after.png", "--shape", "7,9", "--solver", "least-squares", "-o", "k.npy"
    )
    from kernelfit.cli.demo import comet

    assert code == 0
    np.testing.assert_allclose(np.load("k.npy")[1:-1, 1:-1], comet(), atol=0.005)
    assert run(capsys, "demo", "--write", ".")[0] == 2


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(folder):
    with open("/dev/full", "w") as full:
        call = [sys.executable, "-m", "kernelfit", "inspect", "kernel.csv"]
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr == "kernelfit: No space left on device; make room there, or write somewhere else\n"


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@grid("when", ["while pixels are read", "while the kernel is written"], 2)
def test_control_c_ends_cleanly(when, folder):
    """A real signal in the middle of real work."""
    hook = {
        "while pixels are read": """
            import kernelfit
            original = kernelfit.find_kernel
            def slow(*args, progress, **words):
                def interrupt(*_):
                    os.kill(os.getpid(), signal.SIGINT)
                return original(*args, progress=interrupt, **words)
            kernelfit.find_kernel = slow
        """,
        "while the kernel is written": """
            os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGINT)
        """,
    }[when]
    script = textwrap.dedent(hook) + textwrap.dedent("""
        import sys
        from kernelfit import cli
        sys.exit(cli.main("find image.npy target.npy --shape 5 --solver least-squares -o k.npy".split()))
    """)
    before = sorted(os.listdir(folder))
    start = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a background job
    )
    done = subprocess.run([sys.executable, "-c", start + script], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == parser.STOPPED == 128 + signal.SIGINT
    assert done.stderr == "kernelfit: stopped, nothing half done is left behind\n"
    assert sorted(os.listdir(folder)) == before


def test_values_below_zero_are_counted_too(folder, pixels, capsys):
    np.savetxt("down.csv", [[1.0, -1.0]], delimiter=",")
    _, out, _ = run(capsys, "apply", "image.png", "down.csv", "--boundary", "wrap", "-o", "out.png")
    made = kernelfit.apply_kernel(pixels, [[1.0, -1.0]], boundary="wrap")
    assert f"{int((made < 0).sum())} of {pixels.size} values" in out


def test_a_kernel_off_its_centre_is_applied_in_other_modes(folder, pixels, capsys):
    fit = kernelfit.find_kernel(pixels, np.load("target.npy"), (3, 4), origin=(0, 3))
    fit.save("off.npz")
    for mode in ("valid", "full"):
        code, _, err = run(capsys, "apply", "image.npy", "off.npz", "--mode", mode, "-o", f"{mode}.npy")
        assert (code, err) == (0, "")
        expected = kernelfit.apply_kernel(pixels, fit.kernel, mode=mode, boundary="symm")
        np.testing.assert_array_equal(np.load(f"{mode}.npy"), expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_commands_and_options(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as done:
        parser.main(["--completion", shell])
    told = capsys.readouterr().out
    assert done.value.code == 0 and "deconvolve" in told
    if shell != "tcsh":  # which knows the commands alone
        assert "--boundary" in told and "--output" in told
    if shell == "bash":
        words = "COMP_WORDS=(kernelfit find --bou); COMP_CWORD=2; _shtab_kernelfit; echo ${COMPREPLY[@]}"
        answer = subprocess.run(["bash", "-c", f"{told}\n{words}"], capture_output=True, text=True)
        assert answer.stdout.split() == ["--boundary"]


def test_a_restored_image_keeps_its_place_on_the_sky(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    image, kernel, restored = (str(tmp_path / name) for name in ("a.fits", "k.npy", "b.fits"))
    header = fits.Header({"CTYPE1": "RA---TAN", "CRVAL1": 10.5, "CRPIX2": 6.0})
    pixels = np.random.default_rng(0).random((31, 42))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, header, name="SCI")]).writeto(image)
    np.save(kernel, np.outer([1.0, 2, 1], [1, 3, 1]) / 20)
    assert parser.main(["deconvolve", image, kernel, "--hdu", "SCI", "-o", restored]) == 0
    kept = fits.getheader(restored)
    assert {name: kept[name] for name in header} == dict(header) and kept["NAXIS1"] == 42


def test_no_standard_input_at_all(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where it is closed
    code, _, err = run(capsys, "find", "-", "target.npy", "--shape", "3")
    assert (code, err) == (2, "kernelfit: <stdin>: got nothing, need NPY on the standard input\n")
