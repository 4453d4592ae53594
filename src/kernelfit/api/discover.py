"""The door of a call without a shape: what is not said of a pair is found, and everything else goes on as given."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core import geometry
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.model import Execution, Model, Selection, as_ends
from ..core.validation import as_list, as_workers
from ..data.masking import at_ends, unmasked
from ..data.observation import as_array
from ..fitting.channel_relation import channels_of
from ..fitting.discovery import UnrelatedError, discover
from ..fitting.found import Found
from ..restoration.psf_matching import decayed
from .check_boundary import boundary_of
from .keywords import FIELDS, default, same
from .match_psf import match_psf
from .results import KernelFit

#: Of the channels of an image; None is the mean.
Weights = tuple[float, float, float] | None
#: Fields of a model that mean nothing without a shape.
_NEED_SHAPE = ("origin", "offset")
#: Keywords beside which outliers are not held down unasked.
_NOT_ROBUST = ("robust", "noise", "weights", "image_noise", "errors", "register", "curve", "variation", "smoothness")
#: Keywords that change no result.
_UNSAID = ("workers", "progress")
#: Values that Python writes in a line, up to so many characters.
_PLAIN, _LONGEST = (str, float, int, tuple, type(None)), 300
#: Saturated pixels are used, unless they were told, where they are so much of the target.
_NEARLY_ALL = 0.95
#: Signs of a motion: the first is beyond doubt, the others are looked into up to so many pixels.
_SIGNS, _CHEAP = (Verdict.MISALIGNED, Verdict.VARYING, Verdict.COLOURED_NOISE), 2**17
#: A motion is kept if the logarithm of the likelihood grows by so much, which correlated noise would not do by chance.
_CLEARLY = 75.0
#: Pixels that tell what there is to find where more than such a share of them is saturated.
_ENOUGH_PIXELS, _FEW = 2**16, 1e-3
#: Share of the target's variance that weights of channels leave, being found of too small a kernel.
_ENOUGH = 1e-6
#: Times that the weights of an image's channels, of which a gray target is made, and the kernel's size are found in
#: turn; weights are the same that differ by no such share.
_ROUNDS, _SAME = 3, 0.01
#: Sides up to which a pair may be two stamps.
_LARGEST = 512
#: A motion or a curve is what was missed if no more is left with it than such a share of what was left before.
_HELPED = 0.5
_TOGETHER = {
    "shared": "all channels share one kernel",
    "separate": "each channel has a kernel of its own",
    "mixed": "each channel of the target is made of all of the image's",
}


class Completed(NamedTuple):
    """A call with what was found: that in words, what there is to doubt, and how to write the arrays that are left."""

    image: Any
    target: Any
    keywords: dict[str, Any]
    words: tuple[str, ...]
    findings: tuple[Finding, ...]
    arrays: tuple[str, str]
    left: float  # share of the target's variance


def completed(
    image: Any,
    target: Any,
    keywords: Mapping[str, Any],
    selection: Selection | None,
    execution: Execution | None,
    solver: Any = None,
) -> Completed:
    """Return a call without a shape, completed by what is found of the pair."""
    for name in _NEED_SHAPE:
        if keywords.get(name) not in (None, 0, (0, 0)):
            raise ValueError(
                f"got {name}={keywords[name]!r} without shape, need the kernel's shape as well; give shape="
            )
    given = {name: keywords[name] for name in keywords if name in {f.name for f in dataclasses.fields(Selection)}}
    selected = selection or Selection(**given)
    run = execution or Execution(workers=keywords.get("workers"))
    images, targets = as_list(unmasked(image)[0]), as_list(unmasked(target)[0])
    if (images is None) != (targets is None):
        raise ValueError("got a list as image or target and one array as the other, need as many images as targets")
    for value in [*(images or [image]), *(targets or [target])]:
        if np.dtype(getattr(unmasked(value)[0], "dtype", None) or np.asarray(value).dtype).kind == "c":
            raise TypeError("got complex numbers without shape, need the kernel's shape as well; give shape=")
    axis = keywords.get("channel_axis")
    if images is None and axis is None:
        image, target, colours, words, arrays = colours_of(image, target, keywords.get("channels"))
    else:
        colours, words, arrays = {}, (), ("image", "target")
    axis = colours.get("channel_axis", axis)
    pairs = [(image, target) if images is None else (image[0], target[0])]
    if images is not None:
        selected = _of_first(selected)
    elif (part := _middle(image, target, selected, axis)) is not None:
        pairs.insert(0, part)
    stride = geometry.as_pair(keywords.get("stride", 1), "stride")
    steps = None if stride == (1, 1) else stride
    edges = keywords.get("boundary"), float(keywords.get("fillvalue", 0.0))
    every, seen = selected, pairs[0]

    def look(seen: tuple[Any, Any], result: Any, selected: Selection, planes: int, weights: Weights) -> Found:
        around, source = None, _plane(seen[0], axis, weights)
        if seen is not pairs[-1]:
            whole = _plane(pairs[-1][0], axis, weights), _plane(pairs[-1][1], axis)
            around = *whole, _plane_selection(every, axis, pairs[-1])
        return discover(source, result, selected, run, steps, edges=edges, colours=planes, around=around)

    for seen in pairs:
        selected = _plane_selection(every, axis, seen)
        result = _plane(seen[1], axis)
        colour = np.ndim(seen[1]) == 3 and seen[1].dtype.kind in "iu" if axis is not None else False
        planes = seen[1].shape[axis] if colour else 0
        try:
            of_seen = functools.partial(look, seen, result, selected, planes)
            found = _first_found(of_seen, _mixtures(*seen) if colours else [None])
        except UnrelatedError:
            if seen is pairs[-1]:
                raise
            continue
        if not _is_far(found, seen[1]):
            break
    if colours and keywords.get("channels") is None:
        colours["channels"], weights, left_out = channels_of(*seen, found.fields, every, run, found.peak)
        for _ in range(_ROUNDS if colours["channels"] == "mixed" else 0):  # whose mean is that of no one image
            source = np.asarray(seen[0], dtype=np.float64) @ weights
            found = discover(source, result, selected, run, steps, _ENOUGH, edges, planes)
            if not left_out:
                break
            last, (_, weights, left_out) = weights, channels_of(*seen, found.fields, every, run, found.peak)
            if np.abs(weights - last).max() < _SAME * np.abs(last).max():
                break
    if colours:
        words = (*words, f"{_TOGETHER[colours['channels']]} (channels={colours['channels']!r})")
    if images is not None and len(images) > 1:
        words = (*words, "found in the first pair, and fitted to all")
    fields = _turned(found, keywords.get("operation"))
    if found.strays:
        plain = solver in (None, "auto") and not any(keywords.get(name) is not None for name in _NOT_ROBUST)
        said = f"{100 * found.strays:.2g} % of the target's pixels are not what the kernel makes of the image, as hot "
        said += "pixels, cosmic rays, text, a logo or a border are not"
        words = (*words, f"{said}: they are held down (robust='clip')" if plain else f"{said}: give robust='clip'")
        fields |= {"robust": "clip"} if plain else {}
    return Completed(
        image, target, {**colours, **fields, **keywords}, (*found.words, *words), found.findings, arrays, found.left
    )


def written(arrays: tuple[str, str], keywords: Mapping[str, Any], **objects: Any) -> tuple[str, ...]:
    """Return the words of a call that its result does not tell: the arrays, what counts, the noise and the solver.

    Arrays, and whatever Python does not write in a line, go by the names of their keywords.
    """
    words, given = [*arrays], {name: v for name, v in keywords.items() if name not in _UNSAID}
    for name, value in given.items():
        if FIELDS[name][0] is not Model and not same(value, default(name)):
            words.append(f"{name}={code_of(value) or name}")
    words += [f"{name}={code_of(value) or name}" for name, value in objects.items() if value is not None]
    return ("find_kernel", *words) if words != ["image", "target"] else ()


def code_of(value: Any) -> str:
    """Return how Python writes a value, nothing if not in few words."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, tuple):
        value = tuple(one.item() if isinstance(one, np.generic) else one for one in value)
    ours, text = type(value).__module__.startswith("kernelfit."), repr(value)
    short = len(text) < _LONGEST and not any(part in text for part in ("array", "<", "np.", "inf", "nan,"))
    return f"kernelfit.{text}" if ours and short else text if short and isinstance(value, _PLAIN) else ""


def model_of_signals(keywords: dict[str, Any]) -> Model:
    """Take what a model of signals needs out of keywords for images of one row."""
    fields = {name: keywords.pop(name) for name in list(keywords) if name == "shape" or FIELDS[name][0] is Model}
    for name in ("shape", "origin", "stride", "offset"):
        if name in fields:
            fields[name] = tuple(fields[name])[1:]
    return Model(**fields, ndim=1)


def edges_of(image: Any, target: Any, fit: KernelFit, keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note of the boundary that the pixels near the edges go with, where nothing was said of one."""
    conv = fit.convention
    asked = any(keywords.get(name) is not None for name in ("boundary", "image_mask", "variation", "nan"))
    if asked or conv.mode not in ("same", "full") or as_list(image) is not None or fit.kernel.dtype.kind == "c":
        return ()
    if not fit.verdict.ok:
        return ()
    selection = Selection(mask=keywords.get("mask"), weights=keywords.get("weights"), saturated=None)
    try:
        checked = boundary_of(image, target, fit, selection, as_workers(keywords.get("workers")), own=True)
    except ValueError:  # the pixels inside are too few to tell
        return ()
    if checked.best is None or not checked.n_pixels:
        return ()
    others = f", and {' or '.join(map(repr, checked.possible[1:]))} not ruled out" if len(checked.possible) > 1 else ""
    return (
        f"the {checked.n_pixels} pixels near the edges are left out; they go with boundary={checked.best!r}{others}, "
        "which counts them",
    )


def may_move(fit: Estimate, keywords: Mapping[str, Any]) -> bool:
    """Return whether the parts of a target may be displaced against each other, and nothing was said of anything."""
    conv = fit.convention
    asked = any(name not in _UNSAID and not same(value, default(name)) for name, value in keywords.items())
    flat = conv.ndim == 2 and not conv.strided and fit.kernel.dtype.kind != "c"
    signs = _SIGNS if fit.n_pixels <= _CHEAP else _SIGNS[:1]
    return flat and not asked and any(finding.verdict in signs for finding in fit.findings)


def motion_told(before: Estimate, after: Estimate) -> str:
    """Say that a motion is found besides, if it leaves clearly less; else nothing."""
    motion = after.registration
    settled = all(finding.verdict is not Verdict.NOT_CONVERGED for finding in after.findings)
    if motion is None or not settled or not after.noise_std > 0:
        return ""
    if after.n_pixels * math.log(before.noise_std / after.noise_std) < _CLEARLY:
        return ""
    moved = np.abs(motion.displacement).max()
    return (
        f"the image lies on the target by an affine motion, which displaces a corner by {moved:.2g} pixels "
        f"(register='affine'); without it the noise is {before.noise_std / after.noise_std:.3g} times as large"
    )


def still(findings: Sequence[Finding], fit: Estimate, left: float) -> list[Finding]:
    """Return what is doubted of a pair, less that no kernel makes the target where a motion or a curve does.

    `left` is the share of the target's variance that was left without them.
    """
    helped = (fit.registration is not None or fit.curve is not None) and 1 - fit.r_squared < _HELPED * left
    return [finding for finding in findings if not (helped and finding.verdict is Verdict.NONLINEAR)]


def matched(image: Any, target: Any, keywords: Mapping[str, Any], plain: bool) -> KernelFit | None:
    """Return the kernel of full size between two stamps that have faded at their edges; None for other pairs.

    `plain` says that nothing was given of the solver and the selection; a keyword but for the boundary's is neither.
    """
    allowed = {"workers": None, "progress": None, "boundary": "fill"}
    if not plain or not all(same(v, allowed.get(n, default(n))) or same(v, default(n)) for n, v in keywords.items()):
        return None
    if as_list(image) is not None or as_list(target) is not None:
        return None
    arrays = [a if isinstance(a, np.ndarray) else np.asarray(a) for a in (image, target)]
    if arrays[0].shape != arrays[1].shape or any(a.ndim != 2 or a.dtype.kind not in "iuf" for a in arrays):
        return None
    if max(arrays[0].shape) > _LARGEST or any(isinstance(a, np.ma.MaskedArray) for a in arrays):
        return None
    if not all(decayed(np.asarray(a, dtype=np.float64)) for a in arrays):
        return None
    fit = match_psf(arrays[0], arrays[1], workers=keywords.get("workers"))
    rows, cols = arrays[0].shape
    words = (
        f"both are stamps that fade to nothing at their edges: a kernel of {rows}x{cols} taps, zeros beyond (match_psf)"
    )
    return dataclasses.replace(fit, found=(words,), call=("match_psf", "image", "target"))


def _turned(found: Found, operation: str | None) -> dict[str, Any]:
    """Return the fields of a model for a kernel that is laid on the image as it is."""
    fields = dict(found.fields)
    if operation == "correlation":
        shape = fields["shape"]
        origin = fields.get("origin", tuple((k - 1) // 2 for k in shape))
        if fields["mode"] in ("same", "crop"):
            fields["origin"] = tuple(k - 1 - o for k, o in zip(shape, origin, strict=True))
    return fields


def _plane(array: Any, axis: int | None, weights: Weights = None) -> Any:
    """Return one plane: the mean of the channels, or with such weights."""
    if not hasattr(array, "shape"):
        array = np.asarray(array)
    if axis is None or len(array.shape) != 3:
        return array
    plane = np.asarray(array, dtype=np.float64)
    return plane.mean(axis=axis) if weights is None else plane @ weights


def _mixtures(image: Any, target: Any) -> list[Weights]:
    """Return of which weights of three channels a target of one may be made, the likeliest first; None is the mean."""
    if np.shape(image)[-1] != 3 or np.shape(target)[-1] != 1:
        return [None]
    # luma, of which most gray pictures are made (ITU-R BT.601), and what a channel shows alone
    return [(0.299, 0.587, 0.114), None, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]


def _first_found(look: Callable[[Weights], Found], mixtures: Sequence[Weights]) -> Found:
    """Return what is found of the first of some mixtures that a kernel relates to the target."""
    first: ValueError | None = None
    for weights in mixtures:
        try:
            return look(weights)
        except ValueError as error:
            first = first or error
    assert first is not None
    raise first


def _is_far(found: Found, target: Any) -> bool:
    """Return whether a kernel lies so far off that a part of the pair hardly shows it."""
    shape, origin = found.fields["shape"], found.fields.get("origin")
    axes = zip(origin or (), shape, target.shape, strict=False)
    return any(abs(o - (k - 1) // 2) > n // 8 for o, k, n in axes)


def _middle(image: Any, target: Any, selection: Selection, axis: int | None) -> tuple[Any, Any] | None:
    """Return the middle of a large pair of one size whose saturated pixels would cost time; None for others."""
    plain = all(type(a) is np.ndarray and a.dtype.kind in "iu" for a in (image, target)) and axis in (None, -1)
    given = (selection.mask, selection.image_mask, selection.weights)
    if not plain or selection.saturated != "auto" or any(one is not None for one in given):
        return None
    rows, cols = target.shape[:2]
    if image.shape[:2] != (rows, cols) or rows * cols <= 2 * _ENOUGH_PIXELS:
        return None
    hit = at_ends(target, as_ends("auto", target.dtype) or (0.0, 0.0))
    if hit is None or not _FEW < hit.mean() < _NEARLY_ALL:
        return None
    share = (_ENOUGH_PIXELS / (rows * cols)) ** 0.5
    first = [int((1 - share) * n / 2) for n in (rows, cols)]
    part = tuple(slice(f, n - f) for f, n in zip(first, (rows, cols), strict=True))
    return image[part], target[part]


def _of_first(selection: Selection) -> Selection:
    """Return what concerns the first pair."""
    values = {name: getattr(selection, name) for name in ("mask", "image_mask", "weights")}
    return dataclasses.replace(selection, **{n: v[0] for n, v in values.items() if isinstance(v, (list, tuple)) and v})


def _plane_selection(selection: Selection, axis: int | None, pair: tuple[Any, Any]) -> Selection:
    """Return the selection of the mean of the channels, pixels that arrays mask themselves among those left out."""
    if axis is None:
        return selection
    fields: dict[str, Any] = {}
    for name in ("mask", "image_mask"):
        value = getattr(selection, name)
        if value is not None and np.ndim(value) == 3:
            fields[name] = np.any(value, axis=axis)
    if selection.weights is not None and np.ndim(selection.weights) == 3:
        fields["weights"] = np.mean(selection.weights, axis=axis)
    ends = as_ends(selection.saturated, pair[1].dtype) if hasattr(pair[1], "dtype") else None
    if ends is not None:  # of which the mean of the channels no longer tells
        channels = np.moveaxis(np.asarray(pair[1]), axis, 0)
        hits = [hit for hit in (at_ends(channel, ends) for channel in channels) if hit is not None]
        some = functools.reduce(np.logical_or, hits) if hits else None
        if some is not None and (selection.saturated != "auto" or some.mean() < _NEARLY_ALL):
            other = fields.get("mask", selection.mask)
            fields["mask"] = some if other is None else some | np.asarray(other, dtype=bool)
        fields["saturated"] = None
    return dataclasses.replace(selection, **fields)


def colours_of(
    image: Any, target: Any, channels: str | None
) -> tuple[Any, Any, dict[str, Any], tuple[str, ...], tuple[str, str]]:
    """Return a pair of colour images, or of one and a gray one, with as few channels as there are to tell apart.

    With it come the model's fields, what was left out in words, and how to write the two arrays.
    """
    both, words, counts, codes = [], [], [], []
    for name, array in (("image", image), ("target", target)):
        shape = tuple(array.shape if hasattr(array, "shape") else as_array(array, name).shape)
        code = name
        if len(shape) == 3 and shape[-1] in (1, 2, 3, 4):
            array, said, code = _without_alpha(np.asanyarray(array), name)
            words += said
        both.append(array)
        codes.append(code)
        counts.append(np.shape(array)[-1] if len(np.shape(array)) == 3 else 0)
    if counts == [0, 0] or not all(n in (0, 1, 2, 3, 4) for n in counts):
        return both[0], both[1], {}, tuple(words), (codes[0], codes[1])
    made = channels or ("shared" if counts[0] == counts[1] else "mixed")
    arrays = [np.asanyarray(a)[..., None] if n == 0 else a for a, n in zip(both, counts, strict=True)]
    codes = [code + "[..., None]" * (n == 0) for code, n in zip(codes, counts, strict=True)]
    return arrays[0], arrays[1], {"channel_axis": -1, "channels": made}, tuple(words), (codes[0], codes[1])


def _without_alpha(array: Any, name: str) -> tuple[Any, list[str], str]:
    """Return the colours of an image, as one plane where all are alike; what was left out, and how to write that."""
    count, words, code = array.shape[-1], [], name
    if count in (2, 4) and (array.dtype.kind in "iu" or np.ptp(array[..., -1]) == 0):
        array = array[..., : count - 1]
        code = f"{name}[..., :{count - 1}]"
        words.append(f"the alpha channel of the {name} is left out: {code}")
    if all(np.array_equal(array[..., 0], array[..., c]) for c in range(1, array.shape[-1])):
        if array.shape[-1] > 1:
            words.append(f"the channels of the {name} are equal, and so one plane: {name}[..., 0]")
        return array[..., 0], words, f"{name}[..., 0]"
    return array, words, code
