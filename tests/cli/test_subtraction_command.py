"""Difference images on the command line, and the headers of FITS files that go with an image."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

import kernelfit
from kernelfit.cli import parser
from kernelfit.imageio import fits_headers
from kernelfit.imageio.planes import Choice

fits = pytest.importorskip("astropy.io.fits")
wcs = pytest.importorskip("astropy.wcs")
SHAPE = (60, 74)


def sky(crpix=(30.5, 22.0)):
    header = fits.Header()
    cards = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": 150.1, "CRVAL2": 2.2}
    cards |= {"CRPIX1": crpix[0], "CRPIX2": crpix[1], "CD1_1": -7e-5, "CD1_2": 1e-6, "CD2_1": 2e-6, "CD2_2": 7e-5}
    cards |= {"PV1_0": 0.0, "PV1_1": 1.0, "PV1_4": 3e-3, "PV2_0": 0.0, "PV2_1": 1.0, "PV2_5": 2e-3}
    header.update(cards | {"OBJECT": "field 7", "EXPTIME": 90.0})
    header["HISTORY"] = "flat-fielded"
    return header


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two exposures: a file of several HDUs with variance and mask, and a plain one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    stars = np.where(rng.random(SHAPE) > 0.98, 500 * rng.random(SHAPE) ** -0.7, 0.0)
    science, reference = (scipy.ndimage.gaussian_filter(stars, width) for width in (1.5, 1.0))
    science, reference = science + 30 + rng.normal(0, 1, SHAPE), reference + rng.normal(0, 2, SHAPE)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[20, 30] = 4
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"] = "two metres"
    images = [fits.ImageHDU(a, name=name) for a, name in ((np.ones(SHAPE), "VAR"), (mask, "DQ"))]
    fits.HDUList([primary, fits.ImageHDU(science, sky(), name="SCI"), *images]).writeto("science.fits")
    fits.PrimaryHDU(reference.astype(np.float32), sky()).writeto("reference.fits")
    return science, reference, mask


def run(capsys, *argv):
    code = parser.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return code, out, err


CALL = ("subtract", "science.fits", "reference.fits", "--hdu", "SCI", "--hdu", "0", "--shape", "7,5")


def test_subtract_writes_difference_variance_mask_and_header(pair, capsys):
    science, reference, mask = pair
    more = ("--variance", "science.fits:VAR", "--variance", "none", "--mask", "science.fits:3", "--mask", "none")
    call = (*CALL, *more, "--solver", "least-squares", "-o", "diff.fits", "--kernel", "kernel.npz")
    code, out, err = run(capsys, *call)
    assert (code, err) == (0, "") and "convolved   the reference, kernel 7 x 5" in out and "diff.fits" in out
    exposures = kernelfit.Exposure(science, np.ones(SHAPE), mask != 0), reference.astype(np.float32)
    want = kernelfit.subtract(*exposures, (7, 5))
    with fits.open("diff.fits") as made:
        assert [hdu.name for hdu in made[1:]] == ["VARIANCE", "MASK", "KERNEL"]
        assert np.array_equal(made[0].data, want.image, equal_nan=True)
        assert np.array_equal(made["VARIANCE"].data, want.variance, equal_nan=True)
        assert np.array_equal(made["MASK"].data, want.mask + 2 * want.rejected) and made["MASK"].data[20, 30] == 1
        header = made[0].header
        assert header["OBJECT"] == "field 7" and header["TELESCOP"] == "two metres" and header["PV2_5"] == 2e-3
        assert "flat-fielded" in str(header["HISTORY"]) and header["KFWHICH"] == "reference"
        place = wcs.WCS(sky()).pixel_to_world_values(3, 50)
        for hdu in made[:3]:
            assert np.allclose(wcs.WCS(hdu.header).pixel_to_world_values(3, 50), place, atol=1e-12)
    assert np.array_equal(kernelfit.KernelFit.load("kernel.npz").kernel, want.fit.kernel)
    before = Path("diff.fits").read_bytes()
    code, out, err = run(capsys, *call)
    assert code == 2 and "exists already" in err and "--force" in err and Path("diff.fits").read_bytes() == before


@pytest.mark.slow
def test_other_formats_and_json(pair, capsys):
    words = ("--noise", "1", "--noise", "2", "--saturated", ",4000", "--solver", "least-squares", "--decorrelate")
    for name in ("diff.npz", "diff.tif", "diff.npy", "diff.fits"):
        code, out, _ = run(capsys, *CALL, *words, "--json", "-o", name)
        told = json.loads(out)
        assert code == 0 and told["which"] == "reference" and told["verdict"] == "SOLVED" and told["output"] == name
    packed, pages = np.load("diff.npz"), kernelfit.io.read_image("diff.tif", page=1)
    assert np.array_equal(np.load("diff.npy"), packed["image"], equal_nan=True)
    assert np.allclose(pages, packed["variance"], rtol=1e-6, equal_nan=True)
    assert np.array_equal(packed["mask"], np.isnan(packed["image"])) and packed["decorrelation"].sum() == pytest.approx(
        1
    )
    assert fits.getdata("diff.fits", "DECORRELATION").shape == packed["decorrelation"].shape


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("--noise", "1", "--variance", "science.fits:VAR"), "got --noise and --variance"),
        (("--noise", "0"), "need a standard deviation above 0"),
        (("--noise", "1", "--noise", "1", "--noise", "1"), "got --noise 3 times"),
        (("--mask", "nowhere.fits"), "nowhere.fits"),
        (("--clip", "-1"), "got --clip -1"),
        (("--which", "sharper"), "need one of auto, science, reference"),
        (("-o", "science.fits", "--force"), "both as input and as output"),
        (("-o", "diff.jpg"), "need a name that ends in"),
    ],
)
def test_calls_that_are_refused(pair, capsys, more, match):
    code, _, err = run(capsys, *CALL, "-o", "diff.fits", *more)
    assert code == 2 and match in err and err.count("\n") == 1


@pytest.mark.slow
def test_headers_that_disagree_are_told(pair, capsys):
    with fits.open("reference.fits") as old:
        fits.PrimaryHDU(old[0].data, sky((34.5, 25.0))).writeto("moved.fits")
    call = ("subtract", "science.fits", "moved.fits", *CALL[3:], "--solver", "least-squares", "-o", "diff.fits")
    assert "5 pixels apart" in run(capsys, *call)[2]


@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    ("mode", "stride", "offset"), [("same", (1, 1), (0, 0)), ("valid", (1, 1), (0, 0)), ("full", (2, 3), (1, 2))]
)
def test_apply_keeps_header_and_place_on_the_sky(pair, capsys, mode, stride, offset, operation):
    kernel = np.zeros((4, 5))
    kernel[1, 2] = 1.0  # the middle: each pixel stays where it is
    np.save("kernel.npy", kernel)
    numbers = np.arange(1.0, 1 + np.prod(SHAPE)).reshape(SHAPE)
    fits.PrimaryHDU(numbers, sky()).writeto("numbers.fits")
    words = ("--mode", mode, "--stride", ",".join(map(str, stride)), "--offset", ",".join(map(str, offset)))
    code, _, err = run(
        capsys, "apply", "numbers.fits", "kernel.npy", *words, "--operation", operation, "-o", "made.fits"
    )
    assert (code, err) == (0, "")
    with fits.open("made.fits") as made:
        header, data = made[0].header, made[0].data
        assert header["OBJECT"] == "field 7"
        for row, col in ((8, 12), (15, 20)):
            y, x = divmod(round(float(data[row, col])) - 1, SHAPE[1])
            want = wcs.WCS(sky()).pixel_to_world_values(x, y)
            assert np.allclose(wcs.WCS(header).pixel_to_world_values(col, row), want, atol=1e-10)


def test_header_of_a_plane_of_a_cube_and_of_polynomials(tmp_path):
    header = sky()
    header["CTYPE3"], header["CRPIX3"], header["CD3_3"], header["WCSAXES"] = "FREQ", 1.0, 1e6, 3
    fits.PrimaryHDU(np.zeros((2, 9, 11)), header).writeto(tmp_path / "cube.fits")
    kept = fits_headers.read_header(str(tmp_path / "cube.fits"), Choice(page=1))
    assert not {"CTYPE3", "CRPIX3", "CD3_3", "NAXIS", "BITPIX"} & set(kept) and wcs.WCS(kept).naxis == 2
    np.save(tmp_path / "image.npy", np.zeros((3, 4)))
    assert fits_headers.read_header(str(tmp_path / "image.npy"), Choice()) is None
    header = fits.Header({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 5.0, "CRVAL2": 8.0})
    header.update({"CRPIX1": 4.0, "CRPIX2": 7.0, "CDELT1": -1e-4, "CDELT2": 1e-4, "A_ORDER": 2, "B_ORDER": 2})
    header.update({"A_2_0": 1e-4, "A_1_1": 2e-4, "B_0_2": 3e-4, "B_1_1": 1e-4})
    smaller = fits_headers.moved(header, (1, 2), (3, 2))
    for row, col in ((0, 0), (5, 9)):
        old = wcs.WCS(header).pixel_to_world_values(2 + 2 * col, 1 + 3 * row)
        assert np.allclose(wcs.WCS(smaller).pixel_to_world_values(col, row), old, atol=1e-10)
