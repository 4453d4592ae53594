"""What statistics keep beside their sums, so that a kernel solved from them is judged as one found from the pixels.

A few tiles of pixels, at places that are spread by chance but the same every time, tell of the residual; what was found
on the way, excluded pixels and the noise of the image are kept as they are.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.complex_numbers import raised
from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict, ranked
from ..core.geometry import Convention, Geometry, Shape
from ..core.labels import Labels
from ..core.labels import packed as packed_labels
from ..core.labels import unpacked as unpacked_labels
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks
from ..data.blocks import Box
from ..data.masking import between_ends
from ..data.observation import Observation, Plane, WeightedObservation, Weights
from ..data.reader import Reader
from ..data.volumes import along
from ..diagnostics import quantization, samples, whiteness
from ..solvers.errors_in_variables import at_the_pixels, finish, shared, take_off
from ..solvers.least_squares import Solver
from ..solvers.sandwich import with_scores
from .pipeline import solved, with_clipped

#: Tiles are kept up to about so many pixels of the target, and up to so many tiles.
_MOST_PIXELS, _MOST_TILES = 2**16, 64
#: Share of the target's pixels at the ends of its type from which on it seems to be cut off.
_CUT_OFF = 0.95


@dataclass(frozen=True, eq=False)
class Tile:
    """A few pixels of one target and of the images around them."""

    key: int  # those of the smallest keys are kept
    at: int  # the number of the observation that it is of
    observation: Observation  # on arrays of its own
    weights: Weights | None  # None where all pixels count alike

    @property
    def item(self) -> WeightedObservation:
        """The pixels with a weight each."""
        even: Any = np.ones(self.observation.size, dtype=bool)
        return WeightedObservation(self.observation, even if self.weights is None else self.weights)

    def packed(self) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        """Return plain values, and the arrays."""
        one = self.observation
        arrays = {f"source{i}": reader.array for i, reader in enumerate(one.sources)}
        arrays["target"] = one.targets[0].array
        if self.weights is not None:
            arrays["weights"] = self.weights
        values: list[Any] = [self.key, self.at, one.surface_frame, one.background]
        return values if one.plane is None else [*values, one.plane.at, one.plane.shape], arrays

    @classmethod
    def unpacked(
        cls, values: Sequence[Any], arrays: Mapping[str, npt.NDArray[Any]], shape: Shape, convention: Convention
    ) -> "Tile":
        """Return the tile that `packed` took apart, of a kernel of some shape."""
        (key, at, ((rows, cols), (row, col)), degree), depth = values[:4], values[4:]
        plane = None
        if depth:
            plane = Plane(at, depth[0], (), False, convention, tuple(depth[1]))
            shape, convention = (shape[-2], shape[-1]), along(convention, slice(1, 3))
        sources = [arrays[f"source{i}"] for i in range(sum(name.startswith("source") for name in arrays))]
        extended, size = sources[0].shape, arrays["target"].shape
        plan = Geometry(extended, size, shape, convention, (0, 0), (0, 0), size)
        readers = tuple(Reader(array, extended) for array in sources)
        target = Reader(arrays["target"], plan.size)
        frame = (rows, cols), (row, col)
        return cls(
            key,
            at,
            Observation(plan, readers, (target,), background=degree, frame=frame, plane=plane),
            arrays.get("weights"),
        )

    def moved(self, by: int) -> "Tile":
        """Return the tile of an observation, or a volume, that stands further behind."""
        one, at = self.observation, self.at + by
        plane = None if one.plane is None else dataclasses.replace(one.plane, volume=at)
        return dataclasses.replace(self, at=at, observation=dataclasses.replace(one, plane=plane))


def kept(tiles: Iterable[Tile]) -> tuple[Tile, ...]:
    """Return the tiles of the smallest keys that there is room for: the same ones in whatever order they came."""
    pixels = 0
    found: list[Tile] = []
    for tile in sorted(tiles, key=lambda one: one.key):
        if pixels >= _MOST_PIXELS or len(found) == _MOST_TILES:
            break
        found.append(tile)
        pixels += tile.observation.geometry.n_pixels
    return tuple(found)


def wanted(tiles: Sequence[Tile], key: int) -> bool:
    """Say whether a tile of this key would be kept beside these, which are."""
    full = len(tiles) == _MOST_TILES or sum(t.observation.geometry.n_pixels for t in tiles) >= _MOST_PIXELS
    return not full or key < tiles[-1].key


def key_of(*names: object) -> int:
    """Return a number that looks like chance, the same for the same names."""
    return int.from_bytes(hashlib.blake2b(repr(names).encode(), digest_size=7).digest(), "big")


def tiles_of(
    observation: Observation,
    weights: Weights | None,
    at: int,
    name: object,
    wanted: Callable[[int], bool] = lambda _: True,
) -> list[Tile]:
    """Cut tiles, those `wanted` of which pixels count, out of an observation of one target or a block of that name."""
    side, starts = samples.places(observation, weights)
    found = []
    for row, col in starts:
        key = key_of(name, row, col)
        own: Any = None
        if not wanted(key):
            continue
        if weights is not None:
            own = np.array(weights[row : row + side[0], col : col + side[1]])
            if not own.any():
                continue
        part = blocks.alone(blocks.sub_observation(observation, Box(row, col, *side)))
        sources, targets = (
            tuple(dataclasses.replace(reader, array=np.array(reader.array)) for reader in readers)
            for readers in (part.sources, part.targets)
        )
        found.append(Tile(key, at, dataclasses.replace(part, sources=sources, targets=targets, where=""), own))
    return found


@dataclass(frozen=True, eq=False)
class ImageNoise:
    """What the noise of the image adds to the Gram matrix."""

    std: float  # standard deviation of an image pixel's
    gram: Array  # (taps, taps); what it adds
    #: as `errors_in_variables.shared` has them; in blocks only those whose two pixels lie in one block
    pairs: Array | None
    share: float = 1.0  # how much of it was taken off

    def restored(self, stats: NormalEquations) -> NormalEquations:
        """Return statistics as they were with that noise in them."""
        more = self.share * self.gram
        fields: dict[str, Any] = {"gram": stats.gram + more}
        if stats.center is not None and stats.center_moment is not None:
            fields["center_moment"] = stats.center_moment - more @ stats.center
        return dataclasses.replace(stats, **fields)

    def taken_off(self, stats: NormalEquations) -> "tuple[NormalEquations, ImageNoise]":
        """Return statistics without it, and what was taken off."""
        changed, share = take_off(stats, 1.0, self.gram)
        return changed, dataclasses.replace(self, share=share)


def together(mine: tuple[int, ImageNoise | None], theirs: tuple[int, ImageNoise | None]) -> ImageNoise:
    """Return the noise that is in the sum of two statistics, each with its number of pixels, negative if subtracted."""
    some: ImageNoise = mine[1] or theirs[1]  # type: ignore[assignment]
    shape = next((one.pairs.shape for _, one in (mine, theirs) if one is not None and one.pairs is not None), None)
    gram, pairs, power = np.zeros_like(some.gram), None if shape is None else np.zeros(shape), 0.0
    for n, one in (mine, theirs):
        if one is not None:
            gram = gram + math.copysign(1.0, n) * one.gram
            power += n * one.std**2
        if pairs is not None:
            pairs = pairs + (n if one is None or one.pairs is None else math.copysign(1.0, n) * one.pairs)
    return ImageNoise(math.sqrt(max(0.0, power) / max(1, mine[0] + theirs[0])), gram, pairs)


@dataclass(frozen=True, eq=False)
class Context:
    """What the statistics of one kernel keep beside their sums."""

    #: channels, channel_axis, n_pairs, listed: how pairs and channels came, as in `FitPlan`
    channels: str | None = None
    channel_axis: int | None = None
    n_pairs: int = 1
    listed: bool = False
    n_observations: int = 1  # number of targets, with channels "shared" each channel of each pair
    method: str = ""  # the engine
    notes: tuple[str, ...] = ()  # pixels that were excluded, and why
    findings: tuple[Finding, ...] = ()  # what was doubtful before any solver
    #: a sample of the pixels. That of a sum is of both parts, and there is none if one part has none
    tiles: tuple[Tile, ...] = ()
    noise: ImageNoise | None = None  # what was taken off the Gram matrix
    outlier: float = math.inf  # residuals above this are outliers
    declared: bool = False  # whether the weights are inverse variances
    refined: int = 0  # passes over the pixels after the first
    labels: Labels | None = None  # what the first pair says of its axes and units

    def __add__(self, other: "Context") -> "Context":
        """Return that of the pixels of both, but for the image's noise."""
        moved = [tile.moved(self.n_observations) for tile in other.tiles]
        return dataclasses.replace(
            self,
            n_pairs=self.n_pairs + other.n_pairs,
            listed=True,
            n_observations=self.n_observations + other.n_observations,
            notes=tuple(dict.fromkeys(self.notes + other.notes)),
            findings=ranked(self.findings + other.findings),
            tiles=kept([*self.tiles, *moved]) if self.tiles and other.tiles else (),
            noise=None,
            outlier=max(self.outlier, other.outlier),
            declared=self.declared and other.declared,
            refined=max(self.refined, other.refined),
        )

    def packed(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return it as a header of plain values, and the arrays."""
        header: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("tiles", "noise", "labels")
        }
        header["findings"] = [(one.verdict.name, one.detail) for one in self.findings]
        header["outlier"] = None if math.isinf(self.outlier) else self.outlier
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self.labels is not None:
            header["labels"], arrays = packed_labels(self.labels)
        header["tiles"] = []
        for i, tile in enumerate(self.tiles):
            values, own = tile.packed()
            header["tiles"].append(values)
            arrays |= {f"tile{i}_{name}": array for name, array in own.items()}
        if self.noise is not None:
            header["noise"] = self.noise.std, self.noise.share
            arrays["noise_gram"] = self.noise.gram
            if self.noise.pairs is not None:
                arrays["noise_pairs"] = self.noise.pairs
        return header, arrays

    @classmethod
    def unpacked(
        cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], stats: NormalEquations
    ) -> "Context":
        """Return what `packed` took apart, of such statistics."""
        fields = dict(header)
        fields["findings"] = tuple(Finding(Verdict[name], detail) for name, detail in header["findings"])
        fields["outlier"] = math.inf if header["outlier"] is None else header["outlier"]
        fields["notes"] = tuple(header["notes"])
        tiles = [(values, _with_prefix(arrays, f"tile{i}_")) for i, values in enumerate(header["tiles"])]
        fields["tiles"] = tuple(Tile.unpacked(*both, stats.supports[0], stats.convention) for both in tiles)
        fields["labels"] = unpacked_labels(header.get("labels"), dict(arrays))
        if "noise" in header:
            std, share = header["noise"]
            fields["noise"] = ImageNoise(std, arrays["noise_gram"], arrays.get("noise_pairs"), share)
        return cls(**fields)


def _with_prefix(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def estimated(stats: NormalEquations, context: Context, solver: Solver) -> Estimate:
    """Return what a solver makes of statistics, with all that is known beside them."""
    estimate = solved(stats, solver)
    noise = context.noise
    if noise is not None:
        observed = noise.restored(stats)
        estimate = at_the_pixels(estimate, observed)
        more = shared(estimate, math.sqrt(noise.share) * noise.std, noise.pairs)
        estimate = with_scores(estimate, stats.gram, estimate.noise_std**2 * observed.gram + more)
        estimate = finish(estimate, noise.std, noise.share)
    estimate = dataclasses.replace(
        estimate,
        method=context.method or estimate.method,
        notes=(*context.notes, *estimate.notes),
        findings=ranked((*context.findings, *estimate.findings)),
        refined=context.refined,
    )
    return raised(_looked_at(estimate, stats, context))


def _clipped(tiles: Sequence[Tile]) -> list[str]:
    """Say that nearly all of integer targets stand at the ends of their type, and count."""
    at_ends = counted = 0
    for tile in tiles:
        reader = tile.observation.targets[0]
        if reader.array.dtype.kind not in "iu":
            return []
        ends, values = np.iinfo(reader.array.dtype), reader.block(0, 0, tile.observation.size)[tile.item.weights > 0]
        at_ends += int(((values <= ends.min) | (values >= ends.max)).sum())
        counted += values.size
    words = f"{at_ends} of {counted} target pixels looked at stand at the ends of their type's range"
    return [words] if at_ends > _CUT_OFF * counted else []


def _looked_at(estimate: Estimate, stats: NormalEquations, context: Context) -> Estimate:
    """Return an estimate with what the residual of the tiles says, or that none was looked at."""
    tiles = context.tiles
    if not tiles:
        detail = f"no pixels are kept beside the sums over {stats.n_pixels} of them"
        return with_finding(estimate, Finding(Verdict.RESIDUAL_UNCHECKED, detail))
    observations, level = [tile.observation for tile in tiles], 0.0
    weights: list[Weights] | None = [tile.item.weights for tile in tiles]
    seen = estimate
    if all(tile.weights is None for tile in tiles):
        weights, level = None, math.sqrt(stats.target_energy / max(1.0, stats.total_weight))
    else:
        total: Any = SimpleNamespace(sum=lambda: stats.total_weight)  # all that is asked of the weights of all pixels
        seen = dataclasses.replace(seen, weights=total)
    if estimate.background is not None and stats.convention.ndim < 3:
        table = estimate.background.coefficients
        own = table.reshape(-1, table.shape[-1])[[tile.at for tile in tiles]]
        seen = dataclasses.replace(seen, background=dataclasses.replace(estimate.background, coefficients=own))
    seen = whiteness.look(observations, seen, weights, most=context.outlier, declared=context.declared, level=level)
    seen = quantization.judged(seen, observations, 0, 1, weights)
    if clipped := _clipped(tiles):
        alone = between_ends([reader.array for one in observations for reader in one.sources])
        seen = with_clipped(seen, clipped, alone)
    notes = seen.notes
    if stats.convention.boundary is not None and stats.convention.mode != "valid":
        notes = (*notes, "the declared boundary was not held against the edges, whose pixels are not kept")
    return dataclasses.replace(seen, weights=estimate.weights, background=estimate.background, notes=notes)
