"""Streams of pairs, and pairs of any size, block by block, with checkpoints from which a killed run goes on."""

import collections
import contextlib
import dataclasses
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

import numpy as np

from .. import geometry, pair, storage
from ..geometry import Shape
from ..pair import Problem
from ..statistics import NormalStats, convention_from
from ..weights import masks
from ..weights.boxes import Boxed
from . import regions
from .accumulation import statistics
from .blas import one_blas_thread
from .choice import engine_of
from .engines import Progress
from .regions import Box, Tree

#: Pixels, for each worker, from which on a block is worth the work of all of them; for many workers as for four.
_LARGE = 2**19
#: What an item of a stream may hold: a pair and, by name, what excludes or weighs its pixels.
_NAMES = ("image", "target", "mask", "image_mask", "weights")


class _Work(NamedTuple):
    """One block of one pair, and where that stands in the stream."""

    pair: int
    block: int
    last: bool
    problem: Problem
    boxed: Boxed | None
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
        self.tree: Tree[NormalStats] = Tree(operator.add)
        self._broken = False
        self._new = not self.path.exists()
        if not self._new:
            self._load()
        else:
            self.save()  # a place that cannot be written to is better known before the work than after
        self._saved = time.monotonic()

    def _load(self) -> None:
        header, arrays = storage.load(self.path, "Checkpoint")
        theirs = header["call"]
        for name in sorted({*theirs, *self.call}):
            if theirs.get(name) != self.call.get(name):
                msg = (
                    f"got checkpoint={str(self.path)!r}, which was written with {name}={theirs.get(name)!r}, and a "
                    f"call with {name}={self.call.get(name)!r}; repeat the call that wrote it, or choose another name"
                )
                raise ValueError(msg)
        self.pairs, self.blocks, self.digest = header["pairs"], header["blocks"], header["digest"]
        for i, (fields, count) in enumerate(header["levels"]):
            mine = {name.partition("/")[2]: a for name, a in arrays.items() if name.partition("/")[0] == str(i)}
            self.tree.levels.append((None if fields is None else _unpacked(fields, mine), count))

    def save(self) -> None:
        """Write the file anew, in one step."""
        arrays: dict[str, Any] = {}
        levels = []
        for i, (total, count) in enumerate(self.tree.levels):
            fields = None
            if total is not None:
                fields, own = _packed(total)
                arrays |= {f"{i}/{name}": value for name, value in own.items()}
            levels.append((fields, count))
        header = {
            "call": self.call,
            "pairs": self.pairs,
            "blocks": self.blocks,
            "digest": self.digest,
            "levels": levels,
        }
        storage.save(self.path, "Checkpoint", header, arrays, overwrite=True)
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


@one_blas_thread
def accumulate_stream(
    pairs: Iterable[Any],
    shape: int | Shape,
    *,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    stride: int | Shape = 1,
    offset: int | Shape = 0,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = None,
    method: str = "auto",
    workers: int | None = None,
    block: int | Shape | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    progress: Progress | None = None,
) -> NormalStats:
    """Read a stream of pairs that share a kernel, or one pair of any size, and return the sum of their statistics.

    Each pair is cut into blocks of target pixels, which read their own surroundings. The statistics of the blocks are
    those of `accumulate` and add up to ``A'A``, ``A'y``, ``y'y`` and n of all of them, in an order that the
    stream alone decides: any number of workers, and any number of interruptions, give the same bits.

    Parameters
    ----------
    pairs : iterable of (image, target) or (image, target, mask), or of dict
        Each as in `accumulate`: arrays, memory-mapped files, or anything else that can be sliced (h5py, Zarr,
        tifffile's Zarr view, Dask), which is never loaded whole. Tiles of one large image are pairs whose image is
        larger than the target by ``side - 1`` (mode "valid"). A generator is asked for few pairs more than there are
        threads ahead of time. For one large pair give ``[(image, target)]``. The mask is True where a pixel of the
        target is excluded; None is no mask. A dict has the keys "image" and "target" and, if need be, "mask",
        "image_mask" and "weights", which are what they are in `find_kernel` and may be arrays that are sliced, too.
    shape : int or (int, int)
        Rows and columns of the kernel.
    mode, boundary, fillvalue, origin, operation, stride, offset
        As in `accumulate`, for all pairs; a mode that is left out is inferred for each.
    nan, saturated : optional
        As in `accumulate`, for all pairs; but that "auto" leaves out the ends of an integer target's range even if
        nearly all of it stands there.
    method : {"auto", "direct", "fft"}, optional
        As in `accumulate`.
    workers : int, optional
        Number of processors to keep busy; the default is all that this process may use. Unless it is 1 there are twice
        as many threads, since some of them wait for their pixels.
    block : int or (int, int), optional
        Rows and columns of a block of target pixels. The default is some 1024 rows of 8 KiB, less for small images,
        and follows the chunks in which the target is stored.
    checkpoint : path-like, optional
        A file to which the sums, and what is in them, are written now and then, in one step. If it exists, the run
        goes on from there: the same call with the same pairs ends with the same bits as if it had never been
        interrupted, and the call after the last one returns at once. The pairs read before are asked for again, but
        only a few of their pixels are read, to see that they are the same. An interrupted run (by ctrl-C or an error
        in a pair) writes once more before it ends.
    every : float, optional
        Seconds between two checkpoints, default 30; 0 writes after each block.
    progress : callable, optional
        Called as ``progress("reading pixels", done, total)`` after each block; total counts the blocks of
        the pairs seen so far, and as many for each pair to come if `pairs` has a length.

    Returns
    -------
    NormalStats
        The statistics; ``.solve()`` makes a kernel of them. The convention is that of the first pair.

    Raises
    ------
    TypeError
        If an item is no pair, or a dtype or a keyword is of the wrong type.
    ValueError
        If there is no pair, a pair is refused (by its number in the stream), all pairs together have fewer pixels than
        the kernel has taps, or the checkpoint is incomplete or of another call or stream; then it is left untouched.
    OSError
        If the checkpoint cannot be written at the start. Later on, when the disk is full perhaps, that is a
        RuntimeWarning; the run goes on, tries again, and the previous checkpoint stands.

    See Also
    --------
    accumulate : one pair.
    kernelfit.scale.accumulate : the same on Dask arrays, on many machines.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> frames = [rng.random((40, 50)) for _ in range(3)]
    >>> stream = ((frame, 0.5 * frame[1:-1, 1:-1]) for frame in frames)
    >>> stats = kernelfit.accumulate_stream(stream, 3, checkpoint="sums.npz")
    >>> stats.n_pixels
    5472
    >>> np.round(stats.solve().kernel, 6) + 0.0
    array([[0. , 0. , 0. ],
           [0. , 0.5, 0. ],
           [0. , 0. , 0. ]])
    """
    kernel = geometry.kernel_shape(shape)
    keywords = {
        "mode": mode,
        "boundary": boundary,
        "fillvalue": pair.as_number(fillvalue, "fillvalue"),
        "origin": None if origin is None else geometry.as_pair(origin, "origin"),
        "operation": operation,
    }
    lattice = geometry.lattice(stride, offset)
    if lattice[0] != (1, 1):
        keywords |= {"stride": lattice[0], "offset": lattice[1]}
    masks.Rules(None, None, None, nan, saturated)
    geometry.known(mode, (None, *geometry.MODES), "mode")
    geometry.known(boundary, geometry.BOUNDARIES, "boundary")
    geometry.known(operation, geometry.OPERATIONS, "operation")
    geometry.known(method, ("auto", "direct", "fft"), "method")
    sides = regions.as_block(block)
    threads = pair.as_workers(workers)
    pair.require_progress(progress)
    if not every >= 0:
        msg = f"got every={every!r}, need a number of seconds, at least 0"
        raise ValueError(msg)
    if isinstance(pairs, tuple) and len(pairs) == 2 and all(getattr(a, "ndim", 0) == 2 for a in pairs):
        msg = "got one pair of images, need an iterable of pairs; write [(image, target)]"
        raise TypeError(msg)
    call: dict[str, Any] = {"shape": kernel, **keywords, "method": method, "block": sides}
    if nan != "error" or saturated is not None:
        call |= {"nan": nan, "saturated": saturated}
    state = None if checkpoint is None else Checkpoint(checkpoint, call, every)
    tree = Tree[NormalStats](operator.add) if state is None else state.tree
    stream = _Stream(pairs, kernel, keywords, (nan, saturated), method, sides, state)
    fresh = False
    try:
        for item, part in _computed(stream.work(), threads):
            tree.push(part)
            stream.n_done += 1
            if state is not None:
                state.pairs, state.blocks = (item.pair + 1, 0) if item.last else (item.pair, item.block + 1)
                state.digest, fresh = item.digest, True
                fresh = not state.save_sometimes()
            if progress is not None:
                progress("reading pixels", stream.n_done, stream.total())
        total = tree.total()
        if total is None:
            msg = "got no pairs, need at least one (image, target); was the generator used up before?"
            raise ValueError(msg)
    except BaseException as error:
        if state is not None and fresh:
            with contextlib.suppress(Warning):  # where warnings are errors, too, the first error is the one to tell
                state.save_sometimes(now=True)
        elif state is not None and isinstance(error, Exception):
            state.withdraw()
        raise
    if state is not None and fresh:
        state.save_sometimes(now=True)
    if total.n_pixels < total.n_taps:
        msg = (
            f"{total.n_pixels} target pixels of {stream.n_pairs} pairs cannot determine the {total.n_taps} taps of a "
            f"{kernel[0]}x{kernel[1]} kernel; ask for a smaller shape, give more pairs, or exclude less"
        )
        raise ValueError(msg)
    return total


class _Stream:
    """The blocks of a stream that are still to be read."""

    def __init__(
        self,
        pairs: Iterable[Any],
        kernel: Shape,
        keywords: dict[str, Any],
        values: tuple[str, Any],
        method: str,
        block: Shape | None,
        state: Checkpoint | None,
    ) -> None:
        self.pairs, self.kernel, self.keywords, self.method, self.block = pairs, kernel, keywords, method, block
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
                problem, boxed = self._problem(item)
                chosen = engine_of(problem, self.method)
                boxes = regions.cut(problem, self.block)
                if self.state is not None:
                    digest = _digest(digest, problem, boxed, boxes, chosen)
            self.n_pairs, self.n_blocks = number + 1, self.n_blocks + len(boxes)
            skip = len(boxes) if number < self.start[0] else self.start[1] if number == self.start[0] else 0
            self.n_done += skip
            if self.state is not None and number + 1 == n_begun and digest != self.expected:
                raise self.state.mismatch(f"one of its first {n_begun} pairs is not the same")
            for i in range(skip, len(boxes)):
                yield _Work(number, i, i + 1 == len(boxes), problem, boxed, boxes[i], chosen, digest)
        if self.state is not None and self.n_pairs < n_begun:
            raise self.state.mismatch(f"it had at least {n_begun} pairs, this one has {self.n_pairs}")

    def _problem(self, item: object) -> tuple[Problem, Boxed | None]:
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
        (image, image_masked), (target, target_masked) = (masks.unmasked(item[name]) for name in _NAMES[:2])
        problem = pair.check(image, target, self.kernel, **self.keywords, determined=False)
        mask, image_mask, weights = (item.get(name) for name in _NAMES[2:])
        rules = masks.Rules(mask, image_mask, weights, *self.values, target_masked, image_masked)
        return problem, Boxed.of(problem, rules)


@contextlib.contextmanager
def _naming(number: int, block: Shape | None = None) -> Iterator[None]:
    """Say in which pair an error was found, and in which of its blocks."""
    try:
        yield
    except (TypeError, ValueError) as error:
        place = "" if block is None else f"in the block of target pixels that starts at {block}: "
        msg = f"pair {number}: {place}{error}"
        raise type(error)(msg) from error


def _digest(before: str, problem: Problem, boxed: Boxed | None, boxes: list[Box], method: str) -> str:
    """Return a digest of a pair and all pairs before it."""
    plan = problem.geometry
    facts = json.dumps([before, plan.image_shape, plan.target_shape, str(plan.convention), method, boxes])
    seen = regions.spots((*problem.sources, *problem.targets)) + (b"" if boxed is None else boxed.spots())
    return hashlib.sha256(facts.encode() + seen).hexdigest()


def _statistics(item: _Work, asked: Problem, part: Problem, workers: int) -> NormalStats:
    """Return the statistics of a block, `part` being what it asks for with the pixels in memory."""
    readers = zip(part.sources + part.targets, asked.sources + asked.targets, strict=True)
    copied = item.boxed is not None or any(mine is not given for mine, given in readers)
    with _naming(item.pair, asked.geometry.offset if copied else None):  # where a copy begins, errors cannot know
        if item.boxed is None:
            return statistics(part, item.method, workers)[0]
        part = regions.alone(part)
        weighed = item.boxed.item(item.box, part)
        if weighed is None:
            return statistics(part, item.method, workers)[0]
        return item.boxed.statistics(weighed, item.method, workers)


def _by_one_thread(item: _Work) -> NormalStats:
    """Read one block and return its statistics."""
    asked = regions.sub_problem(item.problem, item.box)
    return _statistics(item, asked, regions.loaded(asked), 1)


def _computed(work: Iterator[_Work], workers: int) -> Iterator[tuple[_Work, NormalStats]]:
    """Yield the statistics of blocks in order.

    Small blocks are computed by one thread each, some blocks ahead. Large ones are computed one after the other by all
    threads together, which share a cache, while the pixels of the next one are read.
    """
    if workers == 1:
        for item in work:
            yield item, _by_one_thread(item)
        return
    n_threads = 2 * workers  # those that wait for a store do not compute
    ahead: collections.deque[tuple[_Work, Callable[[], NormalStats], list[Future[Any]]]] = collections.deque()

    def large(item: _Work) -> bool:
        return item.box.rows * item.box.cols >= _LARGE * min(workers, 4)

    def begin(item: _Work) -> None:
        if not large(item):
            future = pool.submit(_by_one_thread, item)
            ahead.append((item, future.result, [future]))
            return
        asked = regions.sub_problem(item.problem, item.box)
        reads = [pool.submit(regions.in_memory, reader) for reader in asked.sources + asked.targets]

        def finish() -> NormalStats:
            return _statistics(item, asked, regions.reading(asked, [read.result() for read in reads]), workers)

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


def _packed(stats: NormalStats) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return statistics as plain fields and arrays."""
    plain: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for field in dataclasses.fields(stats):
        if field.init:
            value = getattr(stats, field.name)
            (arrays if isinstance(value, np.ndarray) else plain)[field.name] = value
    plain["convention"] = dataclasses.asdict(stats.convention)
    return plain, arrays


def _unpacked(plain: dict[str, Any], arrays: dict[str, Any]) -> NormalStats:
    """Undo `_packed`."""
    terms = tuple((rows, cols) for rows, cols in plain["terms"])
    return NormalStats(**{**plain, **arrays, "terms": terms, "convention": convention_from(plain["convention"])})
