"""A printed target under a camera: registration, light and kernel in turn, the kernel by the one pipeline."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second
import scipy.linalg

from ..analysis.target_search import window_of
from ..analysis.target_warp import Warp, powers, rendered
from ..core.estimate import Estimate
from ..core.model import Model, Noise, Selection
from ..core.validation import Array
from ..data.plan import FitPlan, make_plan
from ..engines.forward import correlated
from ..solvers.constrained import NonNegative
from . import pipeline
from .pipeline import Settings
from .statistics import gather

#: Rounds of registration beside one kernel, and the pixels that a corner may go in the last of them.
_STEPS, _SETTLED = 5, 1e-2
#: Pixels of the capture that a displacement beside the homography is expected to have (standard deviation).
_DISPLACEMENT = 0.5
#: Width of the kernel (standard deviation) that is supposed at first, in pixels of the capture.
_FIRST = 0.55
#: Taps beyond this share of the largest count for where the kernel lies.
_COUNTS = 0.05


@dataclass(frozen=True, eq=False)
class Light:
    """How bright black and white are over the window: ``capture = gain * seen + offset``, both polynomials."""

    degree: int
    coefficients: Array  # (2, terms); of the gain and of the offset
    terms: Array  # (terms, rows, cols)

    @property
    def gain(self) -> Array:
        """The difference of white and black at each pixel of the window."""
        return np.asarray(np.tensordot(self.coefficients[0], self.terms, 1))

    @property
    def offset(self) -> Array:
        """Black at each pixel of the window."""
        return np.asarray(np.tensordot(self.coefficients[1], self.terms, 1))


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of a capture so far."""

    capture: Array
    pattern: Array
    good: npt.NDArray[np.bool_]  # pixels of the capture that are not saturated or left out, bool
    oversample: int
    warp: Warp
    window: tuple[int, int, int, int]
    light: Light
    covariance: Array  # of the warp's parameters

    @property
    def part(self) -> Array:
        """The window of the capture."""
        top, bottom, left, right = self.window
        return self.capture[top:bottom, left:right]

    def seen(self, detail: int = 3) -> Array:
        """Return what the window looks on, NaN beyond the pattern."""
        return rendered(self.pattern, self.warp, self.window, self.oversample, detail)


def terms_of(shape: tuple[int, int], degree: int) -> Array:
    """Return the monomials of an illumination over a window, shape (terms, rows, cols)."""
    r, c = (np.linspace(-1, 1, n) for n in shape)
    every = [(0, 0), (1, 0), (0, 1), *powers(degree)] if degree else [(0, 0)]
    return np.stack([np.outer(r**i, c**j) for i, j in every])


def start(
    capture: Array, pattern: Array, good: npt.NDArray[np.bool_], warp: Warp, oversample: int, degrees: tuple[int, int]
) -> Scene:
    """Return a scene of which nothing is known but a warp; `degrees` are those of the displacement and the light."""
    window = window_of(warp, capture.shape)
    terms = terms_of((window[1] - window[0], window[3] - window[2]), degrees[1])
    light = Light(degrees[1], np.zeros((2, len(terms))), terms)
    warp = dataclasses.replace(warp, coefficients=np.zeros((len(powers(degrees[0])), 2)))
    n = len(warp.parameters)
    return Scene(capture, pattern, good, oversample, warp, window, light, np.full((n, n), np.nan))


def registered(scene: Scene, kernel: Array | None) -> Scene:
    """Return the scene with registration and light that fit best beside a kernel, or a Gaussian, by Gauss-Newton."""
    if kernel is None:
        reach = np.arange(-3 * scene.oversample, 3 * scene.oversample + 1) / scene.oversample / _FIRST
        line = np.exp(-0.5 * reach**2)
        kernel = np.outer(line, line)
    kernel = kernel / kernel.sum()
    for _ in range(_STEPS):
        scene, step = _step(scene, kernel)
        if step < _SETTLED:
            break
    return scene


def _step(scene: Scene, kernel: Array) -> tuple[Scene, float]:
    """Return the scene after a step, and by how much it moved a corner."""
    s, part = scene.oversample, scene.part
    seen = scene.seen()
    hidden = np.isnan(seen)
    filled = np.where(hidden, 0.5, seen)
    wide = np.pad(filled, [(n // 2, n - 1 - n // 2) for n in kernel.shape])
    fine = correlated(wide, kernel[::-1, ::-1])
    half = (max(kernel.shape) // 2) // s + 1
    spoiled = scipy.ndimage.binary_dilation(hidden[::s, ::s], iterations=half, structure=np.ones((3, 3)))
    used = ~spoiled & scene.good[scene.window[0] : scene.window[1], scene.window[2] : scene.window[3]]
    used[:half], used[-half:], used[:, :half], used[:, -half:] = False, False, False, False
    made = fine[::s, ::s]
    down, across = (np.gradient(fine, 1 / s, axis=axis)[::s, ::s] for axis in (0, 1))
    columns = scene.light.terms[:, used]
    light = np.vstack([columns * made[used], columns])
    known = scipy.linalg.solve(light @ light.T, light @ part[used], assume_a="pos")
    new = dataclasses.replace(scene.light, coefficients=known.reshape(2, -1))
    left = part[used] - known @ light
    rows, cols = (at.astype(np.float64) for at in np.nonzero(used))
    moves = scene.warp.displacements(rows + scene.window[0], cols + scene.window[2])
    gain, down, across = new.gain[used], down[used], across[used]
    whole = np.vstack([*(gain * (down * r + across * c) for r, c in moves), light])
    n, rss = len(moves), float(left @ left)
    variance = rss / max(len(left) - len(whole), 1)
    normal, moment = whole @ whole.T, whole @ left
    # what a homography can do as well is not told apart from it: displacements are held small by a prior
    coefficients = scene.warp.parameters[8:]
    hold = variance / _DISPLACEMENT**2
    normal[np.arange(8, n), np.arange(8, n)] += hold
    moment[8:n] -= hold * coefficients
    size = np.sqrt(np.diag(normal))
    size[size == 0] = 1.0
    inverse = scipy.linalg.pinvh(normal / np.outer(size, size), rtol=1e-12) / np.outer(size, size)
    step = (inverse @ moment)[:n]
    most = float(np.abs(step[:8]).max())
    step *= min(1.0, 1.0 / max(most, 1e-300))
    warp = scene.warp.with_parameters(scene.warp.parameters + step)
    moved = dataclasses.replace(scene, warp=warp, light=new, covariance=variance * inverse[:n, :n])
    return moved, most


def plan_of(scene: Scene, side: int) -> FitPlan:
    """Return what the pipeline is asked for: `side` x `side` fine pixels, with black at 0 and white at 1."""
    s = scene.oversample
    gain, offset = scene.light.gain, scene.light.offset
    target = np.where(gain > 0, (scene.part - offset) / np.where(gain > 0, gain, 1), np.nan)
    bad = ~scene.good[scene.window[0] : scene.window[1], scene.window[2] : scene.window[3]] | ~(gain > 0)
    scale = np.maximum(gain / np.median(gain), 0.05)
    model = Model((side, side), mode="crop", origin=((side - 1) // 2,) * 2, stride=s, background=0)
    even = float(np.ptp(scale)) < 0.02
    weights = None if even else scale**2
    selection = Selection(mask=bad if bad.any() else None, weights=weights, nan="mask", saturated=None)
    return make_plan(scene.seen(), np.nan_to_num(target, nan=0.0), model, selection)


def centroid(kernel: Array, oversample: int) -> Array:
    """Return how far the kernel's mass lies from its middle, in pixels of the capture."""
    size = np.maximum(kernel - _COUNTS * kernel.max(), 0.0)
    middles = [np.arange(n) - (n - 1) // 2 for n in kernel.shape]
    both = [middle @ size.sum(axis=1 - axis) / size.sum() for axis, middle in enumerate(middles)]
    return np.array(both) / oversample


def found_in(scene: Scene, side: int, settings: Settings) -> tuple[Scene, Estimate]:
    """Return the scene and its kernel, whose mass lies on its middle: a shift is the registration's."""
    scene = registered(scene, None)
    ((stats, _),) = gather(plan_of(scene, side), Noise(), settings.execution)
    kernel = NonNegative().solve(stats).kernel  # good enough to register with
    by = centroid(kernel, scene.oversample)
    scene = dataclasses.replace(scene, warp=scene.warp.moved(*by))
    kernel = scipy.ndimage.shift(kernel, -by * scene.oversample, order=3, mode="constant")
    scene = registered(scene, kernel)
    return scene, pipeline.fit(plan_of(scene, side), settings)
