"""Streams of pairs, and pairs of any size, block by block."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..core.geometry import Shape
from ..core.model import Execution, Model, Noise, Selection
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks
from ..data.blocks import Box
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import NUMBERS, Observation, WeightedObservation, lots, of_target
from ..data.plan import FitPlan, make_plan
from ..engines.cost_model import engine_of
from ..engines.volume_pass import Stack
from ..solvers.least_squares import LeastSquares, Solver
from . import requirements
from .checkpoint import Checkpoint, Sums
from .context import Tile, tiles_of, wanted
from .equations import block_equations, lot_equations
from .statistics import image_noise

#: Pixels, for each worker, from which on a block is worth the work of all of them; for many workers as for four.
_LARGE = 2**19
#: What an item of a stream may hold: a pair and, by name, what excludes or weighs its pixels.
_NAMES = ("image", "target", "mask", "image_mask", "weights")


class Work(NamedTuple):
    """One block of an observation, and where it stands: in its pair, if it is the `last`, or `ends` a volume."""

    pair: int
    block: int
    last: bool
    ends: bool
    group: int
    number: int
    observation: Observation
    marks: tuple[MaskedBlocks | None, ...]
    box: Box
    method: str
    digest: str
    planes: tuple[Observation, ...] = ()  # of a volume that is one block, instead of the observation
    n_blocks: int = 1  # that it takes the place of

    @property
    def n_pixels(self) -> int:
        """Number of target pixels."""
        return sum(one.geometry.n_pixels for one in self.planes) or self.box.rows * self.box.cols


class Found(NamedTuple):
    """What a block says: equations and tiles for each target, what the image's noise adds, and pairs of pixels."""

    equations: list[NormalEquations]
    tiles: list[list[Tile]]
    noise: list[tuple[Array, Array]]


Part = TypeVar("Part")
#: Makes something of a block: with its pixels in memory, for each target with its weights, by so many threads.
Task = Callable[[Work, Observation, "Sequence[WeightedObservation | None]", int], Part]


class Stream:
    """The pairs of a stream, read again and again if it is no iterator, as blocks of these sides."""

    def __init__(
        self,
        pairs: Iterable[Any] | Callable[[], Iterable[Any]],
        model: Model,
        selection: Selection,
        noise: Noise,
        execution: Execution,
        block: Shape | None,
    ) -> None:
        self.model, self.selection, self.noise, self.execution, self.block = model, selection, noise, execution, block
        self.open: Callable[[], Iterable[Any]]
        if callable(pairs) and not hasattr(pairs, "__iter__"):
            self.open, self.again = pairs, True
        else:
            if not hasattr(pairs, "__iter__"):
                raise TypeError(
                    f"got pairs={pairs!r:.60}, need an iterable of (image, target), or a function that makes one"
                )
            self.open, self.again = lambda: pairs, iter(pairs) is not pairs
        self.length = len(pairs) if isinstance(pairs, Sized) else 0
        self.n_pairs = self.n_blocks = self.n_done = 0
        self.group_sizes: list[int] = []

    def require(self, solver: Solver) -> None:
        """Refuse what does not go together, before any pair is asked for."""
        alone = FitPlan(((),), self.model, self.selection, (None, None), 1, listed=False)
        self._require(alone, solver, *(() if self.again else ("one-shot stream",)))

    def _require(self, plan: FitPlan, solver: Solver, *more: str) -> None:
        features = requirements.features_of(
            plan, self.noise, solver, self.execution, "statistics alone", "stream", *more
        )
        requirements.require(features)

    def total(self) -> int:
        """Return the number of blocks, as far as it is known."""
        return max(self.n_blocks, round(self.n_blocks / max(1, self.n_pairs) * self.length))

    def work(self, state: Checkpoint | None = None, *, volumes: bool = False) -> Iterator[Work]:
        """Yield the blocks, in order, that are not yet in the checkpoint; `volumes` that can be read as one are one."""
        digest = ""
        start = (0, 0) if state is None else (state.pairs, state.blocks)
        expected = "" if state is None else state.digest
        n_begun = start[0] + (start[1] > 0)
        opened = self.open()
        if not hasattr(opened, "__iter__"):
            raise TypeError(f"got pairs that make {opened!r:.60}, need an iterable of (image, target)")
        for number, item in enumerate(opened):
            with _naming(number):
                parts = list(self._cut(number, self._plan(number, item)))
                if state is not None:
                    for part in parts:
                        digest = _digest(digest, *part[2:])
            n_blocks = sum(len(part[4]) for part in parts)
            self.n_pairs, self.n_blocks = number + 1, self.n_blocks + n_blocks
            skip = n_blocks if number < start[0] else start[1] if number == start[0] else 0
            self.n_done += skip
            if state is not None and number + 1 == n_begun and digest != expected:
                raise state.mismatch(f"one of its first {n_begun} pairs is not the same")
            i = 0
            for (group, at), lot in itertools.groupby(parts, lambda part: part[:2]):
                own = list(lot)
                n, volume = sum(len(part[4]) for part in own), tuple(part[2] for part in own)
                if volumes and n and skip <= i and self._at_once(own):
                    *_, marks, (box, *_), chosen = own[0]
                    i += n
                    last = i == n_blocks
                    yield Work(number, i - 1, last, True, group, at, volume[0], marks, box, chosen, digest, volume, n)
                    continue
                end = i + n
                for _, _, observation, marks, boxes, chosen in own:
                    for box in boxes:
                        i += 1
                        if i > skip:
                            last, ends = i == n_blocks, i == end
                            yield Work(number, i - 1, last, ends, group, at, observation, marks, box, chosen, digest)
        if state is not None and self.n_pairs < n_begun:
            raise state.mismatch(f"it had at least {n_begun} pairs, this one has {self.n_pairs}")
        for name in _NAMES[2:]:
            listed = _listed(getattr(self.selection, name))
            if listed is not None and len(listed) != self.n_pairs:
                raise ValueError(_miscounted(name, listed, str(self.n_pairs)))

    def _at_once(self, parts: Sequence[tuple[int, int, Observation, Any, list[Box], str]]) -> bool:
        """Return whether a volume's planes share their transforms: whole ones all of whose pixels count alike."""
        alike = self.block is None and all(mark is None for part in parts for mark in part[3])
        return alike and parts[0][5] == "fft" and Stack.of([part[2] for part in parts]) is not None

    def reread(self, group: int) -> Iterator[Work]:
        """Yield all blocks of a group once more."""
        seen = Stream(self.open, self.model, self.selection, self.noise, self.execution, self.block)
        seen.group_sizes = self.group_sizes
        for work in seen.work():
            if work.group == group:
                yield work
        if (seen.n_pairs, seen.n_blocks) != (self.n_pairs, self.n_blocks):
            raise ValueError(
                f"got {seen.n_pairs} pairs of {seen.n_blocks} blocks when the stream was read again, need "
                f"{self.n_pairs} of {self.n_blocks} as before; give an iterator if it can be read once only"
            )

    def _cut(self, number: int, plan: FitPlan) -> Iterator[tuple[int, int, Observation, Any, list[Box], str]]:
        """Yield group, number, masks, boxes and engine of each observation of a pair."""
        sizes = [len(lots(group)) for group in plan.groups]
        targets = [len(group[0].targets) for group in plan.groups]
        self.group_sizes = self.group_sizes or [*sizes, *targets]
        if self.group_sizes != [*sizes, *targets]:
            raise ValueError("got another number of channels than in the pairs before, need the same in all")
        automatic = isinstance(self.selection.saturated, str) and not plan.n_planes
        for g, group in enumerate(plan.groups):
            for i, given in enumerate(group):
                marks, observation, at = [], given, number * len(group) + i
                if given.plane is not None:  # all of a volume's planes belong together
                    at = number * sizes[g] + given.plane.volume
                    plane = dataclasses.replace(given.plane, volume=at)
                    observation = dataclasses.replace(given, plane=plane)
                for t in range(len(observation.targets)):
                    found = MaskedBlocks.of(of_target(observation, t), plan.selection_of(g, t, i))
                    marks.append(found.counting() if automatic and found is not None else found)
                boxes = blocks.cut(observation, self.block)
                engine = engine_of(observation, self.execution.engine)
                yield g, at, observation, tuple(marks), boxes, engine

    def _plan(self, number: int, item: object) -> FitPlan:
        if isinstance(item, (tuple, list)) and 2 <= len(item) <= 3:
            item = dict(zip(_NAMES, item, strict=False))
        if not isinstance(item, Mapping):
            msg = f"got an item of type {type(item).__name__}, need a pair (image, target), with its mask, or a dict"
            raise TypeError(msg)
        if missing := [name for name in _NAMES[:2] if item.get(name) is None]:
            raise ValueError(f"got a pair without {' and '.join(missing)}, need both image and target")
        if unknown := [repr(name) for name in item if name not in _NAMES]:
            raise ValueError(f"got a pair with {', '.join(unknown)}, need no keys but {', '.join(_NAMES)}")
        given, own = self.selection, {}
        for name in _NAMES[2:]:
            value = getattr(given, name)
            listed = _listed(value)
            if listed is not None:
                if number >= len(listed):
                    raise ValueError(_miscounted(name, listed, "more"))
                value = listed[number]
            if value is not None and item.get(name) is not None:
                raise ValueError(f"got {name}= beside a pair with its own, need one or the other")
            own[name] = item.get(name) if value is None else value
        selection = Selection(**own, nan=given.nan, saturated=given.saturated)
        plan = make_plan(item["image"], item["target"], self.model, selection, determined=False, kinds=NUMBERS)
        self._require(plan, LeastSquares())
        return plan


def _listed(value: object) -> Sequence[Any] | None:
    """Return what there is for each pair, None if there is one thing for all."""
    if isinstance(value, (list, tuple)) and all(v is None or getattr(v, "ndim", 0) >= 2 for v in value):
        return value
    return None


def _miscounted(name: str, listed: Sequence[Any], pairs: str) -> str:
    return f"got a list of {len(listed)} as {name} for {pairs} pairs, need a list, one for each pair (None for none)"


@contextlib.contextmanager
def _naming(number: int, block: Shape | None = None) -> Iterator[None]:
    """Say in which pair an error was found, and in which of its blocks."""
    try:
        yield
    except (TypeError, ValueError) as error:
        read = f"in the block of target pixels that starts at {block}, with places within what it reads: "
        place = "" if block is None else read
        raise type(error)(f"pair {number}: {place}{error}") from error


def _digest(
    before: str, observation: Observation, marks: Sequence[MaskedBlocks | None], boxes: list[Box], method: str
) -> str:
    """Return a digest of an observation and all before it."""
    plan = observation.geometry
    facts = json.dumps([before, plan.image_shape, plan.target_shape, str(plan.convention), method, boxes])
    seen = blocks.spots((*observation.sources, *observation.targets))
    seen += b"".join(b"" if one is None else one.spots() for one in marks)
    return hashlib.sha256(facts.encode() + seen).hexdigest()


def summed(stream: Stream, state: Checkpoint | None, sums: Sums, threads: int) -> Iterator[Work]:
    """Add up a stream, and yield what is in the sums, block by block."""
    image_std = stream.noise.image_std

    def task(work: Work, part: Observation, items: Sequence[WeightedObservation | None], workers: int) -> Found:
        tiles: list[list[Tile]] = []
        noise: list[tuple[Array, Array]] = []
        if work.planes:
            for t in range(len(part.targets)):
                fits, first = functools.partial(wanted, sums.at(work.group, t).tiles), work.block - len(work.planes) + 1
                tiles.append([
                    tile
                    for i, plane in enumerate(work.planes, first)
                    for tile in tiles_of(of_target(plane, t), None, work.number, (work.pair, work.number, i), fits)
                ])  # fmt: skip
            return Found(lot_equations(work.planes, [items] * len(work.planes), work.method, workers), tiles, noise)
        for t, item in enumerate(items):
            observation, weights = (of_target(part, t), None) if item is None else (item.observation, item.weights)
            fits = functools.partial(wanted, sums.at(work.group, t).tiles)
            tiles.append(tiles_of(observation, weights, work.number, (work.pair, work.number, work.block), fits))
            if image_std:
                plan = blocks.sub_observation(work.observation, work.box).geometry
                gram, pairs = image_noise(plan, weights, image_std)
                if pairs is None:
                    reach = [2 * ((n - 1) // step) + 1 for n, step in zip(plan.kernel_shape, plan.stride, strict=True)]
                    pairs = np.full(reach, float(plan.n_pixels))
                noise.append((gram, pairs))
        return Found(block_equations(part, items, work.method, workers), tiles, noise)

    for work, found in computed(stream.work(state, volumes=True), task, threads):
        if state is not None:
            state.begins()
        for t, equations in enumerate(found.equations):
            known = sums.at(work.group, t)
            known.method, known.n_pixels = known.method or work.method, known.n_pixels + work.n_pixels
            known.add(equations, last=work.ends)
            known.count(found.noise[t] if found.noise else None, found.tiles[t])
        yield work


def whole(item: WeightedObservation | None, observation: Observation, target: int) -> WeightedObservation:
    """Return a block of one target with its weights."""
    if item is not None:
        return item
    one = of_target(observation, target)
    return WeightedObservation(one, np.ones(one.size, dtype=bool))


def _done(item: Work, asked: Observation, part: Observation, task: Task[Part], workers: int) -> Part:
    """Return what a task makes of a block, `part` being what it asks for with the pixels in memory."""
    readers = zip(part.sources + part.targets, asked.sources + asked.targets, strict=True)
    marked = any(one is not None for one in item.marks)
    copied = marked or any(mine is not given for mine, given in readers)
    with _naming(item.pair, asked.geometry.offset if copied else None):  # where a copy begins, errors cannot know
        weighed: list[WeightedObservation | None] = [None] * len(item.marks)
        if marked:
            part = blocks.alone(part)
            weighed = [
                None if one is None else one.item(item.box, of_target(part, t)) for t, one in enumerate(item.marks)
            ]
        return task(item, part, weighed, workers)


def _by_one_thread(item: Work, task: Task[Part]) -> Part:
    """Read one block and return what a task makes of it."""
    if item.planes:
        return _of_volume(item, task, 1)
    asked = blocks.sub_observation(item.observation, item.box)
    return _done(item, asked, blocks.loaded(asked), task, 1)


def _of_volume(item: Work, task: Task[Part], workers: int) -> Part:
    """Return what a task makes of a whole volume, which is read plane by plane."""
    with _naming(item.pair):
        return task(item, item.observation, [None] * len(item.marks), workers)


def computed(work: Iterator[Work], task: Task[Part], workers: int) -> Iterator[tuple[Work, Part]]:
    """Yield what a task makes of blocks, in order."""
    # Small blocks take one thread each, some ahead. Large ones go one by one through all threads, which share a cache.
    if workers == 1:
        for item in work:
            yield item, _by_one_thread(item, task)
        return
    n_threads = 2 * workers  # those that wait for a store do not compute
    ahead: collections.deque[tuple[Work, Callable[[], Part], list[Future[Any]]]] = collections.deque()

    def large(item: Work) -> bool:
        return item.n_pixels >= _LARGE * min(workers, 4)

    def begin(item: Work) -> None:
        if not large(item):
            future = pool.submit(_by_one_thread, item, task)
            ahead.append((item, future.result, [future]))
            return
        if item.planes:
            ahead.append((item, functools.partial(_of_volume, item, task, workers), []))
            return
        asked = blocks.sub_observation(item.observation, item.box)
        reads = [pool.submit(blocks.in_memory, reader) for reader in blocks.once(asked)]

        def finish() -> Part:
            readers = blocks.together([read.result() for read in reads], asked)
            return _done(item, asked, blocks.reading(asked, readers), task, workers)

        ahead.append((item, finish, list(reads)))

    with ThreadPoolExecutor(n_threads, thread_name_prefix="kernelfit") as pool:
        try:
            for item in work:
                begin(item)
                while len(ahead) > (1 if large(item) else n_threads):
                    first, finish, _ = ahead.popleft()
                    yield first, finish()
            while ahead:
                first, finish, _ = ahead.popleft()
                yield first, finish()
        finally:
            for _, _, futures in ahead:
                for future in futures:
                    future.cancel()
