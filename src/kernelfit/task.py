"""What the arguments of `find_kernel` amount to: pairs and channels sorted into problems that share their kernels."""

import dataclasses
import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import geometry, pair
from .chunks import require_same_axes
from .exact import background as surfaces
from .geometry import Shape
from .pair import Problem

CHANNELS = ("shared", "separate", "mixed")


@dataclass(frozen=True)
class Task:
    """Groups of problems; each group is solved by itself, and gives one kernel for each target of its problems.

    Attributes
    ----------
    groups : tuple of tuple of Problem
        With channels "separate" a group for each channel, else one. The problems of a group are its pairs, with
        channels "shared" each channel of each pair.
    channels : str or None
        How the channels are taken together; None for images of one plane.
    channel_axis : int or None
        The axis that holds them.
    n_pairs : int
        Number of pairs.
    listed : bool
        Whether the pairs came as lists.
    """

    groups: tuple[tuple[Problem, ...], ...]
    channels: str | None
    channel_axis: int | None
    n_pairs: int
    listed: bool

    @property
    def shape(self) -> Shape:
        """Rows and columns of each kernel."""
        return self.groups[0][0].geometry.kernel_shape

    def place(self, group: int, target: int, problem: int) -> tuple[int, int | None]:
        """Return the pair, and the channel if there are any, of a target of a problem of a group."""
        n_channels = len(self.groups[group]) // self.n_pairs
        channel = {None: None, "shared": problem % n_channels, "separate": group, "mixed": target}[self.channels]
        return problem // n_channels, channel


def check(
    image: object,
    target: object,
    shape: object,
    *,
    channel_axis: int | None,
    channels: str,
    background: object,
    **convention: Any,
) -> Task:
    """Judge a pair, or lists of images and of targets, and say what is to be solved."""
    geometry.known(channels, CHANNELS, "channels")
    if channel_axis is None and channels != "shared":
        msg = f"got channels={channels!r} without channel_axis, need the axis that holds them, such as channel_axis=-1"
        raise ValueError(msg)
    degree = None if background is None else as_degree(background)
    images, targets = as_list(image), as_list(target)
    if (images is None) != (targets is None) or len(images or ()) != len(targets or ()):
        counts = ["one array" if found is None else f"a list of {len(found)}" for found in (images, targets)]
        msg = (
            f"got {counts[0]} as image and {counts[1]} as target, need as many images as targets; pair them one by one"
        )
        raise ValueError(msg)
    listed = images is not None
    # pairs x (problems that share kernels) x (problems that do not)
    pairs: list[list[Problem]] = []
    for i, (one, other) in enumerate(zip(images or [image], targets or [target], strict=True)):
        names = (f"image[{i}]", f"target[{i}]") if listed else ("image", "target")
        require_same_axes(one, other)
        sources, results = (
            pair.as_planes(value, name, channel_axis) for value, name in zip((one, other), names, strict=True)
        )
        if channels != "mixed" and len(sources) != len(results):
            msg = (
                f"got {names[0]} of {len(sources)} channels and {names[1]} of {len(results)} with "
                f"channels={channels!r}, need as many; or channels='mixed'"
            )
            raise ValueError(msg)
        first = pair.lay_pair(sources[0], results[0], shape, **convention)
        place = f"pair {i}" if listed else ""
        plan = first.geometry
        if listed:
            geometry.require_pixels(plan, place)
        readers = [pair.source_reader(s, plan) for s in sources], [pair.target_reader(t, plan) for t in results]
        if channels == "mixed":
            parts = [dataclasses.replace(first, sources=tuple(readers[0]), targets=tuple(readers[1]), where=place)]
        else:
            parts = [
                dataclasses.replace(first, sources=(s,), targets=(t,), where=_where(place, c, len(sources)))
                for c, (s, t) in enumerate(zip(*readers, strict=True))
            ]
        pairs.append([dataclasses.replace(p, background=degree) for p in parts])
    _alike(pairs)
    by_channel = list(zip(*pairs, strict=True))
    groups = [tuple(p for parts in pairs for p in parts)] if channels == "shared" else by_channel
    for group in groups:
        n_more = 0
        for problem in group:
            if degree is not None:
                surfaces.require_room(problem.geometry.size, degree, problem.where)
                n_more += surfaces.n_terms(degree)
        geometry.require_determined([p.geometry for p in group], len(group[0].sources), n_more)
    return Task(tuple(groups), None if channel_axis is None else channels, channel_axis, len(pairs), listed)


def _where(place: str, channel: int, n_channels: int) -> str:
    """Name a channel of a pair."""
    return ", ".join(filter(None, [place, f"channel {channel}" if n_channels > 1 else ""]))


def _alike(pairs: Sequence[Sequence[Problem]]) -> None:
    """Refuse pairs whose kernels would not mean the same."""
    first = pairs[0][0]
    for i, parts in enumerate(pairs):
        mode, wanted = parts[0].geometry.convention.mode, first.geometry.convention.mode
        if mode != wanted:
            msg = (
                f"got pairs of different modes ({wanted!r} for pair 0, {mode!r} for pair {i}), need one mode; "
                "crop the targets to that of one mode"
            )
            raise ValueError(msg)
        counts = [(len(q), len(q[0].sources), len(q[0].targets)) for q in (pairs[0], parts)]
        if counts[0] != counts[1]:
            msg = f"got pairs of different numbers of channels (pair 0 and pair {i}), need the same in all"
            raise ValueError(msg)


def as_list(value: object) -> list[Any] | None:
    """Return the items of a list or tuple of arrays of at least two dimensions; None for everything else."""
    if not isinstance(value, (list, tuple)):
        return None
    if len(value) > 0 and all(hasattr(item, "dtype") and len(getattr(item, "shape", ())) >= 2 for item in value):
        return list(value)
    return None


def as_degree(value: object) -> int:
    """Return the degree of a background."""
    try:
        if isinstance(value, bool):
            raise TypeError
        degree = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        msg = f"got background={value!r}, need None or the degree of a polynomial: 0, 1, 2, ..."
        raise TypeError(msg) from None
    if degree < 0:
        msg = f"got background={degree}, need None or a degree of at least 0"
        raise ValueError(msg)
    return degree


def check_errors(
    image_noise: object, errors: str, method: str, channels: str, background: object, uneven: str | None
) -> None:
    """Refuse settings of the errors that are wrong, or that cannot be combined.

    `uneven` names what makes pixels count more or less than others, None if nothing does.
    """
    geometry.known(errors, ("plain", "sandwich"), "errors")
    if isinstance(image_noise, bool) or not isinstance(image_noise, numbers.Real):
        msg = f"got image_noise={image_noise!r}, need a standard deviation of at least 0, in units of the image"
        raise TypeError(msg)
    if not 0 <= float(image_noise) < math.inf:
        msg = f"got image_noise={image_noise!r}, need a standard deviation of at least 0, in units of the image"
        raise ValueError(msg)
    if not image_noise and errors == "plain":
        return
    others = [f"method={method!r}"] if method in ("cg", "wiener") else []
    others += ["channels='mixed'"] if channels == "mixed" else []
    others += [] if background is None else [f"background={background!r}"]
    if others:
        msg = (
            f"got image_noise or errors='sandwich' with {others[0]}, need method='auto', 'direct' or 'fft', one "
            "source, and no background"
        )
        raise ValueError(msg)
    if uneven == "robust=" and errors == "sandwich":
        msg = (
            "got errors='sandwich' with robust=, whose criterion holds back part of the noise that is to be looked at; "
            "need the weights of a robust fit given to another one, as weights=fit.weights"
        )
        raise ValueError(msg)
    if uneven is not None and image_noise:
        msg = (
            f"got image_noise with {uneven}; the image's noise reaches all target pixels alike, so weights that do not "
            "know of it are not those of least error; need a mask at most, such as mask=fit.weights == 0"
        )
        raise ValueError(msg)


def check_stride(method: str, stride: object, offset: object) -> None:
    """Refuse a stride beside methods that have none."""
    if geometry.lattice(stride, offset)[0] != (1, 1) and method in ("cg", "wiener"):
        msg = f"got stride={stride!r} with method={method!r}, which has none; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)


def check_settings(
    method: str,
    solver: object,
    tolerance: float | None,
    spectral: Sequence[object],
    channels: str = "shared",
    background: object = None,
    weighted: str | None = None,
) -> None:
    """Refuse settings that the method has no use for.

    `spectral` are those of "wiener", all "auto" by default; `weighted` names what makes the fit a weighted one.
    """
    if weighted is not None and method in ("cg", "wiener"):
        msg = f"got {weighted} with method={method!r}, which knows no weights; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if method != "wiener" and not all(isinstance(v, str) and v == "auto" for v in spectral):
        msg = f"got balance, detrend or taper with method={method!r}, which has no use for them; need method='wiener'"
        raise ValueError(msg)
    if method in ("cg", "wiener") and background is not None:
        msg = f"got background={background!r} with method={method!r}, which has none; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if method in ("cg", "wiener") and channels == "mixed":
        msg = f"got channels='mixed' with method={method!r}, which has one source; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if method == "wiener" and solver is not None:
        msg = f"got method='wiener' with solver={solver!r}, need one or the other: 'wiener' is a solver of its own"
        raise ValueError(msg)
    if method == "cg" and solver is not None:
        msg = (
            f"got method='cg' with solver={solver!r}, need the default solver; or method='fft', if there is "
            "memory for it"
        )
        raise ValueError(msg)
    if tolerance is None:
        return
    if method in ("direct", "fft", "wiener") and weighted is None:
        msg = f"got a tolerance with method={method!r}, which does not iterate; need method='cg' or 'auto'"
        raise ValueError(msg)
    if not 0 < tolerance < 1:
        msg = f"got tolerance={tolerance!r}, need a number between 0 and 1"
        raise ValueError(msg)
