"""Image files come back as they were written; files are written whole or not at all."""

import contextlib
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from kernelfit.core import npz
from kernelfit.imageio import read
from kernelfit.imageio.write import check_output, write_image

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")
Image = pytest.importorskip("PIL.Image")

KERNEL = np.array([[1.0, 2.0, 0.0], [0.0, 5.0, 8.0]]) / 16


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 256, (19, 23), dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "u4", "f2", "f4", ">f4", "f8"])
def test_tiff_comes_back_as_stored(dtype, tmp_path, pixels):
    stored = pixels.astype(dtype) * (3 if dtype != "u1" else 1)
    tifffile.imwrite(tmp_path / "image.tif", stored)
    image = read.read_image(tmp_path / "image.tif")
    assert (image.dtype.kind, image.dtype.itemsize) == (stored.dtype.kind, stored.dtype.itemsize)
    np.testing.assert_array_equal(image, stored)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_compressed_tiff(dtype, compression, tmp_path, pixels):
    Image.fromarray(pixels.astype(dtype)).save(tmp_path / "image.tif", compression=compression)
    np.testing.assert_array_equal(read.read_image(tmp_path / "image.tif"), pixels)


@pytest.mark.parametrize("scale", [1, 257])
def test_png_of_8_and_16_bits(scale, tmp_path, pixels):
    stored = pixels if scale == 1 else pixels.astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read.read_image(tmp_path / "image.png"), stored)


def test_colours_of_16_bits_keep_them(tmp_path, pixels):
    """In PNG and in TIFF packed by LZW; and a PNG that is damaged is refused."""
    stored = np.stack([pixels, 255 - pixels, pixels // 2], axis=-1).astype(np.uint16) * 257 + 3
    (tmp_path / "image.png").write_bytes(imagecodecs.png_encode(stored))
    tifffile.imwrite(tmp_path / "image.tif", stored, compression="lzw", photometric="rgb", predictor=True)
    for name in ("image.png", "image.tif"):
        np.testing.assert_array_equal(read.read_image(tmp_path / name, colours=True), stored)
    data = bytearray((tmp_path / "image.png").read_bytes())
    data[len(data) // 2] ^= 255
    for bad in (data, data[: len(data) // 2]):
        (tmp_path / "bad.png").write_bytes(bytes(bad))
        with pytest.raises(read.ImageFileError, match="bad.png"):
            read.read_image(tmp_path / "bad.png", colours=True)


def interlaced(colours):
    """A PNG of 16 bits in the seven passes of the format's section 8.2, not filtered."""
    steps = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    passes = [colours[row::down, col::across] for row, col, down, across in steps]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for one in passes if one.size for row in one)
    rows, cols, channels = colours.shape
    header = struct.pack(">IIBBBBB", cols, rows, 16, {3: 2, 4: 6}[channels], 0, 0, 1)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("shape", [(30, 41, 3), (5, 3, 3), (17, 8, 4)])
def test_interlaced_colours_of_16_bits(shape, tmp_path):
    colours = np.random.default_rng(4).integers(0, 65536, shape).astype(np.uint16)
    (tmp_path / "woven.png").write_bytes(interlaced(colours))
    for at, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(read.read_image(tmp_path / "woven.png", channel=name), colours[..., at])


@pytest.mark.parametrize("codec", ["zstd", "lzma", "lzw"])
def test_packed_strips_are_unpacked_no_further_than_the_header_says(codec, tmp_path, pixels):
    packed = getattr(imagecodecs, f"{codec}_encode")
    words = {"shape": pixels.shape, "dtype": np.uint8, "compression": codec, "rowsperstrip": len(pixels)}
    tifffile.imwrite(tmp_path / "bomb.tif", iter([packed(bytes(2**22))]), **words)
    tracemalloc.start()
    with contextlib.suppress(read.ImageFileError):
        assert read.read_image(tmp_path / "bomb.tif").shape == pixels.shape
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_black_and_white_png_is_boolean(tmp_path, pixels):
    Image.fromarray(pixels > 100).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read.read_image(tmp_path / "image.png"), pixels > 100)


def test_format_goes_by_content_not_by_name(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "image.tif", format="png")
    np.testing.assert_array_equal(read.read_image(tmp_path / "image.tif"), pixels)


def test_npy_is_mapped_not_read(tmp_path, pixels):
    np.save(tmp_path / "image.npy", np.asfortranarray(pixels))
    image = read.read_image(tmp_path / "image.npy")
    assert isinstance(image, np.memmap) and not image.flags.writeable
    np.testing.assert_array_equal(image, pixels)


def write_npy(path, array, overwrite=False):
    check_output(path, (".npy",), "the kernel", overwrite=overwrite)
    write_image(path, array, overwrite=overwrite)


def write_npz(path, array, overwrite=False):
    npz.save(path, "KernelFit", {}, {"kernel": array}, overwrite=overwrite)


WRITERS = pytest.mark.parametrize("write, name", [(write_npy, "save"), (write_npz, "savez")])


@WRITERS
@pytest.mark.parametrize("overwrite", [False, True])
def test_failed_write_leaves_what_was_there(overwrite, write, name, tmp_path, monkeypatch):
    path = tmp_path / "kernel.npy"
    if overwrite:
        np.save(path, KERNEL)
    before = snapshot(tmp_path)

    def full_disk(file, *arrays, **keywords):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, name, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(path, KERNEL + 1, overwrite=overwrite)
    assert snapshot(tmp_path) == before


@WRITERS
def test_file_that_appears_meanwhile_is_kept(write, name, tmp_path, monkeypatch):
    path = tmp_path / "kernel.npy"
    original = getattr(np, name)

    def meanwhile(file, *arrays, **keywords):
        path.write_text("somebody else's")
        original(file, *arrays, **keywords)

    monkeypatch.setattr(np, name, meanwhile)
    with pytest.raises(FileExistsError, match="exists already"):
        write(path, KERNEL)
    assert snapshot(tmp_path) == {"kernel.npy": b"somebody else's"}


@WRITERS
def test_written_file_has_the_usual_permissions_and_nothing_beside_it(write, name, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the process's mask is for all its threads"))
    write(tmp_path / "kernel.npy", KERNEL)
    (tmp_path / "usual").touch()
    assert (tmp_path / "kernel.npy").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["kernel.npy", "usual"]


@WRITERS
def test_link_is_written_through(write, name, tmp_path):
    (tmp_path / "real.npy").touch()
    (tmp_path / "link.npy").symlink_to("real.npy")
    write(tmp_path / "link.npy", KERNEL, overwrite=True)
    assert (tmp_path / "link.npy").is_symlink()
    found = np.load(tmp_path / "real.npy")
    np.testing.assert_array_equal(found if name == "save" else found["kernel"], KERNEL)


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        write_npy(tmp_path / "kernel.npy", np.array([[{}]], dtype=object))
    assert os.listdir(tmp_path) == []
