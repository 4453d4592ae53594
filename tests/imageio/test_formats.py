"""Images of every format: FITS, HDF5, Zarr, pages, channels and colours of 16 bits."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

import kernelfit
from helpers import ENVIRONMENT
from kernelfit.imageio.read import ImageFileError, read_image

cv2 = pytest.importorskip("cv2")
h5py = pytest.importorskip("h5py")
tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")
fits = pytest.importorskip("astropy.io.fits")
Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(20, 230, (39, 47), dtype=np.uint8)


def test_fits_by_number_and_name(tmp_path, pixels):
    cube = np.stack([pixels, pixels + 1]).astype(">i2")
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels.astype(">f4"), name="SCI"), fits.ImageHDU(cube, name="CUBE")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    for choice in ({"hdu": 1}, {"hdu": "SCI"}, {"hdu": "sci"}):
        np.testing.assert_array_equal(read_image(tmp_path / "a.fits", **choice), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits", hdu=2, page=1), pixels + 1)
    with pytest.raises(ImageFileError, match="2 planes"):
        read_image(tmp_path / "a.fits", hdu="CUBE")
    fits.PrimaryHDU(pixels.astype(float)[None, None]).writeto(tmp_path / "axes.fits")  # axes of length one
    np.testing.assert_array_equal(read_image(tmp_path / "axes.fits"), pixels)


def test_scaled_fits_is_unscaled(tmp_path, pixels):
    hdu = fits.PrimaryHDU(pixels.astype(np.uint16) + 40000)  # stored as signed with BZERO
    hdu.writeto(tmp_path / "a.fits")
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits"), pixels.astype(int) + 40000)


def test_hdf5_and_zarr_are_read_when_used(tmp_path, pixels):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["night/image"] = pixels
        file["night/colour"] = np.stack([pixels, pixels // 2, pixels // 3], axis=-1)
        file["words"] = "not an image"
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("night/image", data=pixels, chunks=(16, 16))
    zarr.save_array(tmp_path / "one.zarr", pixels)
    for image in (
        read_image(tmp_path / "a.h5", dataset="/night/image"),
        read_image(tmp_path / "a.h5", dataset="night/image"),
        read_image(tmp_path / "a.zarr", dataset="night/image"),
        read_image(tmp_path / "a.zarr"),
        read_image(tmp_path / "one.zarr"),
    ):
        assert not isinstance(image, np.ndarray) and image.shape == pixels.shape
        np.testing.assert_array_equal(image[5:20, 3:30], pixels[5:20, 3:30])
        kernel = kernelfit.find_kernel(image, 0.5 * pixels, (1, 3)).kernel
        np.testing.assert_allclose(kernel, [[0, 0.5, 0]], atol=1e-12)
    np.testing.assert_array_equal(read_image(tmp_path / "a.h5", dataset="night/colour", channel="blue"), pixels // 3)
    with pytest.raises(ImageFileError, match="dataset='x'.*holds no others"):
        read_image(tmp_path / "one.zarr", dataset="x")


def test_hdf5_can_be_closed(tmp_path, pixels):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["colour"] = np.dstack([pixels] * 3)
        file["gray"] = pixels
    green = read_image(tmp_path / "a.h5", dataset="colour", channel="green")
    with pytest.raises(ImageFileError) as refused:
        read_image(tmp_path / "a.h5", dataset="none")
    with h5py.File(tmp_path / "a.h5", "a") as file:  # neither has kept it open
        np.testing.assert_array_equal(file["gray"], green)
    image = read_image(tmp_path / "a.h5", dataset="gray")
    image.file.close()
    with h5py.File(tmp_path / "a.h5", "a"):
        assert "need one of" in str(refused.value)


def test_pages_and_channels(tmp_path, pixels):
    colour = np.dstack([pixels, pixels // 2, pixels // 4])
    Image.fromarray(colour).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", colour)
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(colour, -1, 0), planarconfig="separate", photometric="rgb")
    np.save(tmp_path / "a.npy", colour)
    for name in ("a.png", "a.tif", "planar.tif", "a.npy"):
        for at, channel in enumerate(("red", "green", "blue")):
            for choice in (channel, at):
                np.testing.assert_array_equal(read_image(tmp_path / name, channel=choice), colour[..., at])
        np.testing.assert_array_equal(read_image(tmp_path / name, colours=True), colour)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for page in range(3):
            file.write(pixels + page)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([pixels, pixels + 1, pixels + 2]), photometric="minisblack")
    Image.fromarray(pixels).save(
        tmp_path / "lzw.tif", compression="tiff_lzw", save_all=True,
        append_images=[Image.fromarray(pixels + 1), Image.fromarray(pixels + 2)],
    )  # fmt: skip
    for name in ("pages.tif", "stack.tif", "lzw.tif"):
        for page in range(3):
            np.testing.assert_array_equal(read_image(tmp_path / name, page=page), pixels + page)


def test_jpeg_is_read(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == pixels.shape and image.dtype == np.uint8
    assert np.abs(image.astype(float) - pixels).mean() < 4


@pytest.mark.slow
def test_fits_is_read_by_a_process_that_has_not_loaded_astropy(tmp_path, pixels):
    fits.PrimaryHDU(pixels).writeto(tmp_path / "a.fits")
    script = f"from kernelfit.io import read_image; assert read_image({str(tmp_path / 'a.fits')!r}).shape == (39, 47)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=ENVIRONMENT)


def test_fits_gzipped_and_compressed(tmp_path, pixels):
    hdu = fits.PrimaryHDU(pixels.astype(np.uint16) + 40000)
    hdu.writeto(tmp_path / "a.fits.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.gz"), pixels.astype(int) + 40000)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels)]).writeto(tmp_path / "a.fits.fz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.fz"), pixels)
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"not FITS"))
    with pytest.raises(ImageFileError, match="other.gz: got unreadable FITS"):
        read_image(tmp_path / "other.gz")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, tmp_path, pixels):
    """Against Pillow's own turning."""
    tag = Image.Exif()
    tag[274] = orientation
    colour = np.dstack([pixels, pixels // 2, pixels // 4])
    for array, words in ((pixels, {}), (colour, {"colours": True})):
        picture = Image.fromarray(array)
        picture.save(tmp_path / "a.png", exif=tag)
        picture.save(tmp_path / "a.tif", tiffinfo={274: orientation})
        picture.save(tmp_path / "lzw.tif", tiffinfo={274: orientation}, compression="tiff_lzw")
        with Image.open(tmp_path / "a.png") as saved:
            expected = np.asarray(ImageOps.exif_transpose(saved))
        for name in ("a.png", "a.tif", "lzw.tif"):
            np.testing.assert_array_equal(read_image(tmp_path / name, **words), expected)


FILTERS = {name: getattr(cv2, f"IMWRITE_PNG_FILTER_{name}") for name in ("NONE", "SUB", "UP", "AVG", "PAETH")}


@pytest.mark.parametrize("n_channels", [3, 4])
@pytest.mark.parametrize("filters", [*FILTERS.values(), cv2.IMWRITE_PNG_ALL_FILTERS], ids=[*FILTERS, "ALL"])
def test_png_colours_of_16_bits_keep_them_all(filters, n_channels, tmp_path):
    rows, cols = np.mgrid[:23, :31]
    smooth = 900 * rows[..., None] + 1100 * cols[..., None] + np.arange(n_channels) * 777
    colour = (smooth + np.random.default_rng(0).integers(0, 600, smooth.shape)).astype(np.uint16)
    order = [2, 1, 0, 3][:n_channels]  # OpenCV's
    assert cv2.imwrite(tmp_path / "a.png", colour[..., order], [cv2.IMWRITE_PNG_FILTER, filters])
    found = read_image(tmp_path / "a.png", colours=True)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, colour)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channel="green"), colour[..., 1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)], ids=str)
def test_small_png_colours_of_16_bits(shape, tmp_path):
    colour = np.random.default_rng(0).integers(0, 65536, (*shape, 3), dtype=np.uint16)
    cv2.imwrite(tmp_path / "a.png", colour[..., ::-1], [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", colours=True), colour)


def test_channels_of_gray_with_alpha(tmp_path, pixels):
    both = np.dstack([pixels, np.full_like(pixels, 200)])
    Image.fromarray(both).save(tmp_path / "a.png")
    for name, at in (("luma", 0), ("alpha", 1), (0, 0), (1, 1)):
        found = read_image(tmp_path / "a.png", channel=name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, both[..., at])
    with pytest.raises(ImageFileError, match="need one of luma, alpha, 0 to 1"):
        read_image(tmp_path / "a.png", channel="green")


def test_luma_is_the_gray_of_a_colour_image(tmp_path, pixels):
    colour = np.dstack([pixels, pixels[::-1], pixels[:, ::-1]])
    Image.fromarray(colour).save(tmp_path / "a.png")
    gray = read_image(tmp_path / "a.png", channel="luma")
    np.testing.assert_allclose(gray, np.asarray(Image.fromarray(colour).convert("L")), atol=1)
    assert len(np.unique(gray % 1)) > 100  # not rounded
