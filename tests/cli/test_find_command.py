"""The command line and the files it reads and writes."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.ndimage
from scipy.signal import convolve2d

import kernelfit
from helpers import grid
from kernelfit.cli import options, parser

cv2 = pytest.importorskip("cv2")
h5py = pytest.importorskip("h5py")
tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")
fits = pytest.importorskip("astropy.io.fits")
Image = pytest.importorskip("PIL.Image")

KERNEL = np.array([[1.0, 2.0, 0.0], [0.0, 5.0, 8.0]]) / 16


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 256, (19, 23), dtype=np.uint8)


@pytest.fixture
def pair(tmp_path, monkeypatch, pixels):
    """A folder with image.npy, target.npy and other inputs, good and bad; the current folder while the test runs."""
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", pixels)
    np.save("target.npy", convolve2d(pixels, KERNEL, mode="same"))
    Image.fromarray(pixels).save("image.png")
    tifffile.imwrite("image.tif", pixels.astype(">f4"))
    return tmp_path


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def run(capsys, *argv):
    code = parser.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return code, out, err


# ---- find ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image.npy", "image.png", "image.tif"])
def test_find_reads_each_format_and_writes_the_kernel(name, pair, capsys):
    code, out, err = run(capsys, "find", name, "target.npy", "--shape", "2,3", "--boundary", "fill", "-o", "kernel.npy")
    assert (code, err) == (0, "")
    assert "kernel written to kernel.npy" in out
    np.testing.assert_allclose(np.load("kernel.npy", allow_pickle=False), KERNEL, atol=1e-12)


def test_find_prints_the_summary_and_writes_nothing_unasked(pair, capsys):
    before = snapshot(pair)
    code, out, err = run(capsys, "find", "image.npy", "target.npy", "--shape", "2,3")
    fit = kernelfit.find_kernel(np.load("image.npy"), np.load("target.npy"), (2, 3), solver="auto")
    assert (code, err) == (0, "")
    assert fit.verdict.ok and fit.summary() in out
    assert "-o kernel.npz" in out
    assert snapshot(pair) == before


def spied(monkeypatch, capsys, *argv):
    """The keywords that find_kernel gets from a call."""
    seen = {}

    def spy(image, target, shape, **keywords):
        seen.update(keywords, shape=shape)
        return original(image, target, shape)

    original = kernelfit.find_kernel
    with monkeypatch.context() as patch:
        patch.setattr(kernelfit, "find_kernel", spy)
        assert run(capsys, "find", "image.npy", "target.npy", *argv)[0] < 2
    assert callable(seen.pop("progress"))
    return seen


def test_find_without_a_shape_says_what_it_found(pair, capsys):
    image = convolve2d(np.random.default_rng(5).normal(size=(92, 122)), np.ones((3, 3)), mode="valid")
    np.save("wide.npy", image)
    np.save("part.npy", convolve2d(image, np.ones((2, 3)))[21:80, 30:100])
    code, out, _ = run(capsys, "find", "wide.npy", "part.npy", "-o", "kernel.npz", "--json")
    fields = json.loads(out)
    assert code == 0 and fields["found"][0].startswith("a kernel of 2x3 taps")
    assert "find_kernel(image, target, solver" in fields["python"]
    np.testing.assert_allclose(kernelfit.KernelFit.load("kernel.npz").kernel, 1)
    code, out, _ = run(capsys, "find", "wide.npy", "part.npy")
    assert code == 0 and out.startswith("found       a kernel of 2x3 taps")
    assert "find_kernel(image, target, (2, 3), mode='crop', origin=(21, 30), solver='auto')" in out


@pytest.mark.slow
def test_find_passes_every_option_on(pair, capsys, monkeypatch):
    words = "--shape 3 --mode same --boundary fill --fillvalue -2.5 --origin 0,2 --operation correlation"
    seen = spied(monkeypatch, capsys, *words.split(), "--method", "direct", "--workers", "2")
    assert seen == {
        "shape": 3,
        "mode": "same",
        "boundary": "fill",
        "fillvalue": -2.5,
        "origin": (0, 2),
        "operation": "correlation",
        "method": "direct",
        "workers": 2,
        "solver": "auto",
    }


@pytest.mark.slow
@grid(
    "options, keywords",
    [
        ("", {"solver": "auto"}),
        ("--solver auto", {"solver": "auto"}),
        ("--solver least-squares", {"solver": None}),
        ("--solver gaussian-process", {"solver": kernelfit.GaussianProcess()}),
        ("--solver sparse", {"solver": kernelfit.Sparse()}),
        ("--solver ridge", {"solver": kernelfit.Penalized("ridge")}),
        ("--solver laplacian --strength 0.25", {"solver": kernelfit.Penalized("laplacian", 0.25)}),
        ("--strength gcv", {"solver": kernelfit.Penalized()}),
        ("--solver non-negative --total 1", {"solver": kernelfit.NonNegative(total=1.0)}),
        ("--total 2", {"solver": kernelfit.Constrained(total=2.0)}),
        ("--symmetric rows", {"solver": kernelfit.Constrained(symmetric="rows")}),
        ("--method wiener --balance 0.01", {"solver": None, "method": "wiener", "balance": 0.01}),
        ("--method cg --tolerance 0.1", {"solver": None, "method": "cg", "tolerance": 0.1}),
    ],
    3,
)
def test_solvers_by_name(options, keywords, pair, capsys, monkeypatch):
    seen = spied(monkeypatch, capsys, "--shape", "3", *options.split())
    assert {name: repr(value) for name, value in seen.items()} == {
        name: repr(value) for name, value in {"shape": 3, **keywords}.items()
    }


@pytest.mark.slow
def test_find_takes_the_same_defaults_as_find_kernel(pair, capsys):
    run(capsys, "find", "image.npy", "target.npy", "--shape", "2,3", "--solver", "least-squares", "-o", "kernel.npy")
    fit = kernelfit.find_kernel(np.load("image.npy"), np.load("target.npy"), (2, 3))
    np.testing.assert_array_equal(np.load("kernel.npy"), fit.kernel)


def test_choices_are_those_of_the_package(pixels):
    for keyword, known in (
        ("mode", options.MODES),
        ("boundary", options.BOUNDARIES),
        ("operation", options.OPERATIONS),
        ("method", options.METHODS),
    ):
        with pytest.raises(ValueError) as caught:
            kernelfit.find_kernel(pixels, pixels, 3, **{keyword: "bogus"})
        assert all(repr(choice) in str(caught.value) for choice in known if choice != "none")


def test_doubtful_verdict_is_exit_code_1_and_the_kernel_is_still_written(pair, capsys):
    np.save("flat.npy", np.full((19, 23), 7.0))
    code, out, err = run(capsys, "find", "flat.npy", "flat.npy", "--shape", "3", "-o", "kernel.npy")
    assert (code, err) == (1, "")
    kernel = np.load("kernel.npy")
    np.testing.assert_allclose(convolve2d(np.load("flat.npy"), kernel, mode="valid"), 7.0)


@pytest.mark.slow
def test_force_replaces_the_output(pair, capsys):
    np.save("kernel.npy", np.zeros(3))
    code, _, err = run(capsys, "find", "image.npy", "target.npy", "--shape", "2,3", "-o", "kernel.npy", "--force")
    assert (code, err) == (0, "")
    assert np.load("kernel.npy").shape == (2, 3)


# ---- bad calls: one line on stderr, exit code 2, nothing written -----------------------------------------------------

BAD_CALLS = {
    "no command": ("", "got no command, need one of find, apply"),
    "unknown command": ("fnid image.npy target.npy", "invalid choice: 'fnid'"),
    "unknown option": ("find image.npy target.npy --shape 3 --shap 4", "unrecognized arguments"),
    "option of another": ("demo --shape 3", "unrecognized arguments"),
    "abbreviated option": ("find image.npy target.npy --shape 3 --bound fill", "unrecognized arguments"),
    "no files": ("find --shape 3", "required: IMAGE, TARGET"),
    "one file": ("find image.npy --shape 3", "required: TARGET"),
    "three files": ("find image.npy target.npy image.npy --shape 3", "unrecognized arguments: image.npy"),
    "no shape for many": ("find '*.npy' '*.npy'", "need --shape"),
    "unrelated": ("find image.npy stray.npy", "no kernel relates"),
    "shape without value": ("find image.npy target.npy --shape", "expected one argument"),
    "shape a word": ("find image.npy target.npy --shape five", "got 'five', need one whole number"),
    "shape of zero": ("find image.npy target.npy --shape 3,0", "got '3,0', need one whole number of at least 1"),
    "shape negative": ("find image.npy target.npy --shape -3", "got '-3', need one whole number"),
    "shape a fraction": ("find image.npy target.npy --shape 2.5", "got '2.5', need one whole number"),
    "shape of three": (
        "find image.npy target.npy --shape 3,3,3",
        "three numbers, which are for volumes; need --volume",
    ),
    "unknown mode": ("find image.npy target.npy --shape 3 --mode fill", "got 'fill', need one of same, valid, full"),
    "unknown boundary": (
        "find image.npy target.npy --shape 3 --boundary reflect",
        "need one of none, fill, wrap",
    ),
    "unknown operation": ("find image.npy target.npy --shape 3 --operation x", "need one of convolution, correlation"),
    "unknown method": ("find image.npy target.npy --shape 3 --method magic", "'magic'.*'?auto.*direct"),
    "fillvalue a word": (
        "find image.npy target.npy --shape 3 --boundary fill --fillvalue red",
        "got 'red', need a",
    ),
    "fillvalue NaN": ("find image.npy target.npy --shape 3 --boundary fill --fillvalue nan", "finite"),
    "fillvalue unused": (
        "find image.npy target.npy --shape 3 --fillvalue 1",
        "with --boundary none, need --b",
    ),
    "origin no number": ("find image.npy target.npy --shape 3 --origin=x", "got 'x', need one whole number, or two"),
    "workers zero": ("find image.npy target.npy --shape 3 --workers 0", "got '0', need a whole number of at least 1"),
    "workers a word": ("find image.npy target.npy --shape 3 --workers all", "got 'all', need a whole number"),
    "image missing": ("find no.png target.npy --shape 3", "no.png: No such file"),
    "target missing": ("find image.npy no.png --shape 3", "no.png: No such file"),
    "image a folder": ("find . target.npy --shape 3", "a single file target.npy with the several of '.', need two fol"),
    "pattern of nothing": ("find *.jp2 *.jpx --shape 3", "a pattern '[*].jp2' that no file matches"),
    "noise of a series": ("find *.png *.png --shape 3 --noise poisson", "--noise with --checkpoint or a series"),
    "image empty file": ("find empty.png target.npy --shape 3", "empty.png: got an empty file, need PNG, JPEG"),
    "image a signal with a name": ("find named.csv target.npy --shape 3", "names in its first line, as signals have"),
    "image a text": ("find text.png target.npy --shape 3", "text.png: got a file of another format"),
    "NumPy archive": ("find several.npz target.npy --shape 3", "several.npz: got a NumPy archive"),
    "JPEG cut short": ("find cut.jpg target.npy --shape 3", "cut.jpg: got unreadable JPEG data"),
    "FITS cut short": ("find cut.fits target.npy --shape 3", "cut.fits: got unreadable FITS data"),
    "HDF5 cut short": ("find cut.h5 target.npy --shape 3", "cut.h5: got unreadable HDF5 data"),
    "CMYK JPEG": ("find cmyk.jpg target.npy --shape 3", "colours of the kind CMYK"),
    "CMYK TIFF": ("find cmyk.tif target.npy --shape 3 --channel green", "colours of the kind CMYK, need RGB"),
    "luma and chroma in TIFF": ("find ycc.tif target.npy --shape 3 --channel green", "got luma and chroma, need RGB"),
    "animated PNG": ("find animated.png target.npy --shape 3", "an animation of 2 frames.*save a frame by itself"),
    "GIF": ("find animated.gif target.npy --shape 3", "animated.gif: got a file of another format"),
    "NaNs in FITS": ("find nan.fits target.npy --shape 3", "2 pixels that are NaN"),
    "FITS without image": ("find table.fits target.npy --shape 3", "a FITS file without an image"),
    "several HDUs": ("find two.fits target.npy --shape 3", "2 images .*OTHER.*--hdu"),
    "HDU missing": ("find two.fits target.npy --shape 3 --hdu 7", "got --hdu 7, need one that holds an image: 0"),
    "HDU by wrong name": ("find two.fits target.npy --shape 3 --hdu SCI", "got --hdu SCI"),
    "HDU of a PNG": ("find image.png target.npy --shape 3 --hdu 1", "PNG, which has no hdu"),
    "HDU three times": ("find two.fits two.fits --shape 3 --hdu 0 --hdu 1 --hdu 0", "got --hdu 3 times"),
    "several datasets": ("find two.h5 target.npy --shape 3", "2 arrays \\(/a 19 x 23, /g/b 19 x 23\\).*--dataset /a"),
    "dataset missing": ("find two.h5 target.npy --shape 3 --dataset c", "got --dataset c, need one of: /a"),
    "several Zarr arrays": ("find two.zarr target.npy --shape 3", "two.zarr: got 2 arrays"),
    "page missing": ("find stack.tif image.png --shape 3 --page 5 --page 0", "got --page 5, need 0 to 4"),
    "page negative": ("find stack.tif image.png --shape 3 --page -1", "expected one argument|whole number"),
    "channel missing": ("find colour.png colour.png --shape 3 --channel 3", "got --channel 3, need one of red, green"),
    "channel unknown": ("find colour.png colour.png --shape 3 --channel cyan", "got --channel cyan"),
    "channel of gray": ("find image.npy target.npy --shape 3 --channel 0", "an image without channels"),
    "channels of gray": (
        "find image.png target.npy --shape 3 --channels shared",
        "image.png: got an image of one plane",
    ),
    "channels unknown": ("find colour.png colour.png --shape 3 --channels all", "need one of shared, separate, mixed"),
    "CSV of many channels": ("find colour.png colour.png --shape 3 --channels separate -o k.csv", "need .npy, .npz"),
    "background negative": (
        "find image.npy target.npy --shape 3 --background -1",
        "argument|whole number of at least 0",
    ),
    "mask missing": ("find image.npy target.npy --shape 3 --mask no.png", "no.png: No such file"),
    "mask of another size": ("find image.npy target.npy --shape 3 --mask small.npy", "mask.*shape"),
    "weights negative": ("find image.npy target.npy --shape 3 --weights minus.npy", "weights"),
    "mask in colour": ("find image.npy target.npy --shape 3 --mask colour.png", "channels.*; save --mask as one gray"),
    "image mask of pages": ("find image.npy target.npy --shape 3 --image-mask stack.tif", "save --image-mask as one"),
    "saturated a word": ("find image.npy target.npy --shape 3 --saturated some", "need auto, none, or LOW,HIGH"),
    "saturated backwards": ("find image.npy target.npy --shape 3 --saturated 9,3", "got '9,3', need.*LOW below HIGH"),
    "saturated nowhere": ("find image.npy target.npy --shape 3 --saturated ,", "got ',', need.*LOW,HIGH"),
    "mask from stdin": ("find image.npy target.npy --shape 3 --mask -", "got - for --mask"),
    "unknown noise": ("find image.npy target.npy --shape 3 --noise loud", "need constant, poisson, or two numbers"),
    "unknown robust": ("find image.npy target.npy --shape 3 --robust very", "need one of huber, tukey, clip"),
    "output a mask": ("find image.npy target.npy --shape 3 --mask taken.npy -o taken.npy --force", "both as input and"),
    "both from stdin": ("find - - --shape 3", "got - for both images"),
    "bomb": ("find bomb.png target.npy --shape 3", "too large for Pillow.*save it as NPY"),
    "unknown solver": ("find image.npy target.npy --shape 3 --solver magic", "need one of auto, least-squares"),
    "strength unused": (
        "find image.npy target.npy --shape 3 --solver sparse --strength 1",
        "--strength with --solver sp",
    ),
    "strength negative": ("find image.npy target.npy --shape 3 --solver ridge --strength=-1", "--strength -1.0"),
    "total of sparse": (
        "find image.npy target.npy --shape 3 --solver sparse --total 1",
        "--total with --solver sparse",
    ),
    "symmetric and solver": (
        "find image.npy target.npy --shape 3 --solver ridge --symmetric point",
        "one or the other",
    ),
    "unknown symmetry": ("find image.npy target.npy --shape 3 --symmetric all", "need one of point, rows"),
    "solver of wiener": ("find image.npy target.npy --shape 3 --method wiener --solver ridge", "leave one of them out"),
    "balance unused": ("find image.npy target.npy --shape 3 --balance 1", "need --method wiener"),
    "tolerance unused": ("find image.npy target.npy --shape 3 --method fft --tolerance 0.1", "does not iterate"),
    "JSON and stdout": ("find image.npy target.npy --shape 3 --json -o -", "got --json and -o -"),
    "report of another format": ("find image.npy target.npy --shape 3 --report r.pdf", "ends in .html or .htm"),
    "report exists": ("find image.npy target.npy --shape 3 --report taken.html", "taken.html.*exists already"),
    "report without folder": ("find image.npy target.npy --shape 3 --report no/r.html", "there is no folder"),
    "apply without output": ("apply image.npy kernel3.csv", "required: -o"),
    "apply to another format": ("apply image.npy kernel3.csv -o x.gif", "need a name that ends in .npy, .png"),
    "apply over its input": ("apply image.png kernel3.csv -o image.png --force", "both as input and as output"),
    "apply over its kernel": ("apply image.png taken.npy -o taken.npy --force", "both as input and as output"),
    "kernel missing": ("apply image.npy no.csv -o x.npy", "no.csv: No such file"),
    "kernel a picture": ("apply image.npy image.png -o x.npy", "image.png: got a picture, need a kernel's numbers"),
    "kernel a text": ("apply image.npy text.csv -o x.npy", "text.csv: got no kernel that can be read"),
    "kernel of words in JSON": ("apply image.npy words.json -o x.npy", "words.json: got no kernel"),
    "kernel of NaN": (
        "apply image.npy nan.csv -o x.npy",
        "nan.csv: got no kernel that can be read .taps that are not all",
    ),
    "kernel with ragged rows": ("apply image.npy ragged.csv -o x.npy", "ragged.csv: got no kernel"),
    "kernel larger than image": ("apply image.npy huge.npy --boundary wrap -o x.npy", "larger than the image"),
    "apply to NaN as PNG": ("deconvolve nan.npy kernel3.csv -o x.png", "NaN"),
    "fractions to PNG": ("apply fraction.npy kernel3.csv -o x.png", "whole numbers.*write .tif"),
    "deconvolve by zero": ("deconvolve image.npy zero.csv -o x.npy", "zero everywhere"),
    "deconvolve, bad balance": ("deconvolve image.npy kernel3.csv --balance=-1 -o x.npy", "--balance -1"),
    "deconvolve, boundary": ("deconvolve image.npy kernel3.csv --boundary fill -o x.npy", "need one of none, wrap"),
    "inspect nothing": ("inspect", "required: KERNEL"),
    "inspect a picture": ("inspect image.png", "got a picture"),
    "inspect, plot exists": ("inspect kernel3.csv --plot image.png", "exists already"),
    "compare one": ("compare kernel3.csv", "required: SECOND"),
    "compare with nothing": ("compare kernel3.csv no.npz", "no.npz: No such file"),
    "demo to nowhere": ("demo --write no/where", "there is no folder"),
    "PNG cut short": ("find cut.png target.npy --shape 3", "cut.png: got unreadable PNG data"),
    "TIFF cut short": ("find cut.tif target.npy --shape 3", "cut.tif: got unreadable TIFF data"),
    "NPY cut short": ("find cut.npy target.npy --shape 3", "cut.npy: got unreadable NPY data"),
    "colour image, gray target": (
        "find colour.png target.npy --shape 3",
        "colour.png: got a colour image.*19 x 23",
    ),
    "gray image, colour target": ("find image.png colour.tif --shape 3", "colour.tif: got a colour image.*19 x 23"),
    "colour array": ("find image.png colour.npy --shape 3", "colour.npy: got a colour image"),
    "alpha": ("find alpha.png target.npy --shape 3", "alpha.png: got an image with alpha.*2 channels"),
    "white zero TIFF": ("find white.tif target.npy --shape 3", "white.tif: got zero for white"),
    "stack": ("find stack.tif target.npy --shape 3", "stack.tif: got 5 planes"),
    "several images": ("find several.tif target.npy --shape 3", "several.tif: got 2 images in one file"),
    "four dimensions": ("find four.npy target.npy --shape 3", "four.npy: got an array of 4 dimensions"),
    "one dimension": (
        "find line.npy target.npy --shape 3",
        "target.npy: got 23 channels of a signal.*an image",
    ),
    "no pixels": ("find none.npy target.npy --shape 3", "empty|at least one|no pixels"),
    "complex": ("find complex.npy target.npy --shape 3 -o kernel.tif", "kernel.tif for a complex kernel, need .npz"),
    "complex picture": ("apply complex.npy kernel3.csv -o out.png", "complex pixels for out.png, need .npy"),
    "text array": ("find words.npy target.npy --shape 3", "need numbers"),
    "pickled array": ("find pickled.npy target.npy --shape 3", "pickled.npy: got unreadable NPY data.*allow_pickle"),
    "NaN": ("find nan.npy target.npy --shape 3", "NaN"),
    "shapes that fit no mode": ("find image.npy small.npy --shape 3", "19.*23"),
    "too few pixels": ("find image.npy target.npy --shape 15,15", r"\b45\b.*\b225\b"),
    "kernel larger than the image": ("find image.npy target.npy --shape 40", "40"),
    "output exists": ("find image.npy target.npy --shape 3 -o taken.npy", "taken.npy.*exists already.*--force"),
    "output of another format": ("find image.npy target.npy --shape 3 -o kernel.png", "a name that ends in .npy, .csv"),
    "output without folder": ("find image.npy target.npy --shape 3 -o no/kernel.npy", "there is no folder"),
    "output a folder": ("find image.npy target.npy --shape 3 -o folder.npy --force", "no plain file"),
    "output and report the same": (
        "find image.npy target.npy --shape 3 -o k.html --report k.html",
        "got k.html for the kernel, need a name",
    ),
    "shape with a letter": ("find image.npy target.npy --shape 9x", "got '9x', need one whole number"),
    "huge shape": ("find image.npy target.npy --shape 1000000", "0 interior pixels.*with --boundary none only"),
    "image a pipe": ("find fifo.npy target.npy --shape 3", "fifo.npy: got a pipe or a device, need a file"),
    "image without a name": (["find", "", "target.npy", "--shape", "3"], "got '', need a file's name"),
    "output without a name": (["find", "image.npy", "target.npy", "--shape", "3", "-o", ""], "got '', need"),
    "infinite total": ("find image.npy target.npy --shape 3 --total inf", "got --total inf, need a finite number"),
    "tolerance too large": ("find image.npy target.npy --shape 3 --method cg --tolerance 7", "got --tolerance 7.0"),
    "noise negative": ("find image.npy target.npy --shape 3 --noise=-1,2", "got --noise \\(-1.0, 2.0\\), need a gain"),
    "sandwich and robust": (
        "find image.npy target.npy --shape 3 --errors sandwich --robust clip",
        "--errors sandwich with --robust: .* as --weights",
    ),
    "background and a kernel larger than the image": (
        "find image.npy target.npy --shape 99 --background 1",
        "0x0 target pixels .* ask for a smaller shape, or declare a boundary",
    ),
    "background too high": ("find image.npy target.npy --shape 3 --background 90", "need more than 90 rows"),
    "overflow": ("find big.npy big.npy --shape 3", "divide the image and the target"),
    "dates": ("find dates.npy target.npy --shape 3", "dtype datetime64"),
    "gray and gray with a channel": ("find image.npy target.npy --shape 3 --channel red", "without channels"),
    "green of two channels": ("find alpha.png target.npy --shape 3 --channel green", "green, need one of luma, alpha"),
    "16 bits in JPEG": ("apply deep.png kernel3.csv -o out.jpg", "uint16 .* for out.jpg.*write .png .16 bits., .tif"),
    "wide numbers in PNG": ("apply wide.npy kernel3.csv -o out.png", "int64 up to 7e.05 for out.png.*write .tif"),
    "fractions in PNG": ("deconvolve unit.npy kernel3.csv -o out.png", "float64 up to 1 for out.png.*write .tif"),
    "alpha in JPEG": ("apply rgba.png kernel3.csv -o out.jpg", "got 4 channels for out.jpg.*alpha.*write .png, .tif"),
    "gray and alpha in JPEG": ("deconvolve alpha.png kernel3.csv -o out.jpeg", "got 2 channels for out.jpeg"),
    "deep colours interlaced": ("find woven.png image.png --shape 3 --channel red", "woven.png: got unreadable PNG"),
    "deep colours cut short": ("find half.png image.png --shape 3 --channel red", "half.png: got unreadable PNG"),
    "kernel file blank": (
        "inspect blank.csv",
        "blank.csv: got no kernel that can be read .taps that are not",
    ),
    "kernel file a list": ("inspect list.json", "list.json: got a file of another format"),
    "kernel of five axes": ("inspect five.npy", "five.npy: got an array of shape"),
    "kernel an image of colours": ("inspect colour.tif", "colour.tif: got an image of shape"),
    "kernel an archive of others": ("inspect several.npz", "several.npz: got no complete file saved by kernelfit"),
    "deconvolve by a larger kernel": ("deconvolve image.npy huge.npy -o x.npy", "40 x 3 taps for an image of 19 x 23"),
    "kernels for other channels": ("apply colour.png two.npy -o x.npy", "got 2 kernels for an image of 3 channels"),
    "kernels for gray": ("deconvolve image.npy two.npy -o x.npy", "got 2 kernels for an image of 1 channel, need one"),
    "compare one and two": ("compare kernel3.csv two.npy", "got 1 kernel and 2, need as many"),
    "compare stdin": ("compare - -", "got - for both kernels"),
    "demo into a file": ("demo --write image.png", "there is no folder"),
    "output an input": ("find image.npy target.npy --shape 3 -o target.npy --force", "both as input and as output"),
}


@pytest.fixture
def bad_files(pair, pixels):
    colour = np.dstack([pixels, pixels, pixels])
    (pair / "empty.png").write_bytes(b"")
    (pair / "text.png").write_text("not a picture")
    (pair / "named.csv").write_text("dry, wet\n0.5, 1\n-0.25, 2\n")
    Image.fromarray(pixels).save("image.jpg")
    tifffile.imwrite("plain.tif", pixels)
    for source, copy in (("image.png", "cut.png"), ("plain.tif", "cut.tif"), ("image.npy", "cut.npy")):
        (pair / copy).write_bytes((pair / source).read_bytes()[:-60])
    Image.fromarray(colour).save("colour.png")
    tifffile.imwrite("colour.tif", colour)
    Image.fromarray(np.dstack([colour, pixels])).save("rgba.png")
    deep = colour.astype(np.uint16) * 257
    cv2.imwrite("deep.png", deep)
    (pair / "half.png").write_bytes((pair / "deep.png").read_bytes()[:-60])
    woven = bytearray((pair / "deep.png").read_bytes())
    woven[28] = 1
    woven[29:33] = struct.pack(">I", zlib.crc32(woven[12:29]))
    (pair / "woven.png").write_bytes(woven)
    np.save("wide.npy", pixels.astype(int) + 700_000)
    np.save("unit.npy", pixels / pixels.max())
    np.save("colour.npy", colour)
    np.save("stray.npy", np.random.default_rng(4).normal(size=(60, 70)))
    Image.fromarray(pixels).convert("LA").save("alpha.png")
    tifffile.imwrite("white.tif", pixels, photometric="miniswhite")
    tifffile.imwrite("stack.tif", np.stack([pixels] * 5), photometric="minisblack")
    with tifffile.TiffWriter("several.tif") as tiff:
        tiff.write(pixels)
        tiff.write(pixels[:9])
    np.save("four.npy", pixels[None, None])
    np.save("line.npy", pixels[0])
    np.save("none.npy", pixels[:0])
    np.save("complex.npy", pixels * 1j)
    np.save("words.npy", pixels.astype(str))
    np.save("pickled.npy", pixels.astype(object))
    np.save("nan.npy", np.where(pixels == pixels.max(), np.nan, pixels))
    np.save("small.npy", pixels[2:, 2:-2])
    np.save("taken.npy", np.zeros((3, 3)))
    np.savez("several.npz", pixels)
    (pair / "cut.jpg").write_bytes((pair / "image.jpg").read_bytes()[:200])
    Image.fromarray(pixels).convert("CMYK").save("cmyk.jpg")
    Image.fromarray(pixels).convert("CMYK").save("cmyk.tif")
    Image.fromarray(colour).convert("YCbCr").save("ycc.tif")
    for suffix in ("png", "gif"):
        frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
        frames[0].save(f"animated.{suffix}", save_all=True, append_images=frames[1:])
    broken = pixels.astype("f4")
    broken[1, 2:4] = np.nan
    fits.PrimaryHDU(broken).writeto("nan.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])]).writeto(
        "table.fits"
    )
    fits.HDUList([fits.PrimaryHDU(pixels), fits.ImageHDU(pixels, name="OTHER")]).writeto("two.fits")
    (pair / "cut.fits").write_bytes((pair / "two.fits").read_bytes()[:3000])
    with h5py.File("two.h5", "w") as file:
        file["a"], file["g/b"], file["line"] = pixels, pixels, pixels[0]
    (pair / "cut.h5").write_bytes((pair / "two.h5").read_bytes()[:700])
    group = zarr.create_group("two.zarr")
    group["a"], group["b"] = pixels, pixels
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    (pair / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )
    (pair / "taken.html").write_text("somebody else's")
    np.savetxt("kernel3.csv", np.eye(3) / 3, delimiter=",")
    np.savetxt("zero.csv", np.zeros((3, 3)), delimiter=",")
    np.savetxt("nan.csv", np.full((3, 3), np.nan), delimiter=",")
    (pair / "text.csv").write_text("not,a\nkernel,!\n")
    (pair / "ragged.csv").write_text("1,2\n3\n")
    (pair / "words.json").write_text('{"kernel": "none"}')
    np.save("huge.npy", np.ones((40, 3)))
    np.save("fraction.npy", pixels / 255)
    np.save("minus.npy", -np.ones(pixels.shape))
    (pair / "folder.npy").mkdir()
    os.mkfifo("fifo.npy")
    np.save("big.npy", pixels * 1e300)
    np.save("dates.npy", pixels.astype("datetime64[Y]"))
    (pair / "blank.csv").write_text("\n\n")
    (pair / "list.json").write_text("[1, 2]")
    np.save("five.npy", np.ones((1, 1, 1, 3, 3)))
    np.save("two.npy", np.ones((2, 3, 5)))
    return pair


@grid("call, says", BAD_CALLS.values(), 3, ids=BAD_CALLS.keys())
def test_bad_call(call, says, bad_files, capsys):
    before = snapshot(bad_files)
    argv = call.split() if isinstance(call, str) else list(call)
    if argv[:1] == ["find"] and "-o" not in argv:  # what a bad call must not leave behind
        argv += ["-o", "kernel.npy"]
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("kernelfit: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert re.search(says, err), err
    assert snapshot(bad_files) == before


def test_a_line_break_in_a_name_stays_one_line(pair, capsys):
    code, _, err = run(capsys, "find", "two\nlines.png", "target.npy", "--shape", "3")
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "name, module, package", [("image.png", "PIL.Image", "pillow"), ("image.tif", "tifffile", "tifffile")]
)
def test_missing_reader_names_its_extra(name, module, package, pair, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = run(capsys, "find", name, "target.npy", "--shape", "3")
    assert (code, out) == (2, "")
    assert f"needs {package}" in err and "pip install 'kernelfit[cli]'" in err
    assert err.count("\n") == 1


def test_missing_photograph_names_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    code, out, err = run(capsys, "demo")
    assert (code, out) == (2, "")
    assert "needs scikit-image" in err and "pip install 'kernelfit[cli]'" in err


def test_memory_that_runs_out_is_a_bad_call(pair, capsys, monkeypatch):
    def greedy(*args, **keywords):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(kernelfit, "find_kernel", greedy)
    code, _, err = run(capsys, "find", "image.npy", "target.npy", "--shape", "3")
    assert code == 2
    assert "Unable to allocate 7 TiB" in err


# ---- demo, help, version, the process around them --------------------------------------------------------------------


def test_demo_finds_both_kernels(capsys):
    code, out, err = run(capsys, "demo")
    assert (code, err) == (0, "")
    question, photograph = out.split("2. A photograph")
    assert " 0.500   0.000   0.000   0.000   0.000\n" in question
    assert question.count("0.500") == 1
    for word in ("verdict", "time", "error"):
        assert word in question and word in photograph
    assert "0.169" in photograph  # the largest tap of the comet, 12/71


@pytest.mark.parametrize("command", parser.COMMANDS)
def test_help_has_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.main([command, "--help"])
    assert caught.value.code == 0
    examples = capsys.readouterr().out.split("examples:\n")[1]
    calls = re.findall(rf"kernelfit {command}\b[^|>\n]*", examples)
    assert len(calls) >= 2
    for call in calls:
        args = parser._parser().parse_args(call.split("     ")[0].split()[1:])
        assert args.command == command


def test_help_of_the_whole_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        parser.main(["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"    {command} " in out for command in parser.COMMANDS) and "exit codes" in out


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        parser.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"kernelfit {kernelfit.__version__}\n"


def test_help_and_bad_calls_load_nothing_heavy():
    script = (
        "import sys; from kernelfit import cli\n"
        "assert cli.main(['find', 'a.png', 'b.png', '--shape', 'x']) == 2\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'pyfftw', 'skimage', 'PIL', 'tifffile', 'dask', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.slow
def test_reader_that_hangs_up_gets_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "kernelfit", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert err == b""


@pytest.mark.slow
def test_a_motion_is_found(tmp_path, capsys):
    rng = np.random.default_rng(4)
    fine = scipy.ndimage.gaussian_filter(rng.normal(size=(120, 150)), 1.5) * 100
    image = fine[10:-10, 10:-10]
    target = scipy.ndimage.gaussian_filter(scipy.ndimage.shift(fine, (0.3, -1.6), order=5), 0.9)[10:-10, 10:-10]
    np.save(tmp_path / "a.npy", image)
    np.save(tmp_path / "b.npy", target + 0.05 * rng.normal(size=target.shape))
    names = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    options = ("--shape", "7,9", "--register", "shift", "--solver", "least-squares", "--json")
    told = json.loads(run(capsys, "find", *names, *options)[1])
    value, error = told["registration"]["parameters"]["shift_col"]
    assert abs(value - 1.6) < 5 * error < 0.2
    assert "register='shift'" in told["python"]


@pytest.mark.slow
def test_a_curve_is_found(tmp_path, capsys):
    rng = np.random.default_rng(4)
    light = np.clip(0.5 + scipy.ndimage.gaussian_filter(rng.normal(size=(90, 120)), 1.0), 0.02, 0.98)
    blurred = scipy.ndimage.gaussian_filter(light, 1.0)
    names = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for name, values in zip(names, (light, blurred), strict=True):
        Image.fromarray(np.rint(255 * values**0.5).astype(np.uint8)).save(name)
    options = ("--shape", "7,9", "--curve", "gamma", "--curve-side", "both", "--solver", "least-squares", "--json")
    told = json.loads(run(capsys, "find", *names, *options)[1])
    assert abs(told["curve"]["parameters"]["gamma"] - 2) < 5 * told["curve"]["stderr"]["gamma"] < 0.1
    assert "curve='gamma'" in told["python"]


def test_words_that_the_parser_knows_without_imports_are_those_of_the_package():
    from kernelfit.analysis import export
    from kernelfit.api import warm_up
    from kernelfit.cli import options

    assert options.TOOLS == export.TOOLS == tuple(export.SUFFIXES)
    assert options.USES == tuple(warm_up.USES)
