"""Calls with containers: opened before a verb runs, and its result put into their like."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .containers import Opened, inverse_variance, library_of, open_container
from .estimate import Estimate
from .geometry import Convention, default_origin
from .labels import Labels, places_of, with_labels
from .model import Model, Noise, Selection

P = ParamSpec("P")
R = TypeVar("R")
_SELECTED = ("mask", "image_mask", "weights")
_ARRAYS = ("image", "target", *_SELECTED, "kernel", "first", "second", "stderr", "source", "capture", "pattern")
#: Verbs whose result has a value, or none, for each pixel, so that a mask goes through them as NaN.
_OF_PIXELS = ("apply_kernel", "KernelFit.predict", "KernelFit.residual")
#: Verbs of results whose own result lies on the image.
_OF_IMAGES = ("KernelFit.registered",)


def of_any_container(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a verb take containers, and return such."""
    signature = inspect.signature(verb)

    @functools.wraps(verb)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        given = arguments_of(signature, args, kwargs)
        if given is None:
            return verb(*args, **kwargs)
        given, close = opened(given, verb.__qualname__, signature.parameters)
        return cast(R, close(verb(**given)))  # type: ignore[call-arg]

    return called


def arguments_of(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any] | None:
    """Return the arguments of a call by name; None where it does not fit, which the verb itself says best."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None


def opened(given: dict[str, Any], verb: str, takes: Iterable[str]) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Return the arguments `takes` of a call to `verb` without containers, and what puts its result into one."""
    found: dict[str, list[Opened | None]] = {}
    for name in _ARRAYS:
        value = given.get(name)
        several = value if isinstance(value, list | tuple) else [value]
        inside = [open_container(one, name) for one in several]
        if any(one is not None for one in inside):
            found[name] = inside
    selection, pairs = given.get("selection"), given.get("pairs")
    out = dict(given)
    if isinstance(selection, Selection):
        fields = {n: _bare(getattr(selection, n), n) for n in _SELECTED}
        out["selection"] = dataclasses.replace(selection, **fields)
    if pairs is not None:
        out["pairs"] = _stream(pairs)
    if not found:
        return out, lambda result: result
    first = {name: next(one for one in inside if one is not None) for name, inside in found.items()}
    owner = next((value for value in given.values() if isinstance(value, Estimate)), None)
    _require_units(found, owner)
    _require_same_index(given)
    for name, inside in found.items():
        listed = isinstance(given[name], list | tuple)
        masks = name in ("image", "target") and "mask" in takes
        values = [
            own if one is None else _told(one, owner, name, masks=masks, nan=verb in _OF_PIXELS)
            for own, one in zip(given[name] if listed else [given[name]], inside, strict=True)
        ]
        out[name] = values if listed else values[0]
    _channels(out, given, first)
    if "weights" in takes:
        _weigh(out, given, found)
    owner = None if verb in _OF_IMAGES else owner
    return out, lambda result: _closed(result, given, out, first, owner)


def _bare(value: Any, name: str) -> Any:
    """Return an array, or each of several, without its container."""
    if isinstance(value, list | tuple):
        return type(value)(_bare(one, name) for one in value)
    inside = open_container(value, name)
    return value if inside is None else inside.value


def _told(one: Opened, owner: Estimate | None, name: str, *, masks: bool, nan: bool) -> Any:
    """Return the array of a container, in the units of a fit that it goes to, with its mask as the verb takes it."""
    value = one.value
    unit = _wanted(owner, name)
    if unit and one.unit and unit != one.unit:
        value = value * float(sys.modules["astropy.units"].Unit(one.unit).to(unit))
    if one.mask is None:
        return value
    return (
        np.where(one.mask, np.nan, value) if nan else np.ma.array(value, mask=one.mask, copy=False) if masks else value
    )


def _wanted(owner: Estimate | None, name: str) -> str:
    """Return the unit in which a fit has an image or a target, empty if it has none."""
    labels = None if owner is None else owner.labels
    return labels.units[("image", "target").index(name)] if labels and name in ("image", "target") else ""


def _require_units(found: Mapping[str, Sequence[Opened | None]], owner: Estimate | None) -> None:
    """Refuse pixels whose unit is not that of the others, nor of the fit that they go to."""
    for name, inside in found.items():
        units = [one.unit for one in inside if one is not None and one.unit and name in ("image", "target")]
        wanted = _wanted(owner, name)
        if len(set(units)) > 1:
            raise ValueError(f"got {name}s in {' and '.join(sorted(set(units)))}, need one unit; convert them")
        if wanted and units:
            unit = sys.modules["astropy.units"].Unit
            if not unit(units[0]).is_equivalent(unit(wanted)):
                raise ValueError(f"got {name} in {units[0]}, need {wanted}, in which the kernel was found; convert it")


def _require_same_index(given: Mapping[str, Any]) -> None:
    """Refuse tables of pandas whose rows are not those of the other; DataArrays are judged later."""
    sides = [given.get(name) for name in ("image", "target")]
    for pair in zip(*[side if isinstance(side, list | tuple) else [side] for side in sides], strict=False):
        mine, theirs = (getattr(one, "index", None) if library_of(one) == "pandas" else None for one in pair)
        if mine is None or theirs is None or len(mine) != len(theirs) or mine.equals(theirs):
            continue
        if all(getattr(one, "tz", None) is not None for one in (mine, theirs)) and bool(np.all(mine == theirs)):
            continue  # the same moments
        raise ValueError(
            f"got an image and a target whose index differs (from {mine[0]} to {mine[-1]}, and from {theirs[0]} to "
            f"{theirs[-1]}), need the same: rows are matched by position; reindex one, or pass to_numpy() of both"
        )


def _channels(out: dict[str, Any], given: Mapping[str, Any], first: Mapping[str, Opened]) -> None:
    """Let the columns of tables be channels, and a dimension's name be their axis."""
    axis, owner = given.get("channel_axis"), next((v for v in given.values() if isinstance(v, Estimate)), None)
    if isinstance(axis, str):
        names = [one.name for one in (first["image"].axes if "image" in first else ())]
        if axis not in names:
            msg = f"got channel_axis={axis!r}, need a number, or the name of a dimension of the image"
            raise ValueError(f"{msg}: {', '.join(map(repr, names))}" if names else msg)
        out["channel_axis"] = names.index(axis)
    shape, lags = given.get("shape"), given.get("lags")
    flat = axis is None and owner is None and not isinstance(shape, Model)
    flat &= all(not isinstance(one, tuple | list) or len(one) == 1 for one in (shape, *(lags or ())))
    images = given["image"] if isinstance(given.get("image"), list) else [given.get("image")]
    if flat and all(library_of(one) == "pandas" and getattr(one, "ndim", 0) == 2 for one in images):
        out["channel_axis"] = axis = 1
    if (axis if owner is None else owner.channel_axis) in (1, -1):  # one response beside several stimuli
        for name in ("target", *_SELECTED):
            several = isinstance(out.get(name), list)
            every = out[name] if several else [out.get(name)]
            laid = [v[:, None] if isinstance(v, np.ndarray) and v.ndim == 1 and name in first else v for v in every]
            if name in out:
                out[name] = laid if several else laid[0]


def _weigh(out: dict[str, Any], given: Mapping[str, Any], found: Mapping[str, Sequence[Opened | None]]) -> None:
    """Let the uncertainty of a target say how much its pixels count."""
    if "target" not in found:
        return
    several = isinstance(given["target"], list | tuple)
    values = given["target"] if several else [given["target"]]
    both = zip(values, found["target"], strict=True)
    weights = [inverse_variance(own, None if one is None else one.mask, "target") for own, one in both]
    if all(one is None for one in weights):
        return
    selection, noise = out.get("selection"), given.get("noise", "constant")
    for there, words in (
        (given.get("weights") is not None or (selection is not None and selection.weights is not None), "weights="),
        ((noise.variance if isinstance(noise, Noise) else noise) != "constant", f"noise={noise!r}"),
    ):
        if there:
            raise ValueError(
                f"got {words} with a target that has an uncertainty: both say how noisy each pixel is; need one or the "
                "other; leave it out, or set target.uncertainty = None"
            )
    if selection is None:
        out["weights"] = weights if several else weights[0]
    else:
        out["selection"] = dataclasses.replace(selection, weights=weights if several else weights[0])


def _stream(pairs: Any) -> Any:
    """Return a stream of pairs without containers."""

    def laid(item: Any) -> Any:
        if isinstance(item, Mapping):
            named = dict(item)
        elif isinstance(item, tuple | list):
            named = dict(zip(("image", "target", "mask"), item, strict=False))
        else:
            return item
        if all(library_of(value) in (None, "xarray") for value in named.values()):
            return item
        return opened(named, "accumulate_stream", _ARRAYS)[0]

    if type(pairs) in (list, tuple):
        return type(pairs)(laid(item) for item in pairs)
    if callable(pairs):
        return lambda: _mapped(laid, pairs())
    return _mapped(laid, pairs) if isinstance(pairs, Iterator) else pairs


def _mapped(function: Callable[[Any], Any], items: Any) -> Any:
    """Return what a function makes of items one by one; what is none of those as it is."""
    return map(function, items) if isinstance(items, Iterable) else items


def _closed(
    result: Any, given: Mapping[str, Any], out: Mapping[str, Any], first: Mapping[str, Opened], owner: Estimate | None
) -> Any:
    """Return what a verb returned, in a container like those it was given, or with their labels."""
    if isinstance(result, np.ndarray) and result.ndim:
        return _filled(result, out, first, owner)
    if getattr(result, "labels", 0) is not None or owner is not None:
        return result
    sides = [first.get("image", first.get("source")), first.get("target")]
    mine, theirs = (() if one is None else one.axes for one in sides)
    units: Any = tuple("" if one is None else one.unit for one in sides)
    if mine or theirs or any(units):
        shape = out.get("shape")
        axis = shape.channel_axis if isinstance(shape, Model) else out.get("channel_axis")
        result = with_labels(result, Labels(mine, theirs, units, axis))
    images = given["image"] if isinstance(given.get("image"), list) else [given.get("image")]
    if isinstance(result, Estimate) and any(getattr(one, "uncertainty", None) is not None for one in images):
        note = "the image's uncertainty is not used; image_noise= takes the standard deviation of its noise"
        result = dataclasses.replace(result, notes=(*result.notes, note))
    return result


def _filled(
    result: npt.NDArray[Any], out: Mapping[str, Any], first: Mapping[str, Opened], owner: Estimate | None
) -> Any:
    """Return an array in a container like the target's, if it is of its shape, else in one like the image's."""
    labels = None if owner is None else owner.labels
    units = ("", "") if labels is None else labels.units
    target, image = first.get("target"), first.get("image")
    kernel = first["kernel"].unit if "kernel" in first else ""
    channels = None if labels is None else labels.channels("target")
    if target is not None and result.size == np.prod(target.value.shape):
        unit = units[1] or target.unit if owner is not None else _unit(target.unit, kernel, -1)
        result = result.reshape(target.value.shape)
        return target.filled(result, [(0, 1)] * result.ndim, unit, None)
    places = None if image is None else _places(result, out, owner)
    if image is None or places is None:
        return result
    unit = units[1] or image.unit if owner is not None else _unit(image.unit, kernel, 1)
    if result.ndim == 2 and result.shape[1] == 1 and labels is not None and len(labels.target) == 1:
        result = result[:, 0]
    return image.filled(result, places, unit, channels)


def _unit(unit: str, kernel: str, power: int) -> str:
    """Return the unit of what a kernel with a unit makes of pixels, or undoes."""
    if not kernel:
        return unit
    made = sys.modules["astropy.units"].Unit
    return str((made(unit) * made(kernel) ** power).to_string())


def _places(result: npt.NDArray[Any], out: Mapping[str, Any], owner: Estimate | None) -> list[tuple[float, int]] | None:
    """Return where the pixels of what a kernel made of an image stand in the image; None where that is not told."""
    axis = out.get("channel_axis") if owner is None else owner.channel_axis
    n = np.ndim(out["image"]) - (axis is not None)
    if owner is not None:
        conv, sides = owner.convention, owner.kernel.shape[-len(owner.convention.origin) :]
    elif "kernel" in out:
        sides = np.shape(out["kernel"])[-n:]
        numbers: dict[str, Any] = {}
        for name, default in (("origin", default_origin(sides)), ("stride", (1,) * n), ("offset", (0,) * n)):
            value = out.get(name)
            value = default if value is None else value
            numbers[name] = tuple(value) if isinstance(value, tuple | list) else (value,) * n
        conv = Convention(out.get("mode", "same"), operation=out.get("operation", "convolution"), **numbers)
    else:
        return [(0, 1)] * result.ndim if result.shape == np.shape(out["image"]) else None
    found = places_of(None if owner is None else owner.labels, conv, sides)
    if axis is not None:
        found.insert(axis % (n + 1), (0, 1))
    return found if len(found) == result.ndim else None
