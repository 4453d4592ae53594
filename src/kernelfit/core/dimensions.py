"""Signals: arrays of one dimension are laid out as images of one row at the door, and what comes back has one again.

Nothing past the door knows of it. A verb decorated with `of_any_dimension` takes either, and `Convention.ndim` tells
which a result is of. An axis of length one is an axis: an image of one row stays an image. Volumes go in as they are,
where a verb takes them: `data.volumes` knows what to do.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import container_calls
from .cross_spectra import CrossSpectra
from .estimate import Estimate
from .geometry import Convention, in_plane
from .model import Model, Selection
from .normal_equations import NormalEquations

P = ParamSpec("P")
R = TypeVar("R")
#: Arguments with the axes of the image or the target, and those with the axes of the kernel.
_DATA, _KERNELS = ("image", "target", "mask", "image_mask", "weights"), ("kernel", "first", "second", "stderr")
#: Arguments that are a number along each axis, and what it is across a signal.
_SIDES = {"shape": 1, "origin": 0, "stride": 1, "offset": 0, "size": 1}
_SIDES |= {"block": 1, "tiles": 1, "overlap": 0, "corner": 0}
_MODEL = tuple(field.name for field in dataclasses.fields(Model) if field.name not in ("shape", "ndim"))
#: Verbs that take volumes.
_OF_VOLUMES = (
    *("find_kernel", "apply_kernel", "KernelFit.predict", "KernelFit.residual", "overview", "report_html"),
    *("check_noise", "sandwich_errors", "accumulate", "compare_kernels", "compare", "check_boundary"),
    *("accumulate_stream", "deconvolve", "split_channels", "split_targets", "kernel_map"),
)
#: What stands for the shape of a signal's kernel where that is to be found.
SIGNAL: Final[Any] = object()
#: The axis of the channels of signals, and of images of one row.
_AXES = {None: None, 0: 0, 1: 2, -1: -1, -2: -3}


def of_any_dimension(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a verb for images take signals, and speak of samples; let it take containers, and return such."""
    signature = inspect.signature(verb, follow_wrapped=True)
    inner = inspect.signature(inspect.unwrap(verb))
    flat = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inner.parameters.values())

    @functools.wraps(verb)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        given = container_calls.arguments_of(signature, args, kwargs)
        if given is None:
            return verb(*args, **kwargs)
        given, close = container_calls.opened(given, verb.__qualname__, signature.parameters)
        if "pairs" in given:
            first, given["pairs"] = _first_of_stream(given["pairs"], given)
            known = {**given, **first}
        else:
            known = given
        if _of_volumes(known) and verb.__qualname__ not in _OF_VOLUMES:
            name = verb.__name__
            raise ValueError(
                f"got a kernel whose shape has three numbers, which {name} does not take; give it images or signals"
            )
        if not _of_signals(known):
            return cast(R, close(verb(**given)))  # type: ignore[call-arg]
        axis = _axis(given)
        laid = _lifted(given, axis, flat)
        try:
            return cast(R, close(lower(verb(**laid), axis)))  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            error.args = tuple(in_samples(part) if isinstance(part, str) else part for part in error.args)
            raise

    return called


# ---- what comes in --------------------------------------------------------------------------------------------------


def _of_volumes(given: Mapping[str, Any]) -> bool:
    """Say whether a call is about volumes: its results, sums and kernel's sides tell, never its arrays alone."""
    for value in given.values():
        if isinstance(value, Estimate | NormalEquations | CrossSpectra):
            return value.convention.ndim == 3
    return _declared(given) == 3


def _of_signals(given: Mapping[str, Any]) -> bool:
    """Say whether a call is about signals: by its results and sums, else its kernel's shape, else its arrays."""
    for value in given.values():
        if isinstance(value, Estimate):
            return len(value.convention.origin) == 1
        if isinstance(value, NormalEquations | CrossSpectra):
            return value.convention.ndim == 1
    arrays = {name: given[name] for name in (*_DATA[:2], *_KERNELS) if given.get(name) is not None}
    declared, axis = _declared(given), _axis(given)
    if declared in (2, 3) or not arrays:
        return declared == 1
    (first, value), *others = arrays.items()
    if _ndim(value) != 1 + (axis is not None):
        return False
    for name, other in others:
        free = name in _KERNELS and axis is not None
        if not free and not isinstance(other, tuple) and _ndim(other) != _ndim(value):
            raise ValueError(
                f"got {first} with {_ndim(value)} dimensions and {name} with {_ndim(other)}, need as many in both; "
                "reshape one"
            )
    return True


def _declared(given: Mapping[str, Any]) -> int | None:
    """Return the number of dimensions that a call declares, if it does."""
    shape, lags = given.get("shape"), given.get("lags")
    if isinstance(shape, Model):
        return shape.dimensions
    if lags is not None:
        return Model(lags=lags).dimensions
    lengths = {len(given[name]) for name in list(_SIDES)[:4] if isinstance(given.get(name), tuple | list)}
    if isinstance(shape, tuple | list) and len(shape) > 1:
        return 3 if len(shape) == 3 else 2
    if lengths in ({1}, {3}):
        return lengths.pop()
    return 3 if not lengths and "kernel" in given and _axis(given) is None and _ndim(given["kernel"]) == 3 else None


def _axis(given: Mapping[str, Any]) -> int | None:
    """Return the axis of the channels of a call."""
    owners = [v for v in given.values() if isinstance(v, Estimate | Model)]
    return owners[0].channel_axis if owners else given.get("channel_axis")


def _ndim(value: Any) -> int:
    """Return the number of axes of an array, or of those in a list; of nested lists of numbers their depth."""
    if hasattr(value, "shape"):
        return len(value.shape)
    if isinstance(value, list | tuple) and value:
        return _ndim(value[0]) + (not hasattr(value[0], "shape") or not _listed(value))
    return 0


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        hasattr(v, "dtype") and v.shape != () for v in value if v is not None
    )


def _lifted(given: Mapping[str, Any], axis: int | None, flat: bool) -> dict[str, Any]:
    """Return the arguments of a call as those of a call about images of one row."""
    if not (axis is None or isinstance(axis, int)) or axis not in _AXES:
        msg = f"got channel_axis={axis!r}, need one of -2 to 1 for signals, or None for those of one channel"
        raise ValueError(msg)
    out = dict(given)
    for name, value in given.items():
        if isinstance(value, Estimate):
            out[name] = lifted(value)
        elif name in _DATA:
            out[name] = _data(value, name, axis)
        elif name in _KERNELS:
            out[name] = [_taps(v) for v in value] if isinstance(value, tuple) else _taps(value)
        elif isinstance(value, Selection):
            fields = {field: _data(getattr(value, field), field, axis) for field in ("mask", "image_mask", "weights")}
            out[name] = dataclasses.replace(value, **fields)
        elif name == "pairs":
            out[name] = _stream(value, axis)
        elif name in _SIDES and value is not None and not (flat and name in ("shape", *_MODEL)):
            out[name] = in_plane(value, name, 1, _SIDES[name])
    if flat:
        own: dict[str, Any] = {"ndim": 1, "channel_axis": _AXES[axis]}
        shape = out.get("shape")
        if isinstance(shape, Model):
            out["shape"] = dataclasses.replace(shape, **own)
        elif shape is None and out.get("lags") is None:  # which find_kernel finds
            sides = [name for name in ("origin", "stride", "offset") if out.get(name) is not None]
            out |= {"shape": SIGNAL, "channel_axis": _AXES[axis]}
            return out | {name: in_plane(out[name], name, 1, _SIDES[name]) for name in sides}
        else:
            out["shape"] = Model(shape, **{**{name: out.pop(name) for name in _MODEL if name in out}, **own})
    elif "channel_axis" in out:
        out["channel_axis"] = _AXES[axis]
    return out


def _data(value: Any, name: str, axis: int | None) -> Any:
    """Return samples with a row axis, and several arrays each."""
    if value is None or isinstance(value, str):
        return value
    if _listed(value):
        return [_data(one, name, axis) for one in value]
    ndim, need = _ndim(value), 1 + (axis is not None)
    if ndim == need:
        return _with_row(value, 1 if axis in (0, -2) else 0)
    if name in ("image", "target"):
        axes = "samples" if axis is None else "samples and channels"
        raise ValueError(f"got {name} with {ndim} dimensions, need {need} as the other signals have: {axes}")
    return _with_row(value, 0) if ndim == 1 else value


def _taps(value: Any) -> Any:
    """Return a kernel, or the kernels of channels, with a row axis."""
    if value is None or isinstance(value, Estimate):
        return value if value is None else lifted(value)
    with contextlib.suppress(ValueError):  # rows of unlike lengths, which the verb refuses
        array = np.asarray(value)
        return array[..., None, :] if array.ndim else array
    return value


def _with_row(value: Any, at: int) -> Any:
    """Return an array with an axis of length one put in; nothing is read."""
    if hasattr(value, "expand_dims"):  # xarray
        return value.expand_dims("row", axis=at)
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError:  # rows of unlike lengths, which the verb refuses
            return value
    if isinstance(value, np.ndarray) or hasattr(value, "__dask_graph__"):
        return value[(slice(None),) * at + (None,)]
    return _Row(value, at)


class _Row:
    """Anything that can be sliced, with an axis of length one put in."""

    def __init__(self, array: Any, at: int) -> None:
        self.array, self.at, self.dtype = array, at, array.dtype
        self.shape = (*array.shape[:at], 1, *array.shape[at:])
        if getattr(array, "chunks", None) is not None:
            self.chunks = (*array.chunks[:at], 1, *array.chunks[at:])

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        every = list(key) if isinstance(key, tuple) else [key]
        every += [slice(None)] * (len(self.shape) - len(every))
        across = every.pop(self.at)
        block = np.expand_dims(np.asarray(self.array[tuple(every)]), self.at)
        return block[(slice(None),) * self.at + (across,)]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...,] if not self.shape else self[(slice(None),) * len(self.shape)], dtype=dtype)


# ---- streams --------------------------------------------------------------------------------------------------------


def _first_of_stream(pairs: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the first pair of a stream, if it takes that to know its dimensions, and a stream that still has it."""
    if _declared(given) or not (callable(pairs) or isinstance(pairs, Iterable)):
        return {}, pairs
    file = given.get("checkpoint")
    if file is not None and not (isinstance(file, (str, os.PathLike)) and Path(file).parent.is_dir()):
        return {}, pairs  # which is refused before any pair is asked for
    opened = pairs() if callable(pairs) else pairs
    if not isinstance(opened, Iterable):
        return {}, pairs  # which is refused there
    items = iter(opened)
    first = list(itertools.islice(items, 1))
    if items is opened or callable(pairs):  # what was taken off goes back
        whole = itertools.chain(first, items)
        pairs = _reopened(pairs, whole) if callable(pairs) else whole
    return (_named(first[0]) or {}) if first else {}, pairs


def _reopened(opens: Callable[[], Iterable[Any]], whole: Iterable[Any]) -> Callable[[], Iterable[Any]]:
    """Return a function that opens a stream, which is open already the first time."""
    opened = [whole]
    return lambda: opened.pop() if opened else opens()


def _named(item: Any) -> dict[str, Any] | None:
    """Return an item of a stream by names; None if it is none."""
    if isinstance(item, tuple | list) and 2 <= len(item) <= 3:
        return dict(zip(_DATA, item, strict=False))
    return dict(item) if isinstance(item, Mapping) else None


def _stream(pairs: Any, axis: int | None) -> Any:
    """Return a stream of signals as one of images of one row."""

    def laid(item: Any) -> Any:
        named = _named(item)
        return item if named is None else {k: _data(v, k, axis) if k in _DATA else v for k, v in named.items()}

    if isinstance(pairs, list | tuple):
        return [laid(item) for item in pairs]
    if callable(pairs):
        return lambda: map(laid, pairs())
    return map(laid, pairs) if isinstance(pairs, Iterator) else lambda: map(laid, pairs)


# ---- what goes out --------------------------------------------------------------------------------------------------


def lower(value: Any, axis: int | None = None) -> Any:
    """Return what was found of images of one row as what it is of signals; `axis` is that of their channels."""
    if isinstance(value, Estimate):
        return lowered(value)
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return value[:, 0] if value.ndim == 3 and axis in (0, -2) else value[0]
    if isinstance(value, NormalEquations | CrossSpectra):
        return dataclasses.replace(value, convention=dataclasses.replace(value.convention, ndim=1))
    if isinstance(value, dict):
        return {name: lower(one, axis) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(lower(one, axis) for one in value)
    return value._lowered() if hasattr(type(value), "_lowered") else value


def lowered(fit: Estimate) -> Any:
    """Return an estimate of signals as their user has it; every other one as it is."""
    conv = fit.convention
    if conv.ndim != 1 or len(conv.origin) == 1:
        return fit
    axis = {value: key for key, value in _AXES.items()}[fit.channel_axis]
    weights = fit.weights
    return dataclasses.replace(
        fit,
        kernel=fit.kernel[..., 0, :],
        convention=without_row(conv),
        weights=None if weights is None else lower(weights if isinstance(weights, tuple) else weights[...], axis),
        priors=tuple(dataclasses.replace(prior, center=prior.center[1:]) for prior in fit.priors),
        background=None if fit.background is None else fit.background._lowered(axis),
        channel_axis=axis,
        parts=tuple(lowered(part) for part in fit.parts),
        findings=tuple(dataclasses.replace(f, detail=in_samples(f.detail)) for f in fit.findings),
        notes=tuple(in_samples(note) for note in fit.notes),
        method_reason=in_samples(fit.method_reason),
        weighting=in_samples(fit.weighting),
    )


def lifted(fit: Estimate) -> Any:
    """Return an estimate as the code for images has it."""
    conv = fit.convention
    if len(conv.origin) == 2:
        return fit
    axis = fit.channel_axis
    known = [name for name in list(_SIDES)[1:5] if getattr(conv, name, None) is not None]
    across = {name: (_SIDES[name], *getattr(conv, name)) for name in known}

    def laid(weights: Any) -> Any:
        if isinstance(weights, tuple):
            return tuple(laid(one) for one in weights)
        return None if weights is None else _data(weights, "", axis if weights.ndim == 2 else None)

    return dataclasses.replace(
        fit,
        kernel=fit.kernel[..., None, :],
        convention=dataclasses.replace(conv, **across),
        weights=laid(fit.weights),
        priors=tuple(dataclasses.replace(prior, center=(0.0, *prior.center)) for prior in fit.priors),
        background=None if fit.background is None else fit.background._lifted(_AXES[axis]),
        channel_axis=_AXES[axis],
        parts=tuple(lifted(part) for part in fit.parts),
    )


def without_row(conv: Convention) -> Convention:
    """Return a convention with one number along the one axis."""
    names = ("origin", "stride", "offset", *(() if conv.size is None else ("size",)))
    return dataclasses.replace(conv, **{name: getattr(conv, name)[1:] for name in names})


#: How what is said of images of one row is said of signals, in this order.
_WORDS = [
    (r"fit\.at\(row, col\)", "fit.at(sample)"),
    (r"one row and one column of an image of \(1, (\d+)\)", r"a sample of a signal of \1"),
    (r"one row in 1 and one column in (\d+), from \(0, (\d+)\)", r"one sample in \1, from \2"),
    (r"\brow -?0 and column (-?[\d.]+) of", r"sample \1 of"),
    (r"by -?0 rows and (-?[\d.]+) columns", r"by \1 samples"),
    (r"\b1x(\d+) kernel\b", r"kernel of \1 taps"),
    (r"\b1x(\d+) footprint", r"footprint of \1 samples"),
    (r"\b1 ?x ?(\d+)", r"\1"),
    (r"\[:1, :(\d+)\]", r"[:\1]"),
    (r"\([01](?:\.0+)?, (-?[\d.]+)\)", r"\1"),
    (r"\(row, column\) ", "sample "),
    (r"rows and (\d+ )?columns", r"\1samples"),
    (r"rows or columns", "samples"),
    (r"row and column", "sample"),
    (r"an image\b", "a signal"),
    (r"\bimage(s?)\b(?![=\[])", r"signal\1"),
    (r"\bpixel", "sample"),
]


@functools.lru_cache(256)
def in_samples(text: str) -> str:
    """Return a message about images of one row as one about signals."""
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text
