"""One list of scenes for every test: modes x boundaries x kernel shapes x operations, on images never square."""

import zlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from hypothesis import settings

import naive

settings.register_profile("kernelfit", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("kernelfit")

MODES = ("same", "valid", "full")
BOUNDARIES = (
    (None, 0.0),
    ("fill", 0.0),
    ("fill", 2.75),
    ("wrap", 0.0),
    ("symm", 0.0),
    ("mirror", 0.0),
    ("nearest", 0.0),
)
OPERATIONS = ("convolution", "correlation")
NDIMAGE_MODE = {"fill": "constant", "wrap": "wrap", "symm": "reflect", "mirror": "mirror", "nearest": "nearest"}

# (image, kernel), both (rows, cols)
EVERYWHERE = (
    ((11, 14), (3, 5)),
    ((14, 11), (4, 2)),
    ((17, 12), (5, 4)),
    ((10, 13), (1, 4)),
    ((13, 10), (5, 1)),
    ((9, 12), (2, 3)),
    ((12, 9), (1, 1)),
)
LARGEST_INSIDE = (((9, 7), (5, 4)), ((6, 13), (6, 2)), ((14, 5), (2, 5)))  # as many pixels as taps, or nearly
LARGEST_EXTENDED = (((6, 7), (6, 7)), ((7, 5), (2, 5)))  # as wide as the image itself
LARGEST_FILL = {
    "same": (((5, 6), (9, 3)), ((6, 5), (2, 12))),
    "full": (((3, 4), (8, 9)), ((4, 3), (1, 7))),
}  # wider than the image


@dataclass(frozen=True)
class Scene:
    """One fully declared problem, its seeded image, kernel and target."""

    image_shape: tuple
    shape: tuple
    mode: str
    boundary: str | None
    fillvalue: float
    operation: str
    origin: tuple | None = None

    def __str__(self):
        sides = "{}x{}-{}x{}".format(*self.image_shape, *self.shape)
        origin = "" if self.origin is None else "-at{}.{}".format(*self.origin)
        fill = f"({self.fillvalue:g})" if self.boundary == "fill" else ""
        return f"{self.mode}-{self.boundary}{fill}-{self.operation[:4]}-{sides}{origin}"

    @property
    def convention(self):
        """The keywords that declare the scene to kernelfit and to naive alike."""
        names = ("mode", "boundary", "fillvalue", "operation", "origin")
        return {name: getattr(self, name) for name in names}

    @property
    def forward(self):
        """The same keywords with something assumed beyond the edge, so that every target pixel has a value."""
        return {**self.convention, "boundary": self.boundary or "fill"}

    def rng(self, purpose):
        return np.random.default_rng(zlib.crc32(f"{purpose} {self}".encode()))

    @property
    def image(self):
        return self.rng("image").normal(0.5, 1.0, self.image_shape)

    @property
    def kernel(self):
        return self.rng("kernel").normal(0.2, 1.0, self.shape)

    @property
    def target_shape(self):
        return naive.target_shape(self.image_shape, self.shape, self.mode)

    @property
    def target(self):
        """What the kernel makes of the image, and noise: no two target pixels alike, used or not."""
        return exact_target(self) + self.rng("noise").normal(0.0, 0.3, self.target_shape)

    @property
    def exact_target(self):
        return exact_target(self).copy()

    @property
    def design(self):
        return design(self)


@cache
def design(scene):
    return naive.design(scene.image, scene.shape, **scene.convention)


@cache
def exact_target(scene):
    if scene.boundary is None:
        return naive.apply(scene.image, scene.kernel, **scene.forward)
    return naive.apply_design(*design(scene), scene.kernel)


def pairs_for(mode, boundary):
    inside_only = boundary is None or mode == "valid"
    yield from EVERYWHERE
    yield from LARGEST_INSIDE if inside_only else LARGEST_EXTENDED
    if boundary == "fill":
        yield from LARGEST_FILL.get(mode, ())


def make_scenes():
    for mode in MODES:
        for boundary, fillvalue in BOUNDARIES:
            for operation in OPERATIONS:
                for image_shape, shape in pairs_for(mode, boundary):
                    scene = Scene(image_shape, shape, mode, boundary, fillvalue, operation)
                    yield scene
                    if mode == "same" and (image_shape, shape) in EVERYWHERE[:4]:
                        centre = naive.default_origin(shape)
                        for origin in {(shape[0] // 2, shape[1] // 2), (0, shape[1] - 1), (shape[0] - 1, 0)}:
                            if origin != centre:
                                yield replace(scene, origin=origin)


SCENES = sorted(make_scenes(), key=str)


@pytest.fixture
def all_scenes():
    return SCENES


@pytest.fixture(params=SCENES, ids=str)
def scene(request):
    return request.param


@pytest.fixture(params=[s for s in SCENES if s.mode == "same" and s.boundary == "mirror"], ids=str)
def few_scenes(request):
    """A cheaper list for laws that do not depend on the boundary."""
    return request.param


@pytest.fixture(params=["direct", "fft"])
def method(request):
    return request.param


@pytest.fixture(params=BOUNDARIES, ids=lambda b: f"{b[0]}({b[1]:g})")
def boundary(request):
    """{"boundary": ..., "fillvalue": ...}"""
    return dict(zip(("boundary", "fillvalue"), request.param, strict=True))


@pytest.fixture(
    params=[s for s in SCENES if s.boundary is not None and s.image_shape == s.shape and s.mode == "same"]
    + [s for s in SCENES if s.boundary is None and (s.image_shape, s.shape) in LARGEST_INSIDE[:2]],
    ids=str,
)
def tight_scene(request):
    """As many target pixels as taps."""
    return request.param


@pytest.fixture
def scipy_apply():
    """scipy's own functions for a scene: a list of (name, target), empty when scipy has no such convention."""

    def compute(scene, image, kernel):
        found = []
        convolution = scene.operation == "convolution"
        boundary = scene.boundary or "fill"
        centre = naive.default_origin(scene.shape)
        origin = centre if scene.origin is None else scene.origin
        if scene.mode == "valid":
            boundary = "fill"  # it never looks
        if origin == centre and boundary in ("fill", "wrap", "symm"):
            function = scipy.signal.convolve2d if convolution else scipy.signal.correlate2d
            result = function(image, kernel, mode=scene.mode, boundary=boundary, fillvalue=scene.fillvalue)
            found.append((function.__name__, result))
        if scene.mode == "same" and origin == (scene.shape[0] // 2, scene.shape[1] // 2):
            function = scipy.ndimage.convolve if convolution else scipy.ndimage.correlate
            result = function(image, kernel, mode=NDIMAGE_MODE[boundary], cval=scene.fillvalue)
            found.append(("ndimage." + function.__name__, result))
        return found

    return compute


@pytest.fixture
def close():
    """Assert that two arrays agree to tolerance times the norm of the expected one."""

    def check(actual, expected, tolerance, what=""):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape, f"{what}: got shape {actual.shape}, need {expected.shape}"
        error, norm = np.linalg.norm((actual - expected).ravel()), np.linalg.norm(expected.ravel())
        assert error <= tolerance * norm, (
            f"{what}: off by {error / norm if norm else error:.3g} of the norm, allowed {tolerance:g}"
        )

    return check


STAT_NAMES = ("gram", "moment", "target_energy", "target_sum", "n_pixels")


@pytest.fixture
def same_stats(close):
    """Assert that two sets of statistics agree, each to tolerance of its own norm."""

    def check(actual, expected, tolerance=1e-12):
        assert actual.n_pixels == expected.n_pixels
        close(actual.gram, expected.gram, tolerance, "gram")
        close(actual.moment, expected.moment, tolerance, "moment")
        close(actual.target_energy, expected.target_energy, tolerance, "target_energy")
        # a sum of signed values can cancel: its scale is sqrt(n y'y), which bounds it
        scale = np.sqrt(expected.n_pixels * expected.target_energy)
        assert abs(actual.target_sum - expected.target_sum) <= tolerance * scale

    return check


@pytest.fixture
def same_bits():
    """Assert that two sets of statistics are equal bit for bit."""

    def check(actual, expected):
        for name in STAT_NAMES:
            got, want = np.asarray(getattr(actual, name)), np.asarray(getattr(expected, name))
            assert got.dtype == want.dtype and got.tobytes() == want.tobytes(), f"{name} differs in its bits"

    return check


@pytest.fixture
def smooth_image():
    """A function (rows, cols, seed) -> an image with structure at several scales, as a photograph has."""

    def make(rows, cols, seed=0):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(rows, cols))
        broad = scipy.ndimage.gaussian_filter(rng.normal(size=(rows, cols)), 4.0, mode="wrap")
        return 100.0 + 10.0 * noise + 400.0 * broad

    return make
