"""What the arguments of a verb amount to: pairs and channels sorted into observations that share their kernels."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..core.background import require_room
from ..core.geometry import Shape
from ..core.mode import require_determined, require_pixels
from ..core.model import Model, Selection, as_ends
from ..core.validation import as_list
from ..core.variation import AUTO, Variation
from .cells import Rect
from .chunked import Chunked, Plane, behind, hold, planes, require_same_axes, watched
from .complex_parts import apart
from .masking import Judged, Looker, PlaneSelection, UnexpectedPixel, unmasked
from .observation import (
    NUMBERS,
    REAL,
    Observation,
    as_planes,
    lay_pair,
    lots,
    of_target,
    source_reader,
    target_reader,
    varied,
)
from .saturation import Saturated, with_saturated
from .volumes import VolumeSelection, as_volumes, lay_volume
from .volumes import require_determined as require_determined_volumes

_MODES = (
    "got pairs of different modes ({!r} for pair 0, {!r} for pair {}), need one mode; "
    "crop the targets to that of one mode"
)
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class FitPlan:
    """Groups of observations, each solved by itself, which gives one kernel for each target of its observations."""

    #: With channels "separate" a group for each channel, else one. The observations of a group are its pairs, with
    #: channels "shared" each channel of each pair.
    groups: tuple[tuple[Observation, ...], ...]
    model: Model  # what was asked for
    selection: Selection  # which pixels count
    masked: tuple[object, object]  # the masks that came with the images and with the targets
    n_pairs: int  # number of pairs
    listed: bool  # whether the pairs came as lists
    #: {"real", "complex", "real of complex"}; as in `Convention`. Unless "real", each pair or channel is two
    #: observations, of the real parts and of the imaginary ones.
    numbers: str = "real"
    #: Planes of the image of each volume; the observations are then those of the planes of their targets
    n_planes: tuple[int, ...] = ()

    @property
    def channels(self) -> str | None:
        """How the channels are taken together; None for images of one plane."""
        return None if self.model.channel_axis is None else self.model.channels

    @property
    def channel_axis(self) -> int | None:
        """The axis that holds the channels."""
        return self.model.channel_axis

    @property
    def shape(self) -> Shape:
        """Rows and columns of each kernel."""
        sides: Shape = self.model.kernel_shape
        return sides

    @property
    def selects(self) -> str | None:
        """Name what the user has said of pixels that do not count alike, None if nothing."""
        for name in ("mask", "image_mask", "weights"):
            if getattr(self.selection, name) is not None:
                return f"{name}="
        if self.selection.nan == "mask":
            return "nan='mask'"
        saturated = self.selection.saturated
        if not (saturated is None or isinstance(saturated, str)):
            return "saturated="
        return "masked arrays" if any(mask is not None for mask in self.masked) else None

    def selection_of(self, group: int, target: int, index: int, *, stored: bool = False) -> PlaneSelection:
        """Return what concerns one target of one observation of a group, of `stored` volumes without a look at it."""
        observation = self.groups[group][index]
        if observation.plane is not None:
            of_all = target if self.channels == "mixed" else 0
            volumes = self._stored_volumes if stored else self._volumes
            return volumes[group, of_all, observation.plane.volume].of(observation.plane)
        parts = 1 if self.numbers == "real" else 2
        index //= parts
        n_channels = len(self.groups[group]) // parts // self.n_pairs
        channel = {None: None, "shared": index % n_channels, "separate": group, "mixed": target}[self.channels]

        field = observation.geometry.convention.field
        n_functions = 1 if field is None else field.n
        halves = 2 if self.numbers == "complex" else 1
        n_images = len(observation.sources) // n_functions // halves
        sources = ([channel] if n_images == 1 else list(range(n_images))) * halves
        return self._said(index // n_channels, channel, [s for s in sources for _ in range(n_functions)])

    def _said(self, pair: int, channel: int | None, sources: Sequence[int | None]) -> PlaneSelection:
        """Return what is said of the pixels of one target of a pair, and of its sources, each a channel."""

        def part(value: object, name: str, at: int | None) -> object:
            return self._plane(value, name, pair, at)

        given, (image_masked, target_masked) = self.selection, self.masked
        return PlaneSelection(
            masks=(part(given.mask, "mask", channel), part(target_masked, "mask", channel)),
            image_masks=tuple(
                (part(given.image_mask, "image_mask", s), part(image_masked, "image_mask", s)) for s in sources
            ),
            weights=part(given.weights, "weights", channel),
            nan=given.nan,
            saturated=given.saturated if self.numbers == "real" else None,
        )

    @functools.cached_property
    def _volumes(self) -> dict[tuple[int, int, int], VolumeSelection]:
        return self._of_volumes(stored=False)

    @functools.cached_property
    def _stored_volumes(self) -> dict[tuple[int, int, int], VolumeSelection]:
        return self._of_volumes(stored=True)

    def _of_volumes(self, *, stored: bool) -> dict[tuple[int, int, int], VolumeSelection]:
        """Return what is said of each volume, by its group, its target if channels are mixed, and its number."""
        found, parts = {}, 1 if self.numbers == "real" else 2
        for group, every in enumerate(self.groups):
            n_lots = len(lots(every)) // parts
            for number, lot in enumerate(lots(every)):
                volume = number // parts
                for t in range(len(every[0].targets)):
                    at = {None: None, "shared": volume % (n_lots // self.n_pairs), "separate": group, "mixed": t}
                    own = [of_target(every[i], t) for i in lot]
                    pair = volume * self.n_pairs // n_lots
                    found[group, t, number] = self._volume(own, pair, at[self.channels], stored=stored)
        return found

    def _volume(self, own: Sequence[Observation], pair: int, channel: int | None, *, stored: bool) -> VolumeSelection:
        """Return what is said of the pixels of one volume, given the planes of its target."""
        plane, parts = own[0].plane, 2 if self.numbers == "complex" else 1
        assert plane is not None
        sources = (list(range(plane.n_channels // parts)) if self.channels == "mixed" else [channel]) * parts
        return VolumeSelection(self._said(pair, channel, sources), own, self.n_planes[pair], stored=stored)

    def require_numbers(self, numbers: str) -> None:
        """Refuse a pair that is complex where the one of a fit was not, or the other way round."""
        mine, its = (one.partition(" of ")[2] or one for one in (self.numbers, numbers))
        if mine != its:
            raise TypeError(f"got a {mine} pair with the fit of a {its} one, need the pair that the fit was found from")

    def of_pair(self, value: Any, name: str, pair: int) -> Any:
        """Return the part of a mask, or of weights, that belongs to a pair."""
        if value is not None and self.listed:
            if not isinstance(value, (list, tuple)) or len(value) != self.n_pairs:
                got = f"a list of {len(value)}" if isinstance(value, (list, tuple)) else "one value"
                msg = f"got {got} as {name} for {self.n_pairs} pairs, need a list, one for each pair (None for none)"
                raise ValueError(msg)
            return value[pair]
        return value

    def _plane(self, value: Any, name: str, pair: int, channel: int | None) -> object:
        """Return the part of a mask, or of weights, that belongs to a pair and a channel."""
        value = self.of_pair(value, name, pair)
        if value is None or self.channel_axis is None or channel is None:
            return value
        n = 4 if self.n_planes else 3
        if isinstance(value, tuple) and all(np.ndim(one) == n - 1 for one in value):  # as `weights` of a fit come
            value = np.stack(value, axis=self.channel_axis)
        array = value if hasattr(value, "ndim") and hasattr(value, "shape") else np.asanyarray(value)
        if array.ndim != n:
            return array
        at = range(n)[self.channel_axis]
        channel = channel if array.shape[at] > 1 else 0
        if isinstance(array, np.ndarray):
            return array.take(channel, axis=at)
        return planes(array, at)[channel] if n == 3 else Plane(array, at, channel)

    def exchanged(self, group: int, target: int) -> Iterator[tuple[list[Judged], str]]:
        """Yield the observations of a group as a mask, or weights, of the opposite meaning would have them."""
        observations = [of_target(one, target) for one in self.groups[group]]
        for name in ("mask", "image_mask", "weights"):
            if getattr(self.selection, name) is not None:
                selections = [self.selection_of(group, target, i).exchanged(name) for i in range(len(observations))]
                pairs = zip(selections, observations, strict=True)
                found = [one.judge(observation, part=True) for one, observation in pairs]
                judged = [j for j in found if j is not None]
                if len(judged) == len(found):
                    yield judged, f"{name}="

    def varied(self, variation: Variation | None) -> "FitPlan":
        """Return the plan of a kernel that varies, given that of one that does not."""
        model = dataclasses.replace(self.model, variation=variation)
        if variation is None:
            return dataclasses.replace(self, model=model)
        groups = tuple(tuple(varied(one, variation) for one in group) for group in self.groups)
        return dataclasses.replace(self, model=model, groups=groups)

    def hold(self, group: int) -> None:
        """Let stored arrays keep what of them was decoded, as far as memory is free."""
        hold(reader.array for one in self.groups[group] for reader in (*one.sources, *one.targets))

    def presuming(self, group: int, work: "Callable[[FitPlan], Result]") -> Result:
        """Return what `work` makes of this plan, no stored pixel being saturated, or NaN, until one is seen."""
        observations, given, lazy = self.groups[group], self.selection, self.masked[0]
        if self.numbers != "real" or any(one.plane is not None for one in observations):
            return work(self)
        nan, both = given.nan == "mask", lazy if isinstance(lazy, list) else [lazy]
        highs = [one.high for one in both if isinstance(one, Saturated)]
        looks: list[tuple[Chunked, Looker, Rect]] = []
        for one in observations:
            rows, cols = one.geometry.used
            used = rows.start, rows.stop, cols.start, cols.stop
            for reader in (*one.sources, *one.targets):
                (height, width), dtype = reader.array.shape, np.dtype(reader.array.dtype)
                target = any(reader is t for t in one.targets)
                ends = as_ends(given.saturated, dtype) if target else (-np.inf, highs[0]) if highs else None
                look = Looker(used if target else (0, height, 0, width), ends, nan and dtype.kind == "f")
                if ends is None and not look.finite:
                    continue
                stored = behind(reader.array)[0]
                if stored is None or not stored.cells.kept:
                    return work(self)
                looks.append((stored, look, used if target else (0, 0, 0, 0)))
        if not looks:
            return work(self)
        selection = dataclasses.replace(given, saturated=None, nan="error")
        known = [None if isinstance(one, Saturated) else one for one in both]
        image_masked = None if all(one is None for one in known) else known if isinstance(lazy, list) else known[0]
        try:
            with watched(looks):
                return work(dataclasses.replace(self, selection=selection, masked=(image_masked, self.masked[1])))
        except UnexpectedPixel:
            self.hold(group)
            return work(self)

    def _ends(self, dtype: np.dtype[Any]) -> bool:
        """Say whether values of a type may be saturated."""
        return self.numbers == "real" and as_ends(self.selection.saturated, dtype) is not None

    def judged(self, group: int) -> list[list[Judged | None]]:
        """Return the weights of the observations of a group, for each target; None where every pixel counts alike."""
        observations = self.groups[group]
        every = [reader.array.dtype for one in observations for reader in one.targets]
        if self.selects is None and observations[0].plane is None and not any(map(self._ends, every)):
            return [[None] * len(observations) for _ in observations[0].targets]
        return [
            [
                self.selection_of(group, t, i).judge(of_target(one, t), part=one.plane is not None)
                for i, one in enumerate(observations)
            ]
            for t in range(len(observations[0].targets))
        ]


def make_plan(
    image: object,
    target: object,
    model: Model,
    selection: Selection,
    *,
    unmask: Callable[[object], tuple[object, object]] = unmasked,
    determined: bool = True,
    kinds: str = REAL,
    made: bool = False,
) -> FitPlan:
    """Judge a pair, or lists of images and of targets, and say what is to be solved."""
    # `unmask` parts arrays from the masks they bring; a plan that is not `determined` may have too few pixels. Images
    # that were `made` of others have their masks: their own values tell nothing of saturation.
    (image, image_masked), (target, target_masked) = unmask(image), unmask(target)
    if not made:
        image_masked = with_saturated(image, image_masked, selection)
    images, targets = as_list(image), as_list(target)
    if (images is None) != (targets is None) or len(images or ()) != len(targets or ()):
        counts = ["one array" if found is None else f"a list of {len(found)}" for found in (images, targets)]
        raise ValueError(
            f"got {counts[0]} as image and {counts[1]} as target, need as many images as targets; pair them one by one"
        )
    listed = images is not None
    if model.dimensions == 3:
        both, masked = (images or [image], targets or [target]), (image_masked, target_masked)
        return _of_volumes(*both, model, selection, masked, listed, determined, kinds)
    # pairs x (observations that share kernels) x (observations that do not)
    pairs: list[list[Observation]] = []
    for i, (one, other) in enumerate(zip(images or [image], targets or [target], strict=True)):
        names = (f"image[{i}]", f"target[{i}]") if listed else ("image", "target")
        require_same_axes(one, other)
        sources, results = (
            as_planes(value, name, model.channel_axis, kinds) for value, name in zip((one, other), names, strict=True)
        )
        _require_as_many(names, sources, results, model.channels)
        first = lay_pair(sources[0], results[0], model)
        place = f"pair {i}" if listed else ""
        plan = first.geometry
        if listed:
            require_pixels(plan, place)
        readers = [source_reader(s, plan) for s in sources], [target_reader(t, plan) for t in results]
        if model.channels == "mixed":
            parts = [dataclasses.replace(first, sources=tuple(readers[0]), targets=tuple(readers[1]), where=place)]
        else:
            parts = [
                dataclasses.replace(first, sources=(s,), targets=(t,), where=_where(place, c, len(sources)))
                for c, (s, t) in enumerate(zip(*readers, strict=True))
            ]
        pairs.append(parts if model.variation in (None, AUTO) else [varied(part, model.variation) for part in parts])
    _alike(pairs)
    by_channel = list(zip(*pairs, strict=True))
    groups = [tuple(p for parts in pairs for p in parts)] if model.channels == "shared" else by_channel
    numbers = _numbers(groups, model, kinds)
    for group in groups:
        n_more = 0
        for observation in group:
            if model.background is not None:
                plan = observation.geometry
                n_more += require_room(plan.size, plan.target_shape, model.background, observation.where)
        if determined or all(observation.geometry.n_pixels == 0 for observation in group):
            equations = [p.geometry for p in group] * (2 if numbers == "real of complex" else 1)
            require_determined(equations, len(group[0].sources), n_more)
    if numbers != "real":
        groups = [tuple(part for p in group for part in _apart(p, model, selection)) for group in groups]
    return FitPlan(tuple(groups), model, selection, (image_masked, target_masked), len(pairs), listed, numbers)


def _of_volumes(
    images: Sequence[Any],
    targets: Sequence[Any],
    model: Model,
    selection: Selection,
    masked: Any,
    listed: bool,  # noqa: FBT001
    determined: bool,  # noqa: FBT001
    kinds: str,
) -> FitPlan:
    """Judge pairs of volumes, and say what is to be solved."""
    pairs: list[list[tuple[Any, Any, str]]] = []  # the volumes of each pair, of channels that are mixed together
    for i, pair in enumerate(zip(images, targets, strict=True)):
        names = (f"image[{i}]", f"target[{i}]") if listed else ("image", "target")
        both = zip(pair, names, strict=True)
        sources, results = (as_volumes(value, name, model.channel_axis, kinds) for value, name in both)
        _require_as_many(names, sources, results, model.channels)
        where = f"pair {i}" if listed else ""
        if model.channels == "mixed":
            pairs.append([(sources, results, where)])
        else:
            each = enumerate(zip(sources, results, strict=True))
            pairs.append([([s], [t], _where(where, c, len(sources))) for c, (s, t) in each])
    _require_alike([(len(parts), len(parts[0][0]), len(parts[0][1])) for parts in pairs])
    by_channel = [list(parts) for parts in zip(*pairs, strict=True)]
    groups = []
    for some in by_channel if model.channels == "separate" else [[part for parts in pairs for part in parts]]:
        found: list[Observation] = []
        for number, (sources, results, where) in enumerate(some):
            laid = lay_volume(sources, results, model, number, where)
            modes = [one.convention.mode for one in (*found[:1], laid[0])]
            if len(set(modes)) > 1:
                raise ValueError(_MODES.format(*modes, number * len(pairs) // len(some)))
            found += laid
        require_determined_volumes(found, determined=determined)
        groups.append(tuple(found))
    n_planes, numbers = tuple(len(parts[0][0][0]) for parts in pairs), _numbers(groups, model, kinds)
    if numbers != "real":  # the planes of the real part of each volume, then those of the imaginary part
        volumes = [[[group[i] for i in lot] for lot in lots(group)] for group in groups]
        halves = [[zip(*(_apart(p, model, selection) for p in lot), strict=True) for lot in group] for group in volumes]
        groups = [tuple(p for both in group for half in both for p in half) for group in halves]
    return FitPlan(tuple(groups), model, selection, masked, len(pairs), listed, numbers, n_planes)


def _apart(observation: Observation, model: Model, selection: Selection) -> list[Observation]:
    return apart(observation, real=model.real, strict=selection.nan == "mask")


def _numbers(groups: Sequence[Sequence[Observation]], model: Model, kinds: str) -> str:
    """Say what numbers the kernels of pairs are of, as in `FitPlan`."""
    several = [r.array.dtype for group in groups for one in group for r in (*one.sources, *one.targets)]
    is_complex = kinds == NUMBERS and any(np.dtype(dtype).kind == "c" for dtype in several)
    return "real" if not is_complex else "real of complex" if model.real else "complex"


def _require_as_many(names: Sequence[str], sources: Sequence[Any], results: Sequence[Any], channels: str) -> None:
    """Refuse an image and a target of unlike channels that are not mixed."""
    if channels != "mixed" and len(sources) != len(results):
        raise ValueError(
            f"got {names[0]} of {len(sources)} channels and {names[1]} of {len(results)} with "
            f"channels={channels!r}, need as many; or channels='mixed'"
        )


def _require_alike(counts: Sequence[tuple[int, int, int]]) -> None:
    """Refuse pairs of unlike numbers of channels."""
    for i, count in enumerate(counts):
        if count != counts[0]:
            raise ValueError(f"got pairs of different numbers of channels (pair 0 and pair {i}), need the same in all")


def _where(place: str, channel: int, n_channels: int) -> str:
    """Name a channel of a pair."""
    return ", ".join(filter(None, [place, f"channel {channel}" if n_channels > 1 else ""]))


def _alike(pairs: Sequence[Sequence[Observation]]) -> None:
    """Refuse pairs whose kernels would not mean the same."""
    first = pairs[0][0]
    for i, parts in enumerate(pairs):
        mode, wanted = parts[0].geometry.convention.mode, first.geometry.convention.mode
        if mode != wanted:
            raise ValueError(_MODES.format(wanted, mode, i))
        shapes = [one[0].geometry.image_shape for one in (pairs[0], parts)]
        if first.geometry.convention.field is not None and shapes[0] != shapes[1]:
            raise ValueError(
                f"got images of different shapes ({shapes[0]} for pair 0, {shapes[1]} for pair {i}) with a kernel that "
                "varies over the image, need one shape; leave variation= out, or crop them to one field"
            )
        _require_alike([(len(q), len(q[0].sources), len(q[0].targets)) for q in pairs[: i + 1]])
