"""What tests share: scenes, that is modes x boundaries x kernel shapes x operations, never square; and comparisons."""

import os
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from kernelfit.data.masking import PlaneSelection
from kernelfit.data.observation import as_observation
from kernelfit.data.plan import make_plan
from kernelfit.fitting import pipeline

#: For processes that a test starts.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kernelfit.__file__).parents[1])}

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
                        inside = {(shape[0] // 2, shape[1] // 2), (0, shape[1] - 1), (shape[0] - 1, 0)} - {centre}
                        outside = {(-2, shape[1] + 1), (shape[0], -1)} if shape in ((3, 5), (4, 2)) else set()
                        for origin in inside | outside:
                            yield replace(scene, origin=origin)


SCENES = sorted(make_scenes(), key=str)


def mostly_slow(values, every, *, single=True):
    """Mark all parameters but every so-manieth slow."""
    marks = pytest.mark.slow
    packed = [(value,) if single else value for value in values]
    return [pytest.param(*value, marks=marks if i % every else ()) for i, value in enumerate(packed)]


def grid(names, values, every, **more):
    """Parametrize a test, all of the values but every so-manieth marked slow."""
    return pytest.mark.parametrize(names, mostly_slow(values, every, single="," not in names), **more)


def smooth_image(rows, cols, seed=0):
    """Return an image with structure at several scales, as a photograph has."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rows, cols))
    broad = scipy.ndimage.gaussian_filter(rng.normal(size=(rows, cols)), 4.0, mode="wrap")
    return 100.0 + 10.0 * noise + 400.0 * broad


def camera():
    """Return a photograph, 512 x 512, where scikit-image is installed; else skip the test."""
    return pytest.importorskip("skimage.data").camera()


def scipy_targets(scene, image, kernel):
    """Return what SciPy's own functions make of a scene, [(name, target)]; empty when SciPy has no such convention."""
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


# ---- comparisons ----------------------------------------------------------------------------------------------------

STATISTICS = ("gram", "moment", "target_energy", "target_sum", "n_pixels")


def assert_close(actual, expected, tolerance=1e-9, what=""):
    """Assert that two arrays agree to tolerance times the norm of the expected one."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: got shape {actual.shape}, need {expected.shape}"
    error, norm = np.linalg.norm((actual - expected).ravel()), np.linalg.norm(expected.ravel())
    assert error <= tolerance * norm, (
        f"{what}: off by {error / norm if norm else error:.3g} of the norm, allowed {tolerance:g}"
    )


def assert_same_stats(actual, expected, tolerance=1e-12):
    """Assert that two sets of statistics agree, each to tolerance of its own norm."""
    assert actual.n_pixels == expected.n_pixels
    assert_close(actual.gram, expected.gram, tolerance, "gram")
    assert_close(actual.moment, expected.moment, tolerance, "moment")
    assert_close(actual.target_energy, expected.target_energy, tolerance, "target_energy")
    # a sum of signed values can cancel: its scale is sqrt(n y'y), which bounds it
    scale = np.sqrt(expected.n_pixels * expected.target_energy)
    assert abs(actual.target_sum - expected.target_sum) <= tolerance * scale


def assert_same_bits(actual, expected):
    """Assert that two sets of statistics are equal bit for bit."""
    for name in STATISTICS:
        got, want = np.asarray(getattr(actual, name)), np.asarray(getattr(expected, name))
        assert got.dtype == want.dtype and got.tobytes() == want.tobytes(), f"{name} differs in its bits"


# ---- what the layers below the verbs are given -----------------------------------------------------------------------


def observe(image, target, shape, *, determined=True, **convention):
    """One pair as the engines see it."""
    return as_observation(image, target, kernelfit.Model(shape, **convention), determined=determined)


def selected(
    image, target, shape, convention, *, saturated=None, mask=None, image_mask=None, weights=None, nan="error"
):
    """The pair with its weights, None if every pixel counts alike."""
    selection = PlaneSelection((mask,), ((image_mask,),), weights, nan, saturated)
    return selection.judge(observe(image, target, shape, **convention))


def planned(images, targets, shape, *, selection=None, **model):
    """Plan of pairs that share a kernel."""
    chosen = kernelfit.Selection(saturated=None) if selection is None else selection
    return make_plan(images, targets, kernelfit.Model(shape, **model), chosen)


def weighted_fit(judged, choice, workers=2, *, strategy="auto", tolerance=None):
    """The estimate of pairs with their weights, in one of the ways to take them into account."""
    settings = pipeline.Settings(execution=kernelfit.Execution(workers=workers, tolerance=tolerance))
    return pipeline.fit_weighted(judged, choice, settings, strategy).estimate
