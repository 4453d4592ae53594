"""What a fit is asked for: the model, the pixels that count, the noise, how to run. Each field is judged here, once.

Every public verb takes these objects or, for the same thing, their fields as flat keywords.
"""

import dataclasses
import math
import numbers
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiled.threads import Progress
from . import geometry
from .curve import CURVES, SIDES
from .estimate import Estimate
from .field import as_variation
from .geometry import Convention, Shape
from .registration import KINDS
from .validation import Array, as_count, as_float, as_number, as_workers, known, require_progress
from .variation import Variation

CHANNELS = ("shared", "separate", "mixed")
NAN = ("error", "mask")
LOSSES = (None, "huber", "tukey", "clip")
COVARIANCES = ("plain", "sandwich")
#: Rows whose variances are worked out at once.
_ROWS = 8
#: What may read the pixels; engines add their names when they are registered.
ENGINES = ["auto", "direct", "fft"]


@dataclass(frozen=True)
class Model:
    """How the target came from the image: a kernel of some shape, laid on the image in some way.

    Parameters
    ----------
    shape : int or (int, int)
        Rows and columns of the kernel, odd or even; for signals the number of taps.
    mode : {"same", "valid", "full", "crop"}, optional
        How the two lie on each other. The default is the first of "same", "valid" and "full" that the shapes allow;
        with a stride it may be more than one. "crop" is for a target of any size, cut from anywhere of what the kernel
        makes, or larger than that: `origin` tells its place.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lay beyond the edge when the target was made: `fillvalue`, the opposite edge, the image mirrored about its
        border ("symm", edge pixel repeated, or "mirror", not repeated), or the nearest pixel. The default None assumes
        nothing and uses only target pixels whose whole footprint lies inside the image. Declare a boundary only if you
        are sure.
    fillvalue : float, optional
        The value beyond the edge for ``boundary="fill"``, default 0.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel, for the modes "same" and "crop". The default is SciPy
        signal's centre, ``(side - 1) // 2``. Outside the kernel for a window of lags that does not hold 0.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel is laid on the image flipped (default) or as it is, as `scipy.ndimage.correlate`, OpenCV's
        ``filter2D`` and a deep-learning ``conv2d`` do.
    stride : int or (int, int), optional
        The target is every stride-th pixel of the filtered image, along rows and columns:
        ``[offset[0]::stride[0], offset[1]::stride[1]]``. Default 1. The kernel's taps are pixels of the image.
    offset : int or (int, int), optional
        Which pixel the target starts with, ``0 <= offset < stride``, default 0.
    channel_axis : int, optional
        The axis of image and target that holds the channels (colours, bands), such as -1. The default None is for
        images of one plane, and volumes of one channel.
    channels : {"shared", "separate", "mixed"}, optional
        With `channel_axis`: one kernel for all channels (default), one for each, of shape (channels, rows, cols), or
        one from each channel of the image to each of the target, of shape (target's channels, image's channels, rows,
        cols).
    background : int, optional
        Degree of a polynomial surface, for each target and channel its own, that is fitted together with the kernel and
        never penalised: 0 for a constant, 1 for a plane. It is found on `KernelFit.background`. The default is
        none. `KernelFit.r_squared` is then the share of what the surface leaves.
    real : bool, optional
        Whether the kernel between complex images is a real one, the same for real and imaginary parts. The default is a
        complex kernel where image or target are complex; between real ones it is real anyway.
    variation : int, "auto", Polynomial, Spline, Basis or None, optional
        How the kernel varies over the image: the degree of a polynomial of the place (1 for linearly, 2 for
        quadratically, ...), a `Polynomial`, a `Spline`, or a `Basis` of your own functions; "auto" lets the evidence
        choose a degree of 0 to 4. Each pixel of the image is then spread by the kernel at its own place;
        `KernelFit.at` gives the kernel at a place, and `KernelFit.kernel` holds the coefficients, shape (functions,
        rows, cols). That of signals varies with the time. The default is the same kernel everywhere. Images of several
        pairs have one shape.
    register : {None, "shift", "rigid", "similarity", "affine", "homography"}, optional
        The motion of the image against the target that is found together with the kernel: a shift; with it a rotation
        ("rigid"); a scale as well ("similarity"); any linear map ("affine"); or a perspective, too. Motions of up to
        10 degrees, 10 % and a tenth of the side are looked for. `KernelFit.registration` says what was found, with its
        errors. A shift cannot be told from the kernel: it is the one that centres it. Of several pairs each has a
        motion of its own. A `boundary` is that of the registered image. The default is none.
    curve : {None, "gamma", "srgb", "monotone"}, optional
        The curve g from the values of the files to light, which is found together with the kernel: a power, that of
        sRGB, or any that only rises. `KernelFit.curve` says what was found, with its errors; the kernel, its errors,
        the background and the noise are those of light. The default is none: the values are light.
    curve_side : {"both", "image", "target"}, optional
        Whose values it belongs to: both, ``g(y) = k * g(x)``, as of a camera (default), or one of the two alone.
    lags : (int, int), optional
        Instead of a shape and an origin the first and the last lag of a signal's kernel, both included: tap p
        multiplies the sample ``first + p`` before the one under the target's (for correlation they run from last
        to first). ``(0, 100)`` is a response of 101 taps that begins at once, ``(-5, 5)`` looks ahead as well. For
        images a pair along each axis. For mode "same".
    ndim : int, optional
        1 if it is for signals, 2 for images, 3 for volumes; the default follows from the other fields and the arrays.
        A volume it is where one of them has three numbers, (planes, rows, columns).

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((50, 60))
    >>> model = kernelfit.Model((1, 3), boundary="wrap")
    >>> kernelfit.find_kernel(image, np.roll(image, 1, axis=1), model).kernel.round(9) + 0.0
    array([[0., 0., 1.]])
    """

    shape: int | tuple[int, ...] | None = None
    mode: str | None = None
    boundary: str | None = None
    fillvalue: float = 0.0
    origin: int | tuple[int, ...] | None = None
    operation: str = "convolution"
    stride: int | tuple[int, ...] = 1
    offset: int | tuple[int, ...] = 0
    channel_axis: int | None = None
    channels: str = "shared"
    background: int | None = None
    real: bool = False
    variation: "int | str | Variation | None" = None
    lags: Any = None
    ndim: int | None = None
    register: str | None = None
    curve: str | None = None
    curve_side: str = "both"

    def __post_init__(self) -> None:
        if self.ndim not in (None, 1, 2, 3):
            raise ValueError(
                f"got ndim={self.ndim!r}, need 1 for signals, 2 for images, 3 for volumes, or None for any"
            )
        if self.lags is not None and (self.shape is not None or self.origin is not None):
            raise ValueError("got lags= beside a shape or an origin, which it stands for; need one or the other")
        if self.shape is None and self.lags is None:
            raise TypeError("got no shape, need the kernel's; or lags=(first, last)")
        self._window(self.dimensions or 2)
        geometry.lattice(self.stride, self.offset, self.dimensions or 2)
        known(self.mode, (None, *geometry.MODES, "crop"), "mode")
        known(self.boundary, geometry.BOUNDARIES, "boundary")
        known(self.operation, geometry.OPERATIONS, "operation")
        known(self.channels, CHANNELS, "channels")
        if not isinstance(self.real, bool | np.bool_):
            raise TypeError(f"got real={self.real!r}, need True or False")
        known(self.register, (None, *KINDS), "register")
        known(self.curve, (None, *CURVES), "curve")
        if self.curve_side is None or known(self.curve_side, SIDES, "curve_side") is None:
            raise ValueError(f"got curve_side=None, need one of {', '.join(map(repr, SIDES))}")
        if self.curve is None and self.curve_side != "both":
            raise ValueError(f"got curve_side={self.curve_side!r} without a curve, need curve='gamma', for one")
        if self.channel_axis is None and self.channels != "shared":
            msg = f"got channels={self.channels!r} without channel_axis, need the axis of the channels: channel_axis=-1"
            raise ValueError(msg)
        degree = "None or the degree of a polynomial: 0, 1, 2, ..."
        settled = dict(
            fillvalue=as_number(self.fillvalue, "fillvalue"),
            channel_axis=None if self.channel_axis is None else _as_axis(self.channel_axis),
            background=None if self.background is None else as_count(self.background, "background", degree, 0),
            variation=as_variation(self.variation),
        )
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def kernel_shape(self) -> Any:
        """Rows and columns of the kernel, of volumes planes before them; a signal's has one row."""
        return self._window(self.of_three or self.ndim or 2)[0]

    @property
    def of_three(self) -> int | None:
        """3 if it is for volumes, else None."""
        return 3 if self.dimensions == 3 else None

    @property
    def dimensions(self) -> int | None:
        """Number of dimensions, as far as the fields tell."""
        if self.ndim is not None:
            return self.ndim
        if self.lags is not None:
            nested = isinstance(self.lags, tuple | list) and any(isinstance(v, tuple | list) for v in self.lags)
            return (3 if len(self.lags) == 3 else 2) if nested else 1
        if isinstance(self.shape, tuple | list) and len(self.shape) == 3:
            return 3
        given = (self.shape, self.origin, self.stride, self.offset)
        lengths = {len(value) for value in given if isinstance(value, tuple | list)}
        return None if not lengths else lengths.pop() if lengths in ({1}, {3}) else 2

    def _window(self, ndim: int) -> tuple[Any, Any]:
        """Return the kernel's shape, and its origin if one is given."""
        if self.lags is None:
            origin = None if self.origin is None else geometry.in_plane(self.origin, "origin", ndim, 0)
            return geometry.kernel_shape(self.shape, ndim), origin
        axes = geometry.window(self.lags, ndim)
        flips = self.operation == "correlation"
        axes = ((0, 0), *axes)[-max(2, ndim) :]
        sides, origin = zip(*((last - first + 1, last if flips else -first) for first, last in axes), strict=True)
        return sides, origin

    def convention(self, mode: str, size: Shape | None = None) -> Convention:
        """Return how the kernel lies on an image.

        Parameters
        ----------
        mode : {"same", "valid", "full", "crop"}
            How the target's shape follows from the image's.
        size : (int, int), optional
            The target's shape, for mode "crop".
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("boundary", "fillvalue", "operation")}
        ndim = self.of_three or self.ndim or 2
        (shape, origin), (stride, offset) = self._window(ndim), self.lattice
        fields |= {"origin": origin, "stride": stride, "offset": offset, "ndim": ndim}
        made = geometry.convention(shape, mode=mode, **fields)
        return dataclasses.replace(made, size=size if mode == "crop" else None)

    @property
    def lattice(self) -> tuple[Any, Any]:
        """Stride and offset."""
        return geometry.lattice(self.stride, self.offset, self.of_three or self.ndim or 2)

    @property
    def strided(self) -> bool:
        """Whether the target skips pixels."""
        return bool(max(self.lattice[0]) > 1)


@dataclass(frozen=True, eq=False)
class Selection:
    """Which target pixels count, and how much. Masked values never affect the result.

    For several pairs each field is a list; for channels a plane for all of them, or one for each.

    Parameters
    ----------
    mask : array_like of bool, optional
        True where a target pixel is excluded, as in `numpy.ma`; of the target's shape, or what broadcasts to it.
        Masked arrays bring their own.
    image_mask : array_like of bool, optional
        True where an image pixel is bad: every target pixel whose footprint touches it is excluded.
    weights : array_like, optional
        Inverse variance of each target pixel, at least 0, in any unit: only ratios matter to the kernel, and
        `KernelFit.noise_std` is that of a pixel of weight 1. A mask is a weight of zero.
    nan : {"error", "mask"}, optional
        What to do with pixels that are NaN or infinite and not masked: refuse them (default), or mask them.
    saturated : {"auto", None} or (low, high), optional
        Which target pixels are saturated, and so excluded: those at `low` or below and at `high` or above, either of
        which may be None. The default "auto" means the two ends of the range of an integer target's type, unless nearly
        all of the target stands there, or all else is alike (black and white), and nothing for other targets, or for
        `Wiener`. Clipping is not linear. Where `high` is said, image pixels from there on are excluded as well, with
        all target pixels whose footprint touches them, unless `image_mask` is given or they are more than a tenth.
        `KernelFit.notes` says how many.
    """

    mask: Any = None
    image_mask: Any = None
    weights: Any = None
    nan: str = "error"
    saturated: "str | tuple[float | None, float | None] | None" = "auto"

    def __post_init__(self) -> None:
        if self.nan is None or known(self.nan, NAN, "nan") is None:
            raise ValueError("got nan=None, need 'error' or 'mask'")
        as_ends(self.saturated, np.uint8)


@dataclass(frozen=True)
class Noise:
    """What noise the target has, and the image; which criterion and which error bars follow.

    Parameters
    ----------
    variance : {"constant", "poisson"} or (gain, read_noise), optional
        How noisy the target's pixels are: all alike (default), or with the variance of photon noise,
        ``prediction / gain + (read_noise / gain)^2``, for a gain in electrons per unit of the target and a read noise
        in electrons; "poisson" is a gain of 1 without read noise. The weights come from the fit's own
        prediction, iteratively; predictions below 1 % of their mean, or four times the usual error of
        one, count as that. As a flat keyword: `noise`.
    loss : {None, "huber", "tukey", "clip"}, optional
        Hold outliers in the target down: in proportion to their distance ("huber"), smoothly to nothing ("tukey"), or
        at once, beyond 4 standard deviations ("clip", the best of them for outliers far out). The scale is the median
        absolute residual, times 1.4826. The verdict says so if the image's detail is in so few pixels that which of
        them count decides the kernel. `KernelFit.weights` are the weights finally used. As a flat keyword: `robust`.
    image_std : float, optional
        Standard deviation of the noise of an image pixel, if the image has noise of its own (another exposure, not the
        very array the target was made from): white, and independent of that of the target. It makes the kernel of
        least squares too small; what it adds to the Gram matrix is taken off, as far as the image's detail allows.
        Photon noise is taken together with what it adds to a pixel's variance (weights that follow the prediction see
        its noise as well: the kernel's sum is off by up to ``1 / gain`` relative to the target's mean); weights given
        as numbers stay as they are.
        Default 0. As a flat keyword: `image_noise`.
    covariance : {"plain", "sandwich"}, optional
        What noise the error bars are for: white noise (the default), or noise correlated from pixel to pixel as
        the residual is, which takes about two more passes, with a mask or weights some more (see `sandwich_errors`).
        With "plain" a sample of the residual is looked at, and the verdict says so if the error bars cannot be trusted.
        As a flat keyword: `errors`.
    """

    variance: "str | tuple[float, float]" = "constant"
    loss: str | None = None
    image_std: float = 0.0
    covariance: str = "plain"

    def __post_init__(self) -> None:
        PixelVariance.of(self.variance)
        known(self.loss, LOSSES, "robust")
        known(self.covariance, COVARIANCES, "errors")
        std = self.image_std
        real = isinstance(std, numbers.Real) and not isinstance(std, bool)
        if not real or not 0 <= as_float(std) < 1e150:  # its square is a number
            msg = f"got image_noise={std!r}, need a standard deviation of at least 0, in units of the image"
            raise (ValueError if real else TypeError)(msg)

    @property
    def pixel_variance(self) -> "PixelVariance":
        """How the variance depends on the prediction."""
        return PixelVariance.of(self.variance)

    @property
    def reweighted(self) -> bool:
        """Whether weights come from the fit itself."""
        return self.loss is not None or bool(self.pixel_variance.slope)


@dataclass(frozen=True)
class Execution:
    """How to run: what reads the pixels, with how many threads, how exactly, and who is told.

    Parameters
    ----------
    engine : {"auto", "direct", "fft"}, optional
        What reads the pixels; both give the same sums to rounding. The default is `choose_method`'s verdict. As a flat
        keyword: `method`, which also takes "cg" for ``solver=ConjugateGradient()`` and "wiener" for
        ``solver=Wiener()``.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.
    tolerance : float, optional
        For iterations: the error at which to stop, in units of the standard error that the noise causes, default 0.01.
    progress : callable, optional
        Called as ``progress(stage, done, total)`` now and then, with the name of what is being done and how far it is.
    """

    engine: str = "auto"
    workers: int | None = None
    tolerance: float | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        known(self.engine, tuple(ENGINES), "method")
        as_workers(self.workers)
        require_progress(self.progress)
        real = isinstance(self.tolerance, numbers.Real) and not isinstance(self.tolerance, bool)
        if self.tolerance is not None and not (real and 0 < self.tolerance < 1):
            raise (ValueError if real else TypeError)(
                f"got tolerance={self.tolerance!r}, need a number between 0 and 1"
            )

    @property
    def threads(self) -> int:
        """Number of threads."""
        return as_workers(self.workers)


@dataclass(frozen=True)
class PixelVariance:
    """A pixel's variance by its prediction, ``slope * prediction + constant``; all are alike without a slope."""

    slope: float = 0.0
    constant: float = 1.0

    @classmethod
    def of(cls, variance: object) -> "PixelVariance":
        """Return the model meant by what a user may write."""
        if isinstance(variance, str):
            known(variance, ("constant", "poisson"), "noise")
            return cls() if variance == "constant" else cls(1.0, 0.0)
        try:
            gain, read_noise = variance  # type: ignore[misc]
        except (TypeError, ValueError):
            gain = read_noise = None
        if not (isinstance(gain, numbers.Real) and isinstance(read_noise, numbers.Real)):
            msg = f"got noise={variance!r}, need 'constant', 'poisson' or a pair of numbers (gain, read_noise)"
            raise TypeError(msg)
        gain, read_noise = as_float(gain), as_float(read_noise)
        if not (0 < gain < math.inf and 0 <= read_noise < math.inf):
            msg = f"got noise={variance!r}, need a gain above 0 (electrons per unit) and a read noise of at least 0"
            raise ValueError(msg)
        return cls(1.0 / gain, (read_noise / gain) ** 2)

    def beside(self, variance: float) -> "PixelVariance":
        """Return the model with a variance added that all pixels have."""
        return dataclasses.replace(self, constant=self.constant + variance) if variance else self

    def at(self, prediction: Array, observed: Array, floor: float, apart: float) -> Array:
        """Return the variance of pixels, that of their prediction."""
        out = np.empty(prediction.shape)
        for start in range(0, len(out), _ROWS):
            rows = slice(start, start + _ROWS)
            out[rows] = self._of(prediction[rows], observed[rows], floor, apart)
        return out

    def _of(self, prediction: Array, observed: Array, floor: float, apart: float) -> Array:
        """Do the work of `at` for a few rows, which stay in the cache."""
        # A prediction further from what was `observed` than `apart` of its standard deviations p is none; then that
        # prediction counts which is so far from it: ``(observed - p)^2 = apart^2 (slope p + constant)``. So weights
        # cannot run away with a bad kernel, and reweighting ends where a convex criterion has its minimum. The least
        # prediction is `floor`.
        variance = self.slope * prediction
        variance += self.constant
        off = observed - prediction
        off *= off
        doubted = np.nonzero(off > apart**2 * variance)
        believed = np.maximum(prediction, floor)
        if len(doubted[0]):
            half, seen = 0.5 * apart**2 * self.slope, observed[doubted]
            reach = np.sqrt(np.maximum(half * (half + 2 * seen) + apart**2 * self.constant, 0.0))
            nearest = np.clip(prediction[doubted], seen + half - reach, seen + half + reach)
            believed[doubted] = np.maximum(nearest, floor)
        believed *= self.slope
        believed += self.constant
        return np.asarray(believed)


def fields_of_model(fit: Estimate) -> dict[str, Any]:
    """Return the fields of the model that a kernel was found with, but for its shape."""
    more = {"channels": fit.channels or "shared", "channel_axis": fit.channel_axis}
    more["background"] = None if fit.background is None else fit.background.degree
    return {"real": fit.convention.numbers == "real of complex", **fit.convention.keywords(), **more}


def model_of(fit: Estimate, **changed: Any) -> Model:
    """Return the model that a kernel of images or volumes was found with, some fields changed."""
    ndim = 3 if fit.convention.ndim == 3 else 2
    return Model(fit.kernel.shape[-ndim:], **{**fields_of_model(fit), **changed})


def as_ends(saturated: object, dtype: Any) -> tuple[float, float] | None:
    """Return the values from which on a target pixel counts as saturated, (low, high), or None."""
    if saturated is None:
        return None
    if isinstance(saturated, str):
        if saturated != "auto":
            raise ValueError(f"got saturated={saturated!r}, need 'auto', None or a pair (low, high)")
        if np.dtype(dtype).kind not in "iu":
            return None
        info = np.iinfo(dtype)
        return float(info.min), float(info.max)
    try:
        pair: Any = saturated
        low, high = pair
        ends = (-np.inf if low is None else as_float(low), np.inf if high is None else as_float(high))
    except (TypeError, ValueError):
        msg = f"got saturated={saturated!r}, need 'auto', None or a pair (low, high), either of which may be None"
        raise TypeError(msg) from None
    if not ends[0] < ends[1]:
        raise ValueError(f"got saturated={saturated!r}, need low < high")
    return ends


def _as_axis(axis: object) -> int:
    try:
        return operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"got channel_axis={axis!r}, need an int, or None for images of one plane") from None
