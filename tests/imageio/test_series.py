"""Folders and patterns of files: which of them belong together."""

import os

import pytest

from kernelfit.cli import series
from kernelfit.io import pair_files

zarr = pytest.importorskip("zarr")


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")


def test_files_belong_together_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "in/2.png", "in/10.png", "in/.hidden", "in/s/x", "out/2.tif", "out/10.fits.gz")
    make(tmp_path, "m/10.png", "m/2.png")
    pairs = [("in/10.png", "out/10.fits.gz"), ("in/2.png", "out/2.tif")]
    assert pair_files("in", "out") == pairs
    both = [(*pair, f"m/{n}.png", "bad.png") for pair, n in zip(pairs, (10, 2), strict=True)]
    assert pair_files("in", "out", "m", "bad.png") == pair_files("in/*.png", "out", "m/*.png", "bad.png") == both
    make(tmp_path, "x/img_01_raw.png", "x/img_02_raw.png", "x/img_01_done.png", "x/img_02_done.png", "x/other.png")
    expected = [(f"x/img_0{i}_raw.png", f"x/img_0{i}_done.png") for i in (1, 2)]
    assert pair_files("x/*_raw.png", "x/*_done.png") == expected
    assert pair_files("x/img_??_raw.png", "x/img_*_done.png") == expected
    assert pair_files("x/img_0[12]_raw.png", "x/img_0[!9]_done.png") == expected
    make(tmp_path, "n1/before.png", "n1/after.png", "n2/before.png", "n2/after.png")
    assert pair_files("n?/before.png", "n?/after.png") == [(f"n{i}/before.png", f"n{i}/after.png") for i in (1, 2)]
    make(tmp_path, "odd[1].png")
    assert not series.is_series("odd[1].png") and pair_files("odd[1].png", "b.png") == [("odd[1].png", "b.png")]
    zarr.create_array("z/1.zarr", shape=(3, 4), dtype="u1")
    assert not series.is_series("z/1.zarr") and pair_files("z", "z") == [("z/1.zarr", "z/1.zarr")]


@pytest.mark.parametrize(
    "call, text",
    [
        (("in", "out"), r"got 3 files of 'in' and 2 of 'out', where nothing in 'out' belongs to in/3.png; need files"),
        (("out", "in"), r"got 2 files of 'out' and 3 of 'in', where nothing in 'out' belongs to in/3.png"),
        (("in/*.png", "x/*.png"), r"3 of 'x/\*.png', where nothing in 'x/\*.png' belongs to in/1.png.*/\*_sharp.png"),
        (("in/[12].png", "out", "in"), "where nothing in 'in/.12..png' belongs to in/3.png"),
        (("in", "out/1.tif"), "got a single file out/1.tif with the several of 'in', need two folders or patterns"),
        (("out/1.tif", "in"), "got a single file out/1.tif with the several of 'in'"),
        (("in/1.png", "out/1.tif", "in"), "got the several files of 'in' for a single pair, need one file"),
        (("*.jpg", "in"), "got a pattern '[*].jpg' that no file matches"),
        (("empty", "in"), "got an empty folder empty, need at least one image file"),
        (("two", "in"), "got two/1.png and two/1.tif, which are called the same but for the ending"),
    ],
)  # fmt: skip
def test_files_without_a_partner_are_named(call, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "in/1.png", "in/2.png", "in/3.png", "out/1.tif", "out/2.tif", "two/1.png", "two/1.tif")
    make(tmp_path, "x/1_x.png", "x/2_x.png", "x/3_x.png")
    os.mkdir("empty")
    with pytest.raises(ValueError, match=text):
        pair_files(*call)
