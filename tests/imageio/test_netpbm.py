"""PGM and PPM files are read as they are, and damaged ones refused."""

import numpy as np
import pytest

from kernelfit.imageio.read import ImageFileError, read_image


def test_planes_of_eight_and_sixteen_bits(tmp_path):
    gray = np.arange(35, dtype=np.uint8).reshape(5, 7)
    deep = (gray.astype(np.uint16) + 1) * 1000
    colours = np.stack([gray, gray + 1, gray + 2], axis=-1)
    (tmp_path / "a.pgm").write_bytes(b"P5 7 5 255\n" + gray.tobytes())
    (tmp_path / "b.pgm").write_bytes(b"P5\n# 1 2 3\n7\n5\n65535\n" + deep.astype(">u2").tobytes())
    (tmp_path / "c.ppm").write_bytes(b"P6\n7 5\n255\n" + colours.tobytes())
    for name, truth in (("a.pgm", gray), ("b.pgm", deep)):
        found = read_image(tmp_path / name)
        assert found.dtype == truth.dtype and np.array_equal(found, truth)
    assert np.array_equal(read_image(tmp_path / "c.ppm", colours=True), colours)
    assert np.array_equal(read_image(tmp_path / "c.ppm", channel="green"), colours[..., 1])
    with pytest.raises(ImageFileError, match="colour"):
        read_image(tmp_path / "c.ppm")


@pytest.mark.parametrize(
    "data", [b"P5 7 5 255\n" + bytes(34), b"P5 7 x 255\n" + bytes(35), b"P5 0 5 255\n", b"P5 7 5 70000\n" + bytes(99)]
)
def test_damaged_files_are_refused(tmp_path, data):
    (tmp_path / "a.pgm").write_bytes(data)
    with pytest.raises(ImageFileError, match=r"a\.pgm: got"):
        read_image(tmp_path / "a.pgm")
