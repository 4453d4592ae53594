"""What is exported runs in its tool and gives the target."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

import kernelfit

IMAGE = np.random.default_rng(0).normal(100, 20, size=(40, 51))
CASES = [
    {"boundary": "fill", "fillvalue": 7.0},
    {"boundary": "wrap", "origin": (0, 3)},
    {"boundary": "symm", "operation": "correlation"},
    {"boundary": "mirror", "stride": (2, 3), "offset": (1, 2)},
    {"boundary": "nearest", "mode": "full"},
    {"mode": "valid"},
]


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize(("tool", "module"), [("scipy", "scipy"), ("opencv", "cv2"), ("torch", "torch")])
def test_the_source_gives_the_target(tool, module, settings):
    pytest.importorskip(module)
    taps = np.random.default_rng(1).normal(size=(4, 5))
    given = dict(settings)
    target = kernelfit.apply_kernel(IMAGE, taps, **given) + 3.0
    fit = kernelfit.find_kernel(IMAGE, target, (4, 5), background=0, **settings)
    space = {}
    exec(fit.export(tool), space)
    made = space["apply"](IMAGE)
    assert made.shape == target.shape
    np.testing.assert_allclose(made, target, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
@pytest.mark.parametrize(("tool", "module"), [("scipy", "scipy"), ("opencv", "cv2"), ("torch", "torch")])
def test_the_source_gives_a_target_of_channels(tool, module, channels):
    """Of three colours along the first axis or the last, each with a constant of its own, on every second pixel."""
    pytest.importorskip(module)
    rng = np.random.default_rng(1)
    taps = rng.normal(size={"shared": (), "separate": (3,), "mixed": (3, 3)}[channels] + (2, 3))
    image = rng.normal(100, 20, size=(40, 51, 3))
    for axis in (0, -1):
        given = {"boundary": "wrap", "stride": (2, 3), "offset": (1, 0), "channel_axis": axis}
        moved = np.moveaxis(image, -1, axis)
        constant = np.array([3.0, -5.0, 0.5]).reshape((3, 1, 1) if axis == 0 else 3)
        target = kernelfit.apply_kernel(moved, taps, **given) + constant
        fit = kernelfit.find_kernel(moved, target, (2, 3), channels=channels, background=0, **given)
        assert fit.kernel.shape == taps.shape
        space = {}
        exec(fit.export(tool), space)
        np.testing.assert_allclose(space["apply"](moved), target, rtol=1e-9, atol=1e-6)


def test_matrices_have_whole_numbers_or_errors():
    noise = np.random.default_rng(2).normal(0, 0.01, IMAGE.shape)
    whole = kernelfit.apply_kernel(IMAGE, np.outer([1, 2, 1], [1, 2, 4, 2, 1]) / 40, boundary="wrap") + noise
    text = kernelfit.find_kernel(IMAGE, whole, (3, 5), boundary="wrap").export("latex")
    assert text.startswith(r"\frac{1}{40}\begin{bmatrix}") and "2 & 4 & 8 & 4 & 2" in text
    other = kernelfit.apply_kernel(IMAGE, np.random.default_rng(3).random((3, 5)), boundary="wrap") + noise
    assert r"\pm" in kernelfit.find_kernel(IMAGE, other, (3, 5), boundary="wrap").export("latex")


def test_a_matrix_has_the_taps_in_as_many_cells():
    """Of LaTeX: braces that close, environments that end, rows of one length, and a matrix for each two channels."""
    image = np.random.default_rng(1).normal(100, 20, size=(40, 51, 2))
    taps = np.random.default_rng(2).normal(size=(2, 2, 3, 4))
    target = kernelfit.apply_kernel(image, taps, channel_axis=-1, mode="valid") + np.random.default_rng(3).normal(
        size=(38, 48, 2)
    )
    fit = kernelfit.find_kernel(image, target, (3, 4), mode="valid", channel_axis=-1, channels="mixed")
    text = fit.export("latex")
    assert text.count("{") == text.count("}") and text.count(r"\begin") == text.count(r"\end") == 4
    assert re.findall("% (.*)", text)[1] == "channel 0 from channel 1"
    bodies = re.findall(r"\\begin\{bmatrix\}(.*?)\\end\{bmatrix\}", text, re.DOTALL)
    cells = [[cell.split(r"\pm") for cell in row.split("&")] for body in bodies for row in body.split(r"\\")]
    values = np.array(cells, dtype=float).reshape(2, 2, 3, 4, 2)
    np.testing.assert_allclose(values[..., 0], fit.kernel, atol=0.1 * fit.stderr.max())
    np.testing.assert_allclose(values[..., 1], fit.stderr, rtol=0.1)


def test_what_cannot_be_exported_is_refused():
    fit = kernelfit.find_kernel(IMAGE, IMAGE, (1, 3))
    with pytest.raises(ValueError, match="need one of"):
        fit.export("paint")
    stack = np.stack([IMAGE, 2 * IMAGE], axis=-1)
    for tool in ("imagemagick", "ffmpeg", "gimp", "imagej"):
        with pytest.raises(ValueError, match=f"got 2 kernels for '{tool}'.*split_channels"):
            kernelfit.find_kernel(stack, stack, 1, channel_axis=-1, channels="separate").export(tool)
        with pytest.raises(ValueError, match="background for each of 2 channels"):
            kernelfit.find_kernel(stack, stack + [3, 5], 1, channel_axis=-1, background=0).export(tool)
    with pytest.raises(ValueError, match="background that varies"):
        kernelfit.find_kernel(IMAGE, IMAGE, (1, 3), background=1).export("scipy")


# ---- tools of the command line ---------------------------------------------------------------------------------------

WHOLE = np.random.default_rng(4).integers(60, 190, (40, 51)).astype(np.uint8)


def run(text, tmp_path, image=WHOLE):
    """Run a script on whole numbers, and return what it made."""
    pytest.importorskip("PIL.Image").fromarray(image).save(tmp_path / "image.png")
    (tmp_path / "script.sh").write_text(text)
    subprocess.run(["sh", "script.sh", "image.png", "made.png"], check=True, cwd=tmp_path, timeout=300)
    made = np.asarray(kernelfit.io.read_image(tmp_path / "made.png", colours=True), dtype=np.float64)
    return made if made.ndim == image.ndim else made[..., 0]


@pytest.mark.skipif(not (shutil.which("magick") or shutil.which("convert")), reason="ImageMagick is not here")
@pytest.mark.parametrize("settings", [
    {"boundary": "fill"}, {"boundary": "wrap", "origin": (0, 3)}, {"boundary": "symm", "operation": "correlation"},
    {"boundary": "nearest", "origin": (2, 0)}, {"boundary": "wrap", "stride": (2, 3), "offset": (1, 2)},
    {"boundary": "symm", "stride": (4, 1)},
])  # fmt: skip
def test_imagemagick_gives_the_target(settings, tmp_path):
    taps = np.random.default_rng(1).random((4, 5)) / 10
    target = kernelfit.apply_kernel(WHOLE, taps, **settings)
    fit = kernelfit.find_kernel(WHOLE, target, (4, 5), **settings)
    made = run(fit.export("imagemagick"), tmp_path) / 257  # of 16 bits
    np.testing.assert_allclose(made, target, atol=0.01)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="FFmpeg is not here")
@pytest.mark.parametrize("shape", [(5, 5), (3, 3), (4, 5), (7, 6), (1, 9), (1, 30), (8, 1), (1, 1)])
def test_ffmpeg_gives_the_target(shape, tmp_path):
    taps = np.random.default_rng(1).random(shape)
    taps /= taps.sum()
    target = kernelfit.apply_kernel(WHOLE, taps, boundary="mirror") + 7
    fit = kernelfit.find_kernel(WHOLE, target, shape, boundary="mirror", background=0)
    text = fit.export("ffmpeg")
    inside = np.s_[shape[0] :, :] if shape[1] == 1 else np.s_[:]  # a column's last rows are others
    inside = np.s_[shape[0] : -shape[0], :] if "met inside only" in text else inside
    assert ("met inside only" in text) == (shape[1] == 1 and shape[0] > 1)
    np.testing.assert_allclose(run(text, tmp_path)[inside], target[inside], atol=0.51)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("gimp-console") or shutil.which("gimp")), reason="GIMP is not here")
@pytest.mark.parametrize(("shape", "settings"), [
    ((3, 5), {"boundary": "nearest", "operation": "correlation"}), ((4, 3), {"boundary": "fill"}),
    ((7, 12), {"boundary": "wrap", "origin": (1, 9)}),
])  # fmt: skip
def test_gimp_gives_the_target(shape, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path.parent))  # where it keeps what it finds when it starts first
    taps = np.random.default_rng(1).normal(size=shape)
    taps *= 1.5 / np.abs(taps).sum()
    taps[0, 0] += 0.6 - taps.sum()
    target = kernelfit.apply_kernel(WHOLE, taps, **settings) + 20
    assert 0 <= target.min() and target.max() <= 255
    fit = kernelfit.find_kernel(WHOLE, target, shape, background=0, **settings)
    made = run(fit.export("gimp"), tmp_path) / 257
    np.testing.assert_allclose(made, target, atol=0.01)


@pytest.mark.parametrize(("tool", "boundary", "atol"), [
    ("imagemagick", "symm", 0.01), ("ffmpeg", "mirror", 0.51),
    pytest.param("gimp", "wrap", 0.01, marks=pytest.mark.slow),
])  # fmt: skip
def test_scripts_lay_one_kernel_on_all_colours(tool, boundary, atol, tmp_path, monkeypatch):
    if not any(map(shutil.which, {"imagemagick": ("magick", "convert"), "gimp": ("gimp-console",)}.get(tool, (tool,)))):
        pytest.skip(f"{tool} is not here")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    image = np.stack([WHOLE, WHOLE[::-1], 255 - WHOLE], axis=-1)
    taps = np.random.default_rng(1).random((4, 5))
    given = {"boundary": boundary, "channel_axis": -1}
    target = kernelfit.apply_kernel(image, taps / taps.sum(), **given)
    text = kernelfit.find_kernel(image, target, (4, 5), **given).export(tool)
    made = run(text, tmp_path, image)
    np.testing.assert_allclose(made / (1 if tool == "ffmpeg" else 257), target, atol=atol)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="LaTeX is not here")
def test_latex_sets_the_matrices(tmp_path):
    stack = np.stack([IMAGE, np.roll(IMAGE, 3)], axis=-1)
    noise = np.random.default_rng(2).normal(0, 0.01, stack.shape)
    mixed = kernelfit.find_kernel(stack, stack + noise, (2, 3), channel_axis=-1, channels="mixed")
    whole = kernelfit.find_kernel(IMAGE, IMAGE / 2, (1, 3))
    text = "\\documentclass{article}\\usepackage{amsmath}\\begin{document}\n%s\n\\[%s\\]\\end{document}\n"
    (tmp_path / "matrix.tex").write_text(text % (mixed.export("latex"), whole.export("latex")))
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "matrix.tex"]
    done = subprocess.run(call, cwd=tmp_path, timeout=300, stdout=subprocess.PIPE)
    assert done.returncode == 0 and b"Output written" in done.stdout, done.stdout.decode()


def test_a_macro_of_imagej_holds_the_matrix():
    """ImageJ lays the matrix, of odd sides, on the image as it is, the outermost pixels repeated."""
    taps = np.random.default_rng(1).normal(size=(4, 5))
    target = kernelfit.apply_kernel(IMAGE, taps, boundary="nearest", origin=(0, 3)) - 2
    fit = kernelfit.find_kernel(IMAGE, target, (4, 5), boundary="nearest", origin=(0, 3), background=0)
    text = fit.export("imagej")
    matrix = np.array([line.split() for line in re.search(r"text1=\[(.*)\]", text)[1].split(r"\n")[:-1]], dtype=float)
    added = float(re.search(r'"value=(.*) stack"', text)[1])
    assert matrix.shape == (7, 7) and 'run("32-bit");' in text
    np.testing.assert_allclose(scipy.ndimage.correlate(IMAGE, matrix, mode="nearest") + added, target, atol=1e-6)
    assert "// Beyond" in kernelfit.find_kernel(IMAGE, IMAGE, (1, 3), boundary="wrap").export("imagej")


IMAGEJ = Path("/usr/share/java/ij.jar")  # Debian's


@pytest.mark.slow
@pytest.mark.skipif(not (IMAGEJ.exists() and shutil.which("java")), reason="ImageJ is not here")
@pytest.mark.skipif(not shutil.which("xvfb-run"), reason="ImageJ needs a screen, Xvfb is not here")
def test_imagej_gives_the_target(tmp_path):
    """Of gray, of a stack, and of colours, which become the slices of a stack."""
    tifffile = pytest.importorskip("tifffile")
    taps = np.random.default_rng(1).normal(size=(4, 7))
    target = kernelfit.apply_kernel(WHOLE, taps, boundary="nearest", origin=(0, 3)) - 2
    fit = kernelfit.find_kernel(WHOLE, target, (4, 7), boundary="nearest", origin=(0, 3), background=0)
    stack = np.stack([WHOLE, WHOLE[::-1], 255 - WHOLE])
    images = {"gray": WHOLE, "stack": stack, "colours": np.moveaxis(stack, 0, -1)}
    macro = ""
    for name, image in images.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image, photometric="rgb" if name == "colours" else "minisblack")
        macro += (
            f'open("{tmp_path}/{name}.tif");\n{fit.export("imagej")}saveAs("Tiff", "{tmp_path}/{name} made.tif");\n'
        )
    (tmp_path / "macro.ijm").write_text(macro)
    call = ["xvfb-run", "-a", "java", "-jar", str(IMAGEJ), "-batch", str(tmp_path / "macro.ijm")]
    subprocess.run(call, check=True, cwd=tmp_path, timeout=300, env={**os.environ, "HOME": str(tmp_path)})
    every = np.stack([kernelfit.apply_kernel(one, taps, boundary="nearest", origin=(0, 3)) - 2 for one in stack])
    for name, expected in (("gray", target), ("stack", every), ("colours", every)):
        np.testing.assert_allclose(tifffile.imread(tmp_path / f"{name} made.tif"), expected, atol=1e-3)


@pytest.mark.parametrize(("tool", "shape", "settings", "words"), [
    ("imagemagick", (3, 4), {"boundary": "mirror"}, "another boundary"),
    ("imagemagick", (3, 4), {"boundary": "fill", "fillvalue": 3.0}, "fillvalue=0"),
    ("imagemagick", (3, 4), {"boundary": "wrap", "background": 0}, "no background"),
    ("imagej", (3, 4), {"boundary": "wrap", "stride": 2}, "every pixel"),
    ("ffmpeg", (3, 4), {"boundary": "wrap", "stride": (1, 2), "offset": (0, 1)}, "or dataclasses.replace"),
    ("gimp", (3, 4), {"mode": "valid"}, "mode='same'"),
    ("ffmpeg", (3, 4), {"mode": "full"}, "mode='same'"),
    ("ffmpeg", (2, 9), {"boundary": "wrap"}, "7 x 7"),
])  # fmt: skip
def test_what_a_tool_has_not_is_said(tool, shape, settings, words):
    given = {name: value for name, value in settings.items() if name != "background"}
    target = kernelfit.apply_kernel(IMAGE, np.ones(shape), **given) + 5.0 * ("background" in settings)
    with pytest.raises(ValueError, match=words):
        kernelfit.find_kernel(IMAGE, target, shape, **settings).export(tool)


def test_a_table_of_taps():
    pytest.importorskip("pandas")
    fit = kernelfit.find_kernel(IMAGE, np.roll(IMAGE, 1, axis=1), (3, 4), boundary="wrap")
    table = fit.to_dataframe()
    assert list(table) == ["row", "column", "tap", "stderr", "low", "high"] and len(table) == 12
    assert table.set_index(["row", "column"])["tap"][0, 1] == pytest.approx(1.0)
    stack = np.stack([IMAGE, IMAGE**2], axis=-1)
    mixed = kernelfit.find_kernel(stack, stack, (1, 2), channel_axis=-1, channels="mixed").to_dataframe()
    assert list(mixed)[:4] == ["target_channel", "image_channel", "row", "column"] and len(mixed) == 8
    line = kernelfit.find_kernel(IMAGE[0], IMAGE[0], 3).to_dataframe()
    assert list(line["lag"]) == [-1, 0, 1]
