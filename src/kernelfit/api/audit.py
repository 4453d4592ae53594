"""Whether a kernel that is given explains a pair of images."""

import math
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ..analysis.audit_record import Audit, judged
from ..analysis.explanation import Evidence, Laid, centred, span_of
from ..analysis.place import ORIENTATIONS, Box
from ..compiled.threads import one_blas_thread
from ..core.container_calls import of_any_container
from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.geometry import Convention, Shape, as_pair, axis_lag
from ..core.mode import infer_mode
from ..core.model import Execution, Model, Selection
from ..core.validation import as_list
from ..core.validation import known as one_of
from ..data.masking import unmasked
from ..data.observation import as_array
from ..fitting.discovery import UnrelatedError
from .accumulate import accumulate
from .discover import colours_of, completed
from .keywords import FIELDS, Keywords, takes_keywords
from .statistics import NormalStats

#: Lags to spare beside a kernel for the ripples of the spline, as many as there is room for.
_SPARE = (8, 6, 4, 2)
#: Most lags in all, lags for each pixel, and lags up to which the place that is given is looked at with the others.
_MOST, _SHARE, _TOGETHER = 3600, 0.25, 1600
_OWN = ("mode", "origin", "operation", "offset")


@of_any_container
@takes_keywords(*("lags", "boundary", "fillvalue", "channels", "variation", "image_noise", "errors", "method"),
                *("balance", "detrend", "taper", "tolerance", "real", "register", "curve", "curve_side"))  # fmt: skip
@one_blas_thread
def audit(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    kernel: Estimate | npt.ArrayLike,
    *,
    selection: Selection | None = None,
    execution: Execution | None = None,
    **keywords: Unpack[Keywords],
) -> Audit:
    """Say whether a given kernel explains a pair of images, and what it lacks.

    The target is held against ``scale * (kernel moved by shift) * image + offset``: the best shift by whole pixels and
    between them, scale and offset, each with its error; whether the kernel's array has to be turned, as where
    convolution and correlation are confused; and all of it against the kernel that fits best.

    Parameters
    ----------
    image : array_like, shape (rows, cols), or list of arrays
        The image before. With three axes of colours, which share the kernel.
    target : array_like, or list of arrays
        What became of it, of any size. Where it is smaller by whole ratios a stride is found.
    kernel : KernelFit or array_like, shape (rows, cols)
        The kernel that is to be judged. A fit has its own convention, which keywords override; an array is a
        convolution kernel with SciPy signal's centre unless they say otherwise.
    selection : Selection, optional
        Which target pixels count, instead of its fields one by one.
    execution : Execution, optional
        How to run, instead of its fields one by one.
    **keywords
        The fields of `Model`, `Selection`, `Noise` and `Execution`, flat. The default of `background` is 0 here, a
        constant; None allows for none. Nothing is assumed beyond the edges.

    Returns
    -------
    Audit
        The numbers and the verdict; ``print`` it.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type or has no use here.
    ValueError
        If the kernel is not of rows and columns, not finite, zero, or of too many taps for the pixels.

    See Also
    --------
    compare_kernels : two kernels, without a pair.

    Notes
    -----
    The equations of a span of lags that holds both the given kernel and that which `find_kernel` finds without a shape
    tell the residual of every kernel on it, ``rss(c) = rss(k) + (c - k)' G (c - k)`` with G the Gram matrix and k the
    best kernel. The pixels are read for these; everything after that is done on them. Between pixels the kernel is
    moved by a spline of order 5. The unit of chi squared is the variance of the best kernel's residual. The errors of
    shift, scale and offset are those of nonlinear least squares, for a residual as large as the adjusted kernel leaves.

    Two kernels are told apart if the difference of their residuals is more than chance (p < 0.001) and more than 1 % of
    the noise; "in the main" leaves at most 2 % of the target's variance beside the noise.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((90, 100))
    >>> kernel = np.array([[0.1, 0.2, 0.0], [0.0, 0.4, 0.3]])
    >>> target = 2 * scipy.signal.correlate2d(image, kernel, mode="same") + 5 + rng.normal(0, 0.01, image.shape)
    >>> found = kernelfit.audit(image, target, kernel)
    >>> found.outcome, found.orientation[:21]
    ('adjusted', 'turned by 180 degrees')
    >>> print(f"{found.scale.value:.3f}, {found.offset[0].value:.2f}")
    2.000, 5.00
    >>> kernelfit.audit(image, target, 2 * kernel, operation="correlation").explains
    False
    """
    own: dict[str, Any] = {name: keywords.pop(name) for name in _OWN if name in keywords}  # type: ignore[misc]
    if unknown := [name for name in keywords if name not in FIELDS]:
        raise TypeError(f"audit() got an unexpected keyword argument {unknown[0]!r}")
    taps, known = _taps(kernel)
    notes: list[str] = []
    asked: dict[str, Any] = {"background": 0, **keywords}
    if asked.get("channel_axis") is None and as_list(unmasked(image)[0]) is None:
        image, target, colours, words, _ = colours_of(image, target, "shared")
        asked |= colours
        notes += words
    if known is not None and known.strided:
        asked.setdefault("stride", known.stride)
    pair = [(as_list(unmasked(array)[0]) or [array])[0] for array in (image, target)]
    sides = [
        _sides(array, asked.get("channel_axis"), name) for array, name in zip(pair, ("image", "target"), strict=True)
    ]
    around: Box | None = None
    try:
        _, _, found, *_ = completed(image, target, {**asked}, selection, execution)
        asked["stride"] = found.get("stride", asked.get("stride", 1))
        around = _box_of(Model(**{n: v for n, v in found.items() if n in _PLACE}), found["mode"], sides[1])
    except UnrelatedError as unrelated:
        notes.append(str(unrelated).partition(";")[0])
    except ValueError as error:  # an audit has the kernel's shape, and takes none
        raise ValueError(str(error).replace(", or give shape=", "")) from None
    stride = as_pair(asked.get("stride", 1), "stride")
    laid, offset = _laid(taps, known, own, stride, sides)
    count = math.prod(np.shape(pair[1])) * (len(as_list(unmasked(image)[0]) or [0]))

    def evidence(box: Box) -> Evidence:
        model = Model(
            (box[1] - box[0], box[3] - box[2]), mode="crop", origin=(-box[0], -box[2]), stride=stride,
            **{n: asked[n] for n in ("background", "channel_axis", "channels") if n in asked},
        )  # fmt: skip
        others = {n: v for n, v in asked.items() if FIELDS[n][0] is not Model}
        stats = accumulate(image, target, model, selection=selection, execution=execution, **others)
        assert isinstance(stats, NormalStats)  # the channels share the kernel
        return Evidence(stats, (box[0], box[2]))

    box, here = _span(laid, offset, around, count)
    found_on = evidence(box)
    there = laid.trimmed().moved(-offset[0], -offset[1])
    elsewhere = found_on if here else evidence(span_of([there], None, 0))
    assert isinstance(found_on.stats, NormalStats)
    best = found_on.stats.solve()
    for finding in best.findings:
        if finding.verdict is Verdict.NO_SIGNAL:
            raise ValueError(
                f"got a target that holds nothing of the image ({finding.detail}), need one that varies; check that "
                "the right file was read"
            )
    return judged(found_on, best, laid, offset, elsewhere, notes, related=around is not None)


_PLACE = ("shape", "origin", "stride", "offset")


def _taps(kernel: Estimate | npt.ArrayLike) -> tuple[npt.NDArray[np.float64], Convention | None]:
    known = kernel.convention if isinstance(kernel, Estimate) else None
    taps = np.asarray(kernel.kernel if isinstance(kernel, Estimate) else as_array(kernel, "kernel"))
    if taps.dtype.kind == "c":
        raise TypeError("got a complex kernel, need one of real numbers; audit its real and imaginary parts one by one")
    if taps.ndim != 2 or 0 in taps.shape or (known is not None and known.field is not None):
        ways = {1: "signals are not audited", 2: "audit the kernel of one place, fit.at(row, col)"}
        way = ways.get(taps.ndim, "audit one plane of it at a time")
        raise ValueError(f"got a kernel of shape {taps.shape}, need rows and columns; {way}")
    taps = taps.astype(np.float64)
    if not np.isfinite(taps).all() or not taps.any():
        raise ValueError("got a kernel of zeros, or with NaN or infinite taps, need finite ones that are not all zero")
    return taps, known


def _sides(array: Any, axis: int | None, name: str) -> Shape:
    """Return rows and columns of an image."""
    if np.dtype(getattr(array, "dtype", None) or np.asarray(array).dtype).kind == "c":
        raise TypeError(f"got {name} of complex numbers, need real ones; audit real and imaginary parts one by one")
    shape = list(np.shape(array))
    if axis is not None and len(shape) == 3:
        del shape[axis]
    if len(shape) != 2:
        raise ValueError(f"got {name} of shape {np.shape(array)}, need rows and columns; signals are not audited")
    return shape[0], shape[1]


def _box_of(model: Model, mode: str, size: Shape) -> Box:
    """Return the lags of a convolution kernel, against ``image[stride t]``."""
    conv, shape = model.convention(mode, size), model.kernel_shape
    low = [axis_lag(conv, k, o, 0) - first for k, o, first in zip(shape, conv.origin, conv.offset, strict=True)]
    return low[0], low[0] + shape[0], low[1], low[1] + shape[1]


def _laid(
    taps: npt.NDArray[np.float64], known: Convention | None, own: dict[str, Any], stride: Shape, sides: list[Shape]
) -> tuple[Laid, Shape]:
    """Return a kernel as it is given to lie on the image, as a convolution, and the first pixel that is kept."""
    shape = (taps.shape[0], taps.shape[1])
    if known is not None:
        own = {"operation": known.operation, "origin": known.origin, "offset": known.offset, **own}
    model = Model(shape, stride=stride, **{n: v for n, v in own.items() if n != "mode"})
    mode = own.get("mode", None if known is None else known.mode)
    one_of(mode, (None, "same", "valid", "full", "crop"), "mode")
    if mode is None:
        try:
            mode = infer_mode(sides[0], sides[1], shape, None, stride, model.lattice[1])
        except ValueError:
            mode = "crop"
    if mode in ("valid", "full"):
        model = Model(shape, stride=stride, operation=model.operation, offset=model.offset)
    conv = model.convention(mode, sides[1])
    turned = conv.operation == "correlation"
    row, col = (axis_lag(conv, k, o, k - 1 if turned else 0) for k, o in zip(shape, conv.origin, strict=True))
    return Laid(taps[::-1, ::-1] if turned else taps, (row, col)), model.lattice[1]


def _span(laid: Laid, offset: Shape, around: Box | None, count: int) -> tuple[Box, bool]:
    """Return a span of lags for a kernel in every orientation, and whether the place that is given is in it."""
    kernel = laid.trimmed()
    there = kernel.moved(-offset[0], -offset[1])
    place = span_of([there], None, 0) if around is None else around
    row, col = ((low + high - 1) / 2 for low, high in (place[:2], place[2:]))
    most = min(_MOST, int(_SHARE * count))
    for names, here in ((list(ORIENTATIONS), True), (list(ORIENTATIONS), False), (["as given"], False)):
        turned = [centred(kernel.oriented(name), row, col) for name in names]
        for pad in _SPARE:
            box = span_of([*turned, *([there] if here else [])], place, pad)
            size = (box[1] - box[0]) * (box[3] - box[2])
            if size <= (min(most, _TOGETHER) if here else most):
                return box, here
    need = f"at most {most} for {count} pixels"
    raise ValueError(
        f"got a kernel of {kernel.taps.shape[0]}x{kernel.taps.shape[1]} taps, which with room to move are {size} lags, "
        f"need {need}; cut off its faint edges, or take more pixels"
    )
