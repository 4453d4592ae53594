"""Streams of pairs, and pairs of any size, block by block, with checkpoints from which a killed run goes on."""

import collections
import contextlib
import hashlib
import json
import operator
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ..core import npz
from ..core.geometry import Shape
from ..core.model import Model
from ..core.normal_equations import NormalEquations, packed, unpacked
from ..data import blocks, masking
from ..data.blocks import Box, Tree
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation, as_observation
from ..engines import weighted
from ..engines.accumulation import statistics
from ..engines.cost_model import engine_of

#: Pixels, for each worker, from which on a block is worth the work of all of them; for many workers as for four.
_LARGE = 2**19
#: What an item of a stream may hold: a pair and, by name, what excludes or weighs its pixels.
_NAMES = ("image", "target", "mask", "image_mask", "weights")


class _Work(NamedTuple):
    """One block of one pair, and where that stands in the stream."""

    pair: int
    block: int
    last: bool
    observation: Observation
    boxed: MaskedBlocks | None
    box: Box
    method: str
    digest: str


class Checkpoint:
    """What a stream has read so far, in a file.

    Parameters
    ----------
    path : path-like
        Name of the file.
    call : dict
        What must be the same for a run to go on from it: the keywords of the call.
    every : float
        Seconds between two writings.
    """

    def __init__(self, path: str | os.PathLike[str], call: dict[str, Any], every: float) -> None:
        self.path, self.every = Path(path), every
        self.call: dict[str, Any] = json.loads(json.dumps(call))
        #: Blocks of pair number `pairs` that are in the sums, besides all of the pairs before it.
        self.pairs = self.blocks = 0
        self.digest = ""
        self.tree: Tree[NormalEquations] = Tree(operator.add)
        self._broken = False
        self._new = not self.path.exists()
        if not self._new:
            self._load()
        else:
            self.save()  # a place that cannot be written to is better known before the work than after
        self._saved = time.monotonic()

    def _load(self) -> None:
        def build(header: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
            counts = [header["pairs"], header["blocks"], *(count for _, count in header["levels"])]
            if any(type(count) is not int or count < 0 for count in counts) or not isinstance(header["call"], dict):
                msg = "numbers of pairs or blocks that are none"
                raise ValueError(msg)
            for i, (fields, count) in enumerate(header["levels"]):
                mine = {name.partition("/")[2]: a for name, a in arrays.items() if name.partition("/")[0] == str(i)}
                self.tree.levels.append((None if fields is None else NormalEquations(**unpacked(fields, mine)), count))
            return header

        header = npz.load(self.path, "Checkpoint", build)
        theirs = header["call"]
        for name in sorted({*theirs, *self.call}):
            if theirs.get(name) != self.call.get(name):
                msg = (
                    f"got checkpoint={str(self.path)!r}, which was written with {name}={theirs.get(name)!r}, and a "
                    f"call with {name}={self.call.get(name)!r}; repeat the call that wrote it, or choose another name"
                )
                raise ValueError(msg)
        self.pairs, self.blocks, self.digest = header["pairs"], header["blocks"], str(header["digest"])

    def save(self) -> None:
        """Write the file anew, in one step."""
        arrays: dict[str, Any] = {}
        levels = []
        for i, (total, count) in enumerate(self.tree.levels):
            fields = None
            if total is not None:
                fields, own = packed(total)
                arrays |= {f"{i}/{name}": value for name, value in own.items()}
            levels.append((fields, count))
        header = {
            "call": self.call,
            "pairs": self.pairs,
            "blocks": self.blocks,
            "digest": self.digest,
            "levels": levels,
        }
        npz.save(self.path, "Checkpoint", header, arrays, overwrite=True)
        self._saved = time.monotonic()

    def save_sometimes(self, *, now: bool = False) -> bool:
        """Write the file if it is time to, and return whether it was; if it cannot be, say so once and go on."""
        if not now and time.monotonic() - self._saved < self.every:
            return False
        try:
            self.save()
        except OSError as error:
            self._saved = time.monotonic()
            if not self._broken:
                self._broken = True
                msg = (
                    f"the checkpoint {self.path} cannot be written ({error}); the run goes on and will try again, and "
                    "what was written before stands"
                )
                warnings.warn(msg, RuntimeWarning, stacklevel=3)
            return False
        self._broken = False
        return True

    def withdraw(self) -> None:
        """Remove the file of a call that was refused before anything was in it, unless it was there before."""
        if self._new and self.pairs == self.blocks == 0:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def mismatch(self, what: str) -> ValueError:
        """Return the error for a stream that is not the one that was read before."""
        return ValueError(
            f"got checkpoint={str(self.path)!r}, which was written for another stream: {what}; give the same pairs in "
            "the same order, or choose another name"
        )


class _Stream:
    """The blocks of a stream that are still to be read."""

    def __init__(
        self,
        pairs: Iterable[Any],
        model: Model,
        values: tuple[str, Any],
        method: str,
        block: Shape | None,
        state: Checkpoint | None,
    ) -> None:
        self.pairs, self.model, self.method, self.block = pairs, model, method, block
        self.values, self.state = values, state
        self.start = (0, 0) if state is None else (state.pairs, state.blocks)
        self.expected = "" if state is None else state.digest
        self.length = len(pairs) if isinstance(pairs, Sized) else 0
        self.n_pairs = self.n_blocks = self.n_done = 0

    def total(self) -> int:
        """Return the number of blocks, as far as it is known."""
        return max(self.n_blocks, round(self.n_blocks / self.n_pairs * self.length))

    def work(self) -> Iterator[_Work]:
        """Yield the blocks, in order, that are not yet in the checkpoint."""
        digest = ""
        n_begun = self.start[0] + (self.start[1] > 0)
        for number, item in enumerate(self.pairs):
            with _naming(number):
                observation, boxed = self._problem(item)
                chosen = engine_of(observation, self.method)
                boxes = blocks.cut(observation, self.block)
                if self.state is not None:
                    digest = _digest(digest, observation, boxed, boxes, chosen)
            self.n_pairs, self.n_blocks = number + 1, self.n_blocks + len(boxes)
            skip = len(boxes) if number < self.start[0] else self.start[1] if number == self.start[0] else 0
            self.n_done += skip
            if self.state is not None and number + 1 == n_begun and digest != self.expected:
                raise self.state.mismatch(f"one of its first {n_begun} pairs is not the same")
            for i in range(skip, len(boxes)):
                yield _Work(number, i, i + 1 == len(boxes), observation, boxed, boxes[i], chosen, digest)
        if self.state is not None and self.n_pairs < n_begun:
            raise self.state.mismatch(f"it had at least {n_begun} pairs, this one has {self.n_pairs}")

    def _problem(self, item: object) -> tuple[Observation, MaskedBlocks | None]:
        if isinstance(item, (tuple, list)) and 2 <= len(item) <= 3:
            item = dict(zip(_NAMES, item, strict=False))
        if not isinstance(item, Mapping):
            msg = f"got an item of type {type(item).__name__}, need a pair (image, target), with its mask, or a dict"
            raise TypeError(msg)
        if missing := [name for name in _NAMES[:2] if item.get(name) is None]:
            msg = f"got a pair without {' and '.join(missing)}, need both image and target"
            raise ValueError(msg)
        if unknown := [repr(name) for name in item if name not in _NAMES]:
            msg = f"got a pair with {', '.join(unknown)}, need no keys but {', '.join(_NAMES)}"
            raise ValueError(msg)
        (image, image_masked), (target, target_masked) = (masking.unmasked(item[name]) for name in _NAMES[:2])
        observation = as_observation(image, target, self.model, determined=False)
        mask, image_mask, weights = (item.get(name) for name in _NAMES[2:])
        selection = masking.PlaneSelection((mask, target_masked), ((image_mask, image_masked),), weights, *self.values)
        return observation, MaskedBlocks.of(observation, selection)


@contextlib.contextmanager
def _naming(number: int, block: Shape | None = None) -> Iterator[None]:
    """Say in which pair an error was found, and in which of its blocks."""
    try:
        yield
    except (TypeError, ValueError) as error:
        place = "" if block is None else f"in the block of target pixels that starts at {block}: "
        msg = f"pair {number}: {place}{error}"
        raise type(error)(msg) from error


def _digest(before: str, observation: Observation, boxed: MaskedBlocks | None, boxes: list[Box], method: str) -> str:
    """Return a digest of a pair and all pairs before it."""
    plan = observation.geometry
    facts = json.dumps([before, plan.image_shape, plan.target_shape, str(plan.convention), method, boxes])
    seen = blocks.spots((*observation.sources, *observation.targets)) + (b"" if boxed is None else boxed.spots())
    return hashlib.sha256(facts.encode() + seen).hexdigest()


def _statistics(item: _Work, asked: Observation, part: Observation, workers: int) -> NormalEquations:
    """Return the statistics of a block, `part` being what it asks for with the pixels in memory."""
    readers = zip(part.sources + part.targets, asked.sources + asked.targets, strict=True)
    copied = item.boxed is not None or any(mine is not given for mine, given in readers)
    with _naming(item.pair, asked.geometry.offset if copied else None):  # where a copy begins, errors cannot know
        if item.boxed is None:
            return statistics(part, item.method, workers)[0]
        part = blocks.alone(part)
        weighed = item.boxed.item(item.box, part)
        if weighed is None:
            return statistics(part, item.method, workers)[0]
        return weighted.block_statistics(weighed, item.method, workers)


def _by_one_thread(item: _Work) -> NormalEquations:
    """Read one block and return its statistics."""
    asked = blocks.sub_observation(item.observation, item.box)
    return _statistics(item, asked, blocks.loaded(asked), 1)


def _computed(work: Iterator[_Work], workers: int) -> Iterator[tuple[_Work, NormalEquations]]:
    """Yield the statistics of blocks in order.

    Small blocks are computed by one thread each, some blocks ahead. Large ones are computed one after the other by all
    threads together, which share a cache, while the pixels of the next one are read.
    """
    if workers == 1:
        for item in work:
            yield item, _by_one_thread(item)
        return
    n_threads = 2 * workers  # those that wait for a store do not compute
    ahead: collections.deque[tuple[_Work, Callable[[], NormalEquations], list[Future[Any]]]] = collections.deque()

    def large(item: _Work) -> bool:
        return item.box.rows * item.box.cols >= _LARGE * min(workers, 4)

    def begin(item: _Work) -> None:
        if not large(item):
            future = pool.submit(_by_one_thread, item)
            ahead.append((item, future.result, [future]))
            return
        asked = blocks.sub_observation(item.observation, item.box)
        reads = [pool.submit(blocks.in_memory, reader) for reader in asked.sources + asked.targets]

        def finish() -> NormalEquations:
            return _statistics(item, asked, blocks.reading(asked, [read.result() for read in reads]), workers)

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
