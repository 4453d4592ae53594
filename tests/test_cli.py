"""The command line and the files it reads and writes."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.signal import convolve2d

import kernelfit
from kernelfit import cli, io

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
    code = cli.main([str(arg) for arg in argv])
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
    fit = kernelfit.find_kernel(np.load("image.npy"), np.load("target.npy"), (2, 3))
    assert (code, err) == (0, "")
    assert fit.verdict.ok and fit.summary() in out
    assert "-o kernel.npy" in out
    assert snapshot(pair) == before


def test_find_passes_every_option_on(pair, capsys, monkeypatch):
    seen = {}

    def spy(image, target, shape, **keywords):
        seen.update(keywords, shape=shape)
        return original(image, target, shape)

    original = kernelfit.find_kernel
    monkeypatch.setattr(kernelfit, "find_kernel", spy)
    options = "--shape 3 --mode same --boundary fill --fillvalue -2.5 --origin 0,2 --operation correlation"
    run(capsys, "find", "image.npy", "target.npy", *options.split(), "--method", "direct", "--workers", "2")
    assert seen == {
        "shape": 3,
        "mode": "same",
        "boundary": "fill",
        "fillvalue": -2.5,
        "origin": (0, 2),
        "operation": "correlation",
        "method": "direct",
        "workers": 2,
    }


def test_find_takes_the_same_defaults_as_find_kernel(pair, capsys):
    run(capsys, "find", "image.npy", "target.npy", "--shape", "2,3", "-o", "kernel.npy")
    fit = kernelfit.find_kernel(np.load("image.npy"), np.load("target.npy"), (2, 3))
    np.testing.assert_array_equal(np.load("kernel.npy"), fit.kernel)


def test_choices_are_those_of_the_package(pixels):
    for keyword, known in (("mode", cli.MODES), ("boundary", cli.BOUNDARIES), ("operation", cli.OPERATIONS)):
        with pytest.raises(ValueError) as caught:
            kernelfit.find_kernel(pixels, pixels, 3, **{keyword: "bogus"})
        assert all(repr(choice) in str(caught.value) for choice in known if choice != "none")


def test_doubtful_verdict_is_exit_code_1_and_the_kernel_is_still_written(pair, capsys):
    np.save("flat.npy", np.full((19, 23), 7.0))
    code, out, err = run(capsys, "find", "flat.npy", "flat.npy", "--shape", "3", "-o", "kernel.npy")
    assert (code, err) == (1, "")
    kernel = np.load("kernel.npy")
    np.testing.assert_allclose(convolve2d(np.load("flat.npy"), kernel, mode="valid"), 7.0)


def test_force_replaces_the_output(pair, capsys):
    np.save("kernel.npy", np.zeros(3))
    code, _, err = run(capsys, "find", "image.npy", "target.npy", "--shape", "2,3", "-o", "kernel.npy", "--force")
    assert (code, err) == (0, "")
    assert np.load("kernel.npy").shape == (2, 3)


# ---- bad calls: one line on stderr, exit code 2, nothing written -----------------------------------------------------

BAD_CALLS = {
    "no command": ("", "got no command, need demo or find"),
    "unknown command": ("fnid image.npy target.npy", "invalid choice: 'fnid'"),
    "unknown option": ("find image.npy target.npy --shape 3 --shap 4", "unrecognized arguments"),
    "option of another": ("demo --shape 3", "unrecognized arguments"),
    "abbreviated option": ("find image.npy target.npy --shape 3 --bound fill", "unrecognized arguments"),
    "no files": ("find --shape 3", "required: IMAGE, TARGET"),
    "one file": ("find image.npy --shape 3", "required: TARGET"),
    "three files": ("find image.npy target.npy image.npy --shape 3", "unrecognized arguments: image.npy"),
    "no shape": ("find image.npy target.npy", "required: --shape"),
    "shape without value": ("find image.npy target.npy --shape", "expected one argument"),
    "shape a word": ("find image.npy target.npy --shape five", "got 'five', need one whole number"),
    "shape of zero": ("find image.npy target.npy --shape 3,0", "got '3,0', need one whole number of at least 1"),
    "shape negative": ("find image.npy target.npy --shape -3", "got '-3', need one whole number"),
    "shape a fraction": ("find image.npy target.npy --shape 2.5", "got '2.5', need one whole number"),
    "shape of three": ("find image.npy target.npy --shape 3,3,3", "got '3,3,3', need one whole number"),
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
    "origin negative": ("find image.npy target.npy --shape 3 --origin=-1,0", "got '-1,0', need one whole number of at"),
    "origin outside": ("find image.npy target.npy --shape 3 --origin 3", "origin"),
    "workers zero": ("find image.npy target.npy --shape 3 --workers 0", "got '0', need a whole number of at least 1"),
    "workers a word": ("find image.npy target.npy --shape 3 --workers all", "got 'all', need a whole number"),
    "image missing": ("find no.png target.npy --shape 3", "no.png: No such file"),
    "target missing": ("find image.npy no.png --shape 3", "no.png: No such file"),
    "image a folder": ("find . target.npy --shape 3", "Is a directory"),
    "image empty file": ("find empty.png target.npy --shape 3", "empty.png: got an empty file, need PNG, TIFF or NPY"),
    "image a text": ("find text.png target.npy --shape 3", "text.png: got a file of another format"),
    "image a JPEG": ("find image.jpg target.npy --shape 3", "image.jpg: got a file of another format"),
    "PNG cut short": ("find cut.png target.npy --shape 3", "cut.png: got unreadable PNG data"),
    "TIFF cut short": ("find cut.tif target.npy --shape 3", "cut.tif: got unreadable TIFF data"),
    "NPY cut short": ("find cut.npy target.npy --shape 3", "cut.npy: got unreadable NPY data"),
    "colour image, gray target": (
        "find colour.png target.npy --shape 3",
        "colour.png: got a colour image.*19 x 23",
    ),
    "gray image, colour target": ("find image.png colour.tif --shape 3", "colour.tif: got a colour image.*19 x 23"),
    "colour array": ("find image.png colour.npy --shape 3", "colour.npy: got a colour image"),
    "alpha": ("find alpha.png target.npy --shape 3", "alpha.png: got a colour image or one with alpha.*2 channels"),
    "palette PNG": ("find palette.png target.npy --shape 3", "palette.png: got palette colours"),
    "palette TIFF": ("find palette.tif target.npy --shape 3", "palette.tif: got palette colours"),
    "white zero TIFF": ("find white.tif target.npy --shape 3", "white.tif: got zero for white"),
    "stack": ("find stack.tif target.npy --shape 3", "stack.tif: got 5 planes"),
    "several images": ("find several.tif target.npy --shape 3", "several.tif: got 2 images in one file"),
    "four dimensions": ("find four.npy target.npy --shape 3", "four.npy: got an array of 4 dimensions"),
    "one dimension": ("find line.npy target.npy --shape 3", "line.npy: got an array of 1 dimensions"),
    "no pixels": ("find none.npy target.npy --shape 3", "empty|at least one|no pixels"),
    "complex": ("find complex.npy target.npy --shape 3", "complex"),
    "text array": ("find words.npy target.npy --shape 3", "real"),
    "pickled array": ("find pickled.npy target.npy --shape 3", "pickled.npy: got unreadable NPY data.*allow_pickle"),
    "NaN": ("find nan.npy target.npy --shape 3", "NaN"),
    "shapes that fit no mode": ("find image.npy small.npy --shape 3", "19.*23"),
    "too few pixels": ("find image.npy target.npy --shape 15,15", r"\b45\b.*\b225\b"),
    "kernel larger than the image": ("find image.npy target.npy --shape 40", "40"),
    "output exists": ("find image.npy target.npy --shape 3 -o taken.npy", "taken.npy.*exists already.*--force"),
    "output of another format": ("find image.npy target.npy --shape 3 -o kernel.png", "a name that ends in .npy"),
    "output without folder": ("find image.npy target.npy --shape 3 -o no/kernel.npy", "there is no folder"),
    "output a folder": ("find image.npy target.npy --shape 3 -o folder.npy --force", "no plain file"),
    "output an input": ("find image.npy target.npy --shape 3 -o target.npy --force", "both as input and as output"),
}


@pytest.fixture
def bad_files(pair, pixels):
    colour = np.dstack([pixels, pixels, pixels])
    (pair / "empty.png").write_bytes(b"")
    (pair / "text.png").write_text("not a picture")
    Image.fromarray(pixels).save("image.jpg")
    tifffile.imwrite("plain.tif", pixels)
    for source, copy in (("image.png", "cut.png"), ("plain.tif", "cut.tif"), ("image.npy", "cut.npy")):
        (pair / copy).write_bytes((pair / source).read_bytes()[:-60])
    Image.fromarray(colour).save("colour.png")
    tifffile.imwrite("colour.tif", colour)
    np.save("colour.npy", colour)
    Image.fromarray(pixels).convert("LA").save("alpha.png")
    Image.fromarray(pixels).convert("P").save("palette.png")
    tifffile.imwrite("palette.tif", pixels, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
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
    np.save("taken.npy", np.zeros(3))
    (pair / "folder.npy").mkdir()
    return pair


@pytest.mark.parametrize("call, says", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_call(call, says, bad_files, capsys):
    before = snapshot(bad_files)
    argv = call.split()
    if argv[:1] == ["find"] and "-o" not in argv:
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


@pytest.mark.parametrize("command", [[], ["demo"], ["find"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    assert "exit codes" in capsys.readouterr().out or command == ["demo"]


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"kernelfit {kernelfit.__version__}\n"


def test_help_and_bad_calls_load_nothing_heavy():
    script = (
        "import sys; from kernelfit import cli\n"
        "assert cli.main(['find', 'a.png', 'b.png', '--shape', 'x']) == 2\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'pyfftw', 'skimage', 'PIL', 'tifffile', 'dask'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_reader_that_hangs_up_gets_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "kernelfit.cli", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert err == b""


# ---- io -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "u4", "f2", "f4", ">f4", "f8"])
def test_tiff_comes_back_as_stored(dtype, tmp_path, pixels):
    stored = pixels.astype(dtype) * (3 if dtype != "u1" else 1)
    tifffile.imwrite(tmp_path / "image.tif", stored)
    image = io.read_image(tmp_path / "image.tif")
    assert (image.dtype.kind, image.dtype.itemsize) == (stored.dtype.kind, stored.dtype.itemsize)
    np.testing.assert_array_equal(image, stored)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_compressed_tiff(dtype, compression, tmp_path, pixels):
    Image.fromarray(pixels.astype(dtype)).save(tmp_path / "image.tif", compression=compression)
    np.testing.assert_array_equal(io.read_image(tmp_path / "image.tif"), pixels)


@pytest.mark.parametrize("scale", [1, 257])
def test_png_of_8_and_16_bits(scale, tmp_path, pixels):
    stored = pixels if scale == 1 else pixels.astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / "image.png")
    np.testing.assert_array_equal(io.read_image(tmp_path / "image.png"), stored)


def test_black_and_white_png_is_boolean(tmp_path, pixels):
    Image.fromarray(pixels > 100).save(tmp_path / "image.png")
    np.testing.assert_array_equal(io.read_image(tmp_path / "image.png"), pixels > 100)


def test_format_goes_by_content_not_by_name(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "image.tif", format="png")
    np.testing.assert_array_equal(io.read_image(tmp_path / "image.tif"), pixels)


def test_npy_is_mapped_not_read(tmp_path, pixels):
    np.save(tmp_path / "image.npy", np.asfortranarray(pixels))
    image = io.read_image(tmp_path / "image.npy")
    assert isinstance(image, np.memmap) and not image.flags.writeable
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("overwrite", [False, True])
def test_failed_write_leaves_what_was_there(overwrite, tmp_path, monkeypatch):
    path = tmp_path / "kernel.npy"
    if overwrite:
        np.save(path, KERNEL)
    before = snapshot(tmp_path)

    def full_disk(file, array, **keywords):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.write_npy(path, KERNEL + 1, overwrite=overwrite)
    assert snapshot(tmp_path) == before


def test_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "kernel.npy"
    original = np.save

    def meanwhile(file, array, **keywords):
        path.write_text("somebody else's")
        original(file, array, **keywords)

    monkeypatch.setattr(np, "save", meanwhile)
    with pytest.raises(FileExistsError, match="exists already"):
        io.write_npy(path, KERNEL)
    assert snapshot(tmp_path) == {"kernel.npy": b"somebody else's"}


def test_written_file_has_the_usual_permissions_and_nothing_beside_it(tmp_path):
    io.write_npy(tmp_path / "kernel.npy", KERNEL)
    (tmp_path / "usual").touch()
    assert (tmp_path / "kernel.npy").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["kernel.npy", "usual"]


def test_link_is_written_through(tmp_path):
    np.save(tmp_path / "real.npy", np.zeros(3))
    (tmp_path / "link.npy").symlink_to("real.npy")
    io.write_npy(tmp_path / "link.npy", KERNEL, overwrite=True)
    assert (tmp_path / "link.npy").is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "real.npy"), KERNEL)


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        io.write_npy(tmp_path / "kernel.npy", np.array([[{}]], dtype=object))
    assert os.listdir(tmp_path) == []
