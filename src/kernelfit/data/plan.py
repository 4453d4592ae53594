"""What the arguments of `find_kernel` amount to: pairs and channels sorted into problems that share their kernels."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core import geometry, validation
from ..core.background import as_degree, n_terms, require_room
from ..core.geometry import Shape
from ..core.validation import as_list
from .chunked import require_same_axes
from .observation import Observation, as_planes, lay_pair, source_reader, target_reader

CHANNELS = ("shared", "separate", "mixed")


@dataclass(frozen=True)
class FitPlan:
    """Groups of problems; each group is solved by itself, and gives one kernel for each target of its problems.

    Attributes
    ----------
    groups : tuple of tuple of Observation
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

    groups: tuple[tuple[Observation, ...], ...]
    channels: str | None
    channel_axis: int | None
    n_pairs: int
    listed: bool

    @property
    def shape(self) -> Shape:
        """Rows and columns of each kernel."""
        return self.groups[0][0].geometry.kernel_shape

    def place(self, group: int, target: int, observation: int) -> tuple[int, int | None]:
        """Return the pair, and the channel if there are any, of a target of a problem of a group."""
        n_channels = len(self.groups[group]) // self.n_pairs
        channel = {None: None, "shared": observation % n_channels, "separate": group, "mixed": target}[self.channels]
        return observation // n_channels, channel


def make_plan(
    image: object,
    target: object,
    shape: object,
    *,
    channel_axis: int | None,
    channels: str,
    background: object,
    **convention: Any,
) -> FitPlan:
    """Judge a pair, or lists of images and of targets, and say what is to be solved."""
    validation.known(channels, CHANNELS, "channels")
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
    pairs: list[list[Observation]] = []
    for i, (one, other) in enumerate(zip(images or [image], targets or [target], strict=True)):
        names = (f"image[{i}]", f"target[{i}]") if listed else ("image", "target")
        require_same_axes(one, other)
        sources, results = (
            as_planes(value, name, channel_axis) for value, name in zip((one, other), names, strict=True)
        )
        if channels != "mixed" and len(sources) != len(results):
            msg = (
                f"got {names[0]} of {len(sources)} channels and {names[1]} of {len(results)} with "
                f"channels={channels!r}, need as many; or channels='mixed'"
            )
            raise ValueError(msg)
        first = lay_pair(sources[0], results[0], shape, **convention)
        place = f"pair {i}" if listed else ""
        plan = first.geometry
        if listed:
            geometry.require_pixels(plan, place)
        readers = [source_reader(s, plan) for s in sources], [target_reader(t, plan) for t in results]
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
        for observation in group:
            if degree is not None:
                require_room(observation.geometry.size, degree, observation.where)
                n_more += n_terms(degree)
        geometry.require_determined([p.geometry for p in group], len(group[0].sources), n_more)
    return FitPlan(tuple(groups), None if channel_axis is None else channels, channel_axis, len(pairs), listed)


def _where(place: str, channel: int, n_channels: int) -> str:
    """Name a channel of a pair."""
    return ", ".join(filter(None, [place, f"channel {channel}" if n_channels > 1 else ""]))


def _alike(pairs: Sequence[Sequence[Observation]]) -> None:
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
