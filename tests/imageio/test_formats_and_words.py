"""Further formats of images, what is written of NaN, and what reaches the terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kernelfit
from helpers import grid
from kernelfit.cli.options import printable
from kernelfit.cli.parser import main
from kernelfit.core import npz
from kernelfit.io import ImageFileError, read_image

Image = pytest.importorskip("PIL.Image")
h5py = pytest.importorskip("h5py")
tifffile = pytest.importorskip("tifffile")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kernelfit.__file__).parents[1])}
KERNEL = np.array([[0.1, 0.5, 0.2], [0.0, 0.3, -0.1]])


@pytest.fixture
def pixels():
    return np.random.default_rng(5).integers(0, 255, (29, 42)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch, pixels):
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", pixels)
    np.save("target.npy", kernelfit.apply_kernel(pixels, KERNEL, mode="valid"))
    np.save("k.npy", KERNEL)
    return tmp_path


def called(capsys, *argv):
    code = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1 and "Traceback" not in err
    return code, out, err


def outside(*words, **how):
    return subprocess.run([sys.executable, "-m", "kernelfit", *words], capture_output=True, env=ENVIRONMENT, **how)


# ---- formats --------------------------------------------------------------------------------------------------------


def test_bmp_webp_and_palettes_are_read(tmp_path, pixels):
    colour = np.stack([pixels, pixels[::-1], pixels // 2], axis=-1)
    few = (colour // 64) * 64
    for name, array, words in (("gray.bmp", pixels, {}), ("colour.bmp", colour, {}),
                               ("colour.webp", colour, {"lossless": True}), ("gray.gif.png", pixels, {})):  # fmt: skip
        Image.fromarray(array).save(tmp_path / name, **words)
        np.testing.assert_array_equal(read_image(tmp_path / name, colours=True), array)
    Image.fromarray(pixels).convert("P").save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), pixels)
    Image.fromarray(few).quantize(256, method=Image.Quantize.FASTOCTREE).save(tmp_path / "few.png")
    shown = np.array(Image.open(tmp_path / "few.png").convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "few.png", colours=True), shown)
    np.testing.assert_array_equal(read_image(tmp_path / "few.png", channel="green"), shown[..., 1])
    with pytest.raises(ImageFileError, match="few.png: got a colour image"):
        read_image(tmp_path / "few.png")
    clear = Image.fromarray(pixels).convert("P")
    clear.save(tmp_path / "clear.png", transparency=int(np.array(clear)[0, 0]))
    found = read_image(tmp_path / "clear.png", colours=True)
    assert found.shape == (29, 42, 2) and (found[..., 1] == 0).any()


@pytest.mark.parametrize("packing", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_palettes_of_tiff_are_read(tmp_path, pixels, packing):
    few = Image.fromarray(np.stack([pixels, pixels[::-1], pixels // 2], axis=-1)).quantize(50)
    few.save(tmp_path / "few.tif", compression=packing)
    shown = np.array(few.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "few.tif", colours=True), shown)
    np.testing.assert_array_equal(read_image(tmp_path / "few.tif", channel="blue"), shown[..., 2])
    with pytest.raises(ImageFileError, match="few.tif: got a colour image"):
        read_image(tmp_path / "few.tif")
    Image.fromarray(pixels).convert("P").save(tmp_path / "gray.tif", compression=packing)
    np.testing.assert_array_equal(read_image(tmp_path / "gray.tif"), pixels)


def test_a_palette_of_16_bits_keeps_them(tmp_path, pixels):
    table = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", pixels, photometric="palette", colormap=table)
    found = read_image(tmp_path / "deep.tif", colours=True)
    np.testing.assert_array_equal(found, np.moveaxis(table[:, pixels], 0, -1))
    assert found.dtype == np.uint16


@pytest.mark.parametrize("text", [
    "1,2,3\n4,5,6.5\n", "1 2 3\n4 5 6.5\n", "1\t2\t3\n4\t5\t6.5\n", "1;2;3\n4;5;6,5\n", "# rows\n\n1, 2, 3\n4, 5, 6.5",
    "\ufeff1,2,3\r\n4,5,6.5\r\n", "+1 2e0 .3e1\n4 5 6.5\n",
])  # fmt: skip
def test_tables_of_numbers_are_images(text, tmp_path):
    path = tmp_path / "table.any"
    path.write_bytes(text.encode())
    np.testing.assert_array_equal(read_image(path), [[1, 2, 3], [4, 5, 6.5]])


@pytest.mark.parametrize("text", ["1,2\n3\n", "1,x\n", "1,,2\n3,4,5\n", "12 monkeys\n", "1 2\n\x00\x01"])
def test_tables_that_are_none(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ImageFileError, match="t.csv"):
        read_image(tmp_path / "t.csv")


@pytest.mark.slow
def test_the_question_is_answered_from_its_numbers(folder, capsys):
    from kernelfit.cli.demo import ANSWERED, QUESTION

    for name, text in (("question.csv", QUESTION), ("answered.txt", ANSWERED)):
        Path(name).write_text("\n".join(",".join(row.split()) for row in text.split(";")))
    call = ("find", "question.csv", "answered.txt", "--shape", "5", "--boundary", "fill", "-o", "found.csv")
    assert called(capsys, *call)[0] in (0, 1)
    truth = np.zeros((5, 5))
    truth[1, 0] = 0.5
    np.testing.assert_allclose(np.loadtxt("found.csv", delimiter=","), truth, atol=1e-9)


# ---- NaN and overflow -----------------------------------------------------------------------------------------------


def test_nan_is_written_by_leave_only(folder, pixels, capsys):
    holes = np.where(pixels == pixels[9, 11], np.nan, pixels)
    np.save("nan.npy", holes)
    np.save("one.npy", np.array([[1.0]]))
    for name in ("o.png", "o.jpg"):
        code, out, err = called(capsys, "apply", "nan.npy", "one.npy", "-o", name)
        assert code == 2 and "NaN" in err and "--nan VALUE" in err and ".tif" in err and not Path(name).exists()
    assert called(capsys, "apply", "nan.npy", "one.npy", "-o", "o.png", "--nan", "7")[0] == 0
    np.testing.assert_array_equal(np.array(Image.open("o.png")), np.where(np.isnan(holes), 7, holes))
    assert called(capsys, "apply", "nan.npy", "one.npy", "-o", "o.tif")[0] == 0
    np.testing.assert_array_equal(tifffile.imread("o.tif"), holes.astype("f4"))
    assert called(capsys, "apply", "nan.npy", "one.npy", "-o", "p.png", "--nan", "nan")[0] == 2
    assert called(capsys, "deconvolve", "nan.npy", "k.npy", "-o", "p.png")[0] == 2


def test_overflow_is_an_error_that_names_a_wider_format(folder, pixels, capsys):
    np.save("large.npy", pixels * 1e40)
    np.save("one.npy", np.array([[1.0]]))
    np.save("ten.npy", np.array([[1e300]]))
    np.save("inf.npy", np.where(pixels == pixels[3, 4], np.inf, pixels))
    for command in ("apply", "deconvolve"):
        code, out, err = called(capsys, command, "large.npy", "one.npy", "-o", "o.tif")
        assert code == 2 and "larger than" in err and ".npy or .fits" in err, err
        assert called(capsys, command, "large.npy", "one.npy", "-o", f"{command}.npy")[0] == 0
        assert np.isfinite(np.load(f"{command}.npy")).all()
    for call in (("large.npy", "ten.npy", "-o", "o.npy"), ("inf.npy", "one.npy", "-o", "o.fits"),
                 ("inf.npy", "one.npy", "-o", "o.png")):  # fmt: skip
        with np.errstate(all="ignore"):
            code, out, err = called(capsys, "apply", *call)
        assert code == 2 and "infinite" in err, err
    assert not [name for name in os.listdir() if name.startswith("o.")]


# ---- the terminal ---------------------------------------------------------------------------------------------------


def test_control_characters_are_escaped():
    assert printable("a\x1b[2J\x07\x9b\udcff\u202eb\tc\nd é ±") == r"a\x1b[2J\x07\x9b\udcff\u202eb" + "\tc\nd é ±"


@pytest.mark.slow
def test_no_escape_sequence_of_a_file_reaches_the_terminal(folder, pixels, capsys):
    with h5py.File("a.h5", "w") as file:
        file["one\x1b[31m"], file["two\x9b2J"] = pixels, pixels
    Path("k.json").write_text(json.dumps({"kernel": [[1, 2.0]], "verdict": {"text": "\x1b]0;owned\x07"}}))
    Path("bad.json").write_text(json.dumps({"kernel": [[1, 2.0]], "convention": {"mode": "\x1b[2J"}}))
    np.save("evil\x1b[2J.npy", KERNEL)
    for call in (("find", "a.h5", "target.npy", "--shape", "2,3"), ("inspect", "k.json"), ("inspect", "bad.json"),
                 ("inspect", "k.json", "--json"), ("inspect", "no\x1b[2J.npy"),
                 ("inspect", "evil\x1b[2J.npy", "--json"),
                 ("apply", "image.npy", "evil\x1b[2J.npy", "-o", "out\x1b[2J.npy"), ("find", "\x1b", "--shape", "3"),
                 ("compare", "evil\x1b[2J.npy", "k.npy", "--json")):  # fmt: skip
        code, out, err = called(capsys, *call)
        assert not set(out + err) & {"\x1b", "\x9b", "\x07"}, (call, out, err)
        assert out + err


@pytest.mark.slow
def test_a_name_that_is_no_utf_8_works(folder, pixels):
    name = b"bild-\xff.npy"
    os.rename("image.npy", name)
    done = outside("find", name, "target.npy", "--shape", "2,3", "-o", b"k-\xfe.json", "--report", b"r-\xfe.html")
    assert (done.returncode, done.stderr) == (0, b"") and b"\\udcfe" in done.stdout
    assert b"bild-" in Path(os.fsdecode(b"r-\xfe.html")).read_bytes()
    assert json.loads(Path(os.fsdecode(b"k-\xfe.json")).read_text())["kind"] == "kernelfit kernel"
    done = outside("apply", name, b"k-\xfe.json", "-o", b"x-\xfe.npy")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@grid("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"], 4)
def test_closed_streams_get_no_traceback(closed, folder):
    call = f"{sys.executable} -m kernelfit find image.npy target.npy --shape 2,3 -o k.npz {closed}"
    done = subprocess.run(["sh", "-c", call], capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 0 and b"Traceback" not in done.stderr + done.stdout
    np.testing.assert_allclose(kernelfit.KernelFit.load("k.npz").kernel, KERNEL, atol=1e-9)


@pytest.mark.slow
def test_a_closed_or_full_standard_output_is_an_error_where_it_matters(folder):
    for call in ("find image.npy target.npy --shape 2,3 -o - >&-", "inspect k.npy >/dev/full"):
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m kernelfit {call}"], capture_output=True, env=ENVIRONMENT
        )
        assert done.returncode == 2 and done.stderr.count(b"\n") == 1, (call, done.stderr)


# ---- report and kernel ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_report_and_kernel_are_written_together_or_not_at_all(folder, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    call = ("find", "image.npy", "target.npy", "--shape", "2,3", "-o", "out.npy", "--report", "r.html")
    original = np.save

    def full(file, *arrays, **words):
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir())
    monkeypatch.setattr(np, "save", full)
    assert called(capsys, *call)[0] == 2
    assert sorted(os.listdir()) == before
    monkeypatch.setattr(np, "save", original)
    take = npz._take_free_name

    def meanwhile(temporary, path, what):
        if what == "the report":
            path.write_text("somebody else's")
        take(temporary, path, what)

    monkeypatch.setattr(npz, "_take_free_name", meanwhile)
    assert called(capsys, *call)[0] == 2
    assert sorted(os.listdir()) == sorted([*before, "r.html"]) and Path("r.html").read_text() == "somebody else's"
    monkeypatch.undo()
    os.chdir(folder)
    Path("r.html").unlink()
    assert called(capsys, *call)[0] == 0
    assert {"out.npy", "r.html"} <= set(os.listdir())


@pytest.mark.parametrize("option", ["--shape=1_0", "--workers=1_0", "--fillvalue=1_0", "--noise=1_0,2"])
def test_numbers_are_no_python(option, folder, capsys):
    words = [] if option.startswith("--shape") else ["--shape", "3"]
    code, _, err = called(capsys, "find", "image.npy", "target.npy", *words, option)
    assert code == 2 and "1_0" in err
