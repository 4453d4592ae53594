"""Filters nobody here wrote, on photographs: the kernel is found, and the filter's output made again by it.

"Again" means to within the rounding of the filter's own type: half a gray level where it rounds, none where it does
not. Filters whose output leaves the range of uint8 clip it there, which is not linear: the clipped pixels are left out
by themselves, and the rest tells the kernel (FIND_EDGES and CONTOUR clip half of any photograph). Pillow's GaussianBlur
and BoxBlur round after each of several passes.
"""

import numpy as np
import pytest
import scipy.ndimage

from helpers import grid
from kernelfit import Verdict, check_boundary, find_kernel, recognise

cv2 = pytest.importorskip("cv2")
data = pytest.importorskip("skimage.data")
Image = pytest.importorskip("PIL.Image")
ImageFilter = pytest.importorskip("PIL.ImageFilter")

CAMERA = data.camera()[:, 40:430]
COLOURS = data.astronaut()[:, :400]
ROUNDED = 0.55  # half a gray level, and a little for the error that rounding leaves in the kernel


def interior(fit, image, target):
    """The prediction less the target, and whether it is defined, inside and at the edges alike."""
    model = fit.predict(image)
    used = ~np.isnan(model)
    rows, cols = fit.kernel.shape[-2:]
    inside = (target.shape[0] - rows + 1) * (target.shape[1] - cols + 1)
    assert used.sum() >= inside * target[0, 0].size
    return (model - target)[used]


def agrees(fit, kernel):
    """Each tap to 1 % of the largest: rounding is no independent noise where a photograph is flat."""
    assert fit.kernel.shape == kernel.shape
    assert np.abs(fit.kernel - kernel).max() <= 0.01 * np.abs(kernel).max()


def made_again(fit, image, target):
    """No pixel is off by more than rounding; most are the very number once rounded (taps are fractions: ties)."""
    off = interior(fit, image, target)
    assert np.abs(off).max() <= ROUNDED
    assert np.mean(np.abs(off) <= 0.5) > 0.9


# ---- Pillow: correlation, the rows in reverse order; the border is copied, so that no boundary is true ---------------

PILLOW = [
    "BLUR",
    "CONTOUR",
    "DETAIL",
    "EDGE_ENHANCE",
    "EDGE_ENHANCE_MORE",
    "EMBOSS",
    "FIND_EDGES",
    "SHARPEN",
    "SMOOTH",
    "SMOOTH_MORE",
]
CLIPPED = {"CONTOUR": 0.5, "EDGE_ENHANCE": 0.05, "EDGE_ENHANCE_MORE": 0.15, "FIND_EDGES": 0.5}  # share, at least


def truth_of(chosen):
    """The kernel as `operation="correlation"` states it, and the offset."""
    (cols, rows), scale, offset, values = chosen.filterargs
    return np.array(values, dtype=float).reshape(rows, cols)[::-1] / scale, offset


@pytest.mark.slow
@grid("name", PILLOW, 3)
def test_pillow(name):
    chosen = getattr(ImageFilter, name)
    kernel, offset = truth_of(chosen)
    target = np.asarray(Image.fromarray(CAMERA).filter(chosen))
    fit = find_kernel(CAMERA, target, kernel.shape, operation="correlation", background=0)
    agrees(fit, kernel)
    assert fit.background.coefficients[0] == pytest.approx(offset, abs=0.3)
    clipped = interior(fit, CAMERA, target).size - fit.n_pixels
    assert clipped >= CLIPPED.get(name, 0.0) * target.size
    assert not clipped or any(note.startswith(f"{clipped} of ") for note in fit.notes)
    off = np.clip(fit.predict(CAMERA), 0, 255) - target
    assert np.nanmax(np.abs(off)) <= ROUNDED  # every pixel inside, those that were clipped too
    if chosen.filterargs[1] == 1:  # whole numbers: no rounding, and nothing at all is lost
        np.testing.assert_allclose(fit.kernel, kernel, rtol=0, atol=1e-12)
        assert np.nanmax(np.abs(off)) <= 1e-9
    else:
        assert fit.noise_std < 0.31  # the rounding, sqrt(1/12)
    assert fit.verdict is Verdict.SOLVED


@grid("channels", ["shared", "separate", "mixed"], 3)
def test_pillow_in_colour(channels):
    chosen = ImageFilter.Kernel((5, 5), [0, 1, 0, 2, 0, 3, 0, 5, 1, 0, 0, 7, 20, 4, 0, 1, 0, 3, 0, 1, 0, 0, 2, 0, 0])
    kernel, _ = truth_of(chosen)
    target = np.asarray(Image.fromarray(COLOURS).filter(chosen))
    fit = find_kernel(COLOURS, target, 5, operation="correlation", channel_axis=-1, channels=channels, background=0)
    if channels != "shared":
        kernel = np.stack([kernel] * 3) if channels == "separate" else np.eye(3)[:, :, None, None] * kernel
    agrees(fit, kernel)
    made_again(fit, COLOURS, target)


# ---- filters that round half way: between their passes, or saved between two ----------------------------------------


def through(chosen):
    return lambda image: np.asarray(Image.fromarray(image).filter(chosen))


HALF_WAY = {
    "three boxes": through(ImageFilter.GaussianBlur(1.5)),
    "boxes of soft ends": through(ImageFilter.GaussianBlur(0.5)),
    "an unsharp mask": through(ImageFilter.UnsharpMask(2, 150, 0)),
    "one of OpenCV": lambda a: cv2.addWeighted(a, 1.7, cv2.GaussianBlur(a, (0, 0), 2), -0.7, 0),
    "cut off between passes": lambda a: scipy.ndimage.gaussian_filter(a, 1.3),
    "saved between two": lambda a: through(ImageFilter.SHARPEN)(through(ImageFilter.GaussianBlur(2))(a)),
}


@pytest.mark.slow
@grid("name", HALF_WAY, 3)
@pytest.mark.parametrize("picture", ["camera", "moon"])
def test_errors_of_rounding_half_way_are_no_misfit(picture, name):
    image = np.ascontiguousarray(getattr(data, picture)()[:300, :380])
    for keywords in ({"shape": (15, 17), "background": 0}, {}):
        fit = find_kernel(image, HALF_WAY[name](image), **keywords)
        assert fit.verdict is Verdict.SOLVED
        assert 1.1 < fit.noise_std / fit.rounding < 3.0
    if name == "three boxes":
        found = recognise(fit)[0]
        assert found.name == "gaussian"
        assert all(abs(number.value - 1.5) < 0.1 for number in found.parameters.values())


@grid("name", ["halves", "turned", "gamma", "wider"], 2)
def test_what_is_no_rounding_half_way_is_found_beside_so_little_noise(name):
    image = data.camera()[:300, :380]
    rng = np.random.default_rng(0)
    kernel = rng.dirichlet(np.ones(35)).reshape(5, 7)
    made = scipy.ndimage.convolve(image.astype(float), kernel)
    where = np.arange(380) < 150
    turned = scipy.ndimage.rotate(made, 0.02, reshape=False, mode="nearest", order=3)
    other = {
        "halves": np.where(where, made, scipy.ndimage.gaussian_filter(made, 0.5)),
        "turned": turned,
        "gamma": 255 * (made / 255) ** 1.02,
        "wider": 0.9 * made + 0.1 * scipy.ndimage.uniform_filter(made, (9, 5)),
    }[name]
    fit = find_kernel(image, np.rint(other).astype(np.uint8), (9, 11) if name == "halves" else (5, 7))
    assert 1.1 < fit.noise_std / fit.rounding < 3.0
    expected = {"halves": "VARYING", "turned": "MISALIGNED", "gamma": "NONLINEAR", "wider": "SHAPE_TOO_SMALL"}[name]
    assert fit.verdict is Verdict[expected]


# ---- scipy.ndimage: floats, so that nothing is rounded; every boundary ---------------------------------------------

NDIMAGE = {
    "gaussian": lambda x, mode: scipy.ndimage.gaussian_filter(x, (1.0, 1.4), mode=mode, radius=(4, 5)),
    "uniform": lambda x, mode: scipy.ndimage.uniform_filter(x, (3, 7), mode=mode),
    "laplace": lambda x, mode: scipy.ndimage.laplace(x, mode=mode),
    "sobel": lambda x, mode: scipy.ndimage.sobel(x, axis=0, mode=mode),
    "prewitt": lambda x, mode: scipy.ndimage.prewitt(x, axis=1, mode=mode),
    "gaussian_laplace": lambda x, mode: scipy.ndimage.gaussian_laplace(x, 0.8, mode=mode, radius=3),
}
SHAPES = {"gaussian": (9, 11), "uniform": (3, 7), "gaussian_laplace": (7, 7)}
MODES = {"constant": "fill", "wrap": "wrap", "reflect": "symm", "mirror": "mirror", "nearest": "nearest"}


@grid("mode", MODES, 3)
@pytest.mark.parametrize("name", NDIMAGE)
def test_ndimage(name, mode):
    """The kernel is the filter's answer to a single bright pixel; with its boundary every pixel is made again."""
    shape = SHAPES.get(name, (3, 3))
    spot = np.zeros((25, 27))
    spot[12, 13] = 1.0
    response = NDIMAGE[name](spot, "constant")
    half = [side // 2 for side in shape]
    kernel = response[12 - half[0] : 13 + half[0], 13 - half[1] : 14 + half[1]]
    assert np.count_nonzero(response) == np.count_nonzero(kernel)
    image = CAMERA[:200].astype(float)
    target = NDIMAGE[name](image, mode)
    fit = find_kernel(image, target, shape, boundary=MODES[mode])
    np.testing.assert_allclose(fit.kernel, kernel, rtol=0, atol=1e-12 * np.abs(kernel).max())
    assert np.abs(interior(fit, image, target)).max() <= 1e-12 * 255 * np.abs(kernel).sum()
    assert fit.verdict is Verdict.SOLVED
    found = check_boundary(image, target, find_kernel(image, target, shape))
    assert MODES[mode] in found.equal and found.rows[-1].ratio > 1e3


def test_ndimage_in_integers():
    """It cuts the fraction off: half a gray level too little on average, which the background takes up."""
    kernel = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 6.0, 3.0, 2.0], [1.0, 1.0, 0.0, 1.0]]) / 18
    target = scipy.ndimage.convolve(CAMERA, kernel, mode="nearest")
    assert target.dtype == np.uint8
    fit = find_kernel(CAMERA, target, (3, 4), boundary="nearest", origin=(1, 2), background=0)
    agrees(fit, kernel)
    assert fit.background.coefficients[0] == pytest.approx(-0.5, abs=0.05)
    made_again(fit, CAMERA, target)


# ---- OpenCV: correlation, under its four border types ---------------------------------------------------------------

BORDERS = {
    cv2.BORDER_CONSTANT: "fill",
    cv2.BORDER_REPLICATE: "nearest",
    cv2.BORDER_REFLECT: "symm",
    cv2.BORDER_REFLECT_101: "mirror",
}


@pytest.fixture(params=BORDERS, ids=BORDERS.get)
def border(request):
    return request.param


def test_opencv_gaussian_blur(border):
    """It works with taps rounded to 1/256: the kernel found is that one."""
    target = cv2.GaussianBlur(CAMERA, (7, 5), 1.2, sigmaY=0.9, borderType=border)
    kernel = np.outer(cv2.getGaussianKernel(5, 0.9), cv2.getGaussianKernel(7, 1.2))
    fit = find_kernel(CAMERA, target, (5, 7), operation="correlation", boundary=BORDERS[border])
    np.testing.assert_allclose(fit.kernel, kernel, rtol=0, atol=1 / 256)
    made_again(fit, CAMERA, target)
    assert BORDERS[border] in check_boundary(CAMERA, target, fit).equal


def test_opencv_filter2d(border):
    """An even side too: OpenCV's anchor is at side // 2."""
    kernel = np.array([[1, -2, 3, 4], [0, 6, -1, 2], [2, 0, 5, 1]], dtype=np.float32) / 16
    target = cv2.filter2D(CAMERA, cv2.CV_16S, kernel, borderType=border)
    fit = find_kernel(CAMERA, target, (3, 4), operation="correlation", origin=(1, 2), boundary=BORDERS[border])
    agrees(fit, kernel)
    made_again(fit, CAMERA, target)
    assert fit.verdict is Verdict.SOLVED


@pytest.mark.parametrize("name", ["Sobel 3", "Sobel 5", "Scharr"])
def test_opencv_derivatives(name, border):
    """Whole numbers: the kernel and every pixel are found without any error."""
    if name == "Scharr":
        target, taps = (
            cv2.Scharr(CAMERA, cv2.CV_16S, 0, 1, borderType=border),
            cv2.getDerivKernels(0, 1, cv2.FILTER_SCHARR),
        )
    else:
        side = int(name[-1])
        target, taps = (
            cv2.Sobel(CAMERA, cv2.CV_16S, 1, 0, ksize=side, borderType=border),
            cv2.getDerivKernels(1, 0, side),
        )
    across, down = (t.ravel().astype(float) for t in taps)
    fit = find_kernel(CAMERA, target, len(down), operation="correlation", boundary=BORDERS[border])
    np.testing.assert_allclose(fit.kernel, np.outer(down, across), rtol=0, atol=1e-10)
    assert np.abs(interior(fit, CAMERA, target)).max() <= 1e-8


def test_opencv_border_that_is_declared_wrongly():
    """The verdict doubts it, and check_boundary names the one that was used."""
    target = cv2.GaussianBlur(CAMERA, (11, 9), 3, borderType=cv2.BORDER_REPLICATE)
    fit = find_kernel(CAMERA, target, (9, 11), operation="correlation", boundary="wrap")
    assert Verdict.WRONG_BOUNDARY in [finding.verdict for finding in fit.findings]
    assert check_boundary(CAMERA, target, fit).best == "nearest"


@pytest.mark.parametrize("picture", ["camera", pytest.param("astronaut", marks=pytest.mark.slow)])
def test_edges_that_a_filter_copied_are_seen_of_a_large_picture_whose_middle_is_looked_at(picture):
    image = getattr(data, picture)()  # some of the target is saturated, so that its middle tells what the kernel is
    fit = find_kernel(image, through(ImageFilter.EMBOSS)(image))
    assert fit.verdict is Verdict.SOLVED
    assert fit.kernel.shape == (3, 3)
    assert recognise(fit)[0].name == "emboss"
