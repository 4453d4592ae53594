"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, as long as the pixels come from a store or a computation: the part of the graph that makes a
block goes into the task of the block, and is run there. A fit also has a few of the pixels brought, to look at its
residual.
"""

import contextlib
import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import chunks, find, geometry, glimpses, pair
from .exact import accumulation, regions
from .exact.accumulation import residual_moments, statistics
from .exact.blas import one_blas_thread
from .exact.choice import resolve
from .geometry import Geometry, Shape
from .pair import Array, Problem, Reader
from .result import KernelFit
from .solvers import solve
from .statistics import NormalStats
from .weights import masks
from .weights.boxes import Boxed
from .weights.masks import Rules
from .weights.weighted_pass import Item, residual

#: Data of more bytes than this are not sent along with each block that needs them.
_LIGHT = 2**16
_MOST_REFINEMENTS = 3


def _dask() -> Any:
    """Import Dask, or say how to get it."""
    try:
        import dask
        import dask.array
        import dask.delayed
    except ImportError as error:
        msg = f"kernelfit.scale needs Dask, which cannot be imported ({error}): pip install 'kernelfit[dask]'"
        raise ImportError(msg) from error
    return dask


class _Piece(NamedTuple):
    """A part of an extended image: where it stands, its extent, its steps (0 or -1 beyond an edge)."""

    row: int
    col: int
    shape: Shape
    steps: Shape


class _Lazy:
    """Pixels that are computed or read where they are needed, from a graph of their own."""

    def __init__(self, collection: Any) -> None:
        self.graph = dict(collection.__dask_graph__())
        self.keys = collection.__dask_keys__()
        self.finish = collection.__dask_postcompute__()

    def complete(self) -> bool:
        """Whether the graph holds all that it needs; data that lie on a cluster are lost when it is optimised."""
        return all(key in self.graph for node in self.graph.values() for key in getattr(node, "dependencies", ()))

    def __call__(self) -> Any:
        from dask.local import get_sync

        function, args = self.finish
        return function(get_sync(self.graph, self.keys), *args)


class _Stored:
    """A slice of something that can be sliced, read where it is needed."""

    def __init__(self, array: Any, key: tuple[slice, slice]) -> None:
        self.array, self.key = array, key

    def __call__(self) -> Any:
        return self.array[self.key]


class _Marks(NamedTuple):
    """What excludes or weighs pixels of a block, whose further sources are masks of the image.

    Of its further targets the first `n_masks` are masks, and one more, if there is one, holds the weights.
    """

    n_masks: int
    nan: str
    saturated: tuple[float, float] | None


class _Block(NamedTuple):
    """One block of target pixels: all that is known of it without its pixels."""

    plan: Geometry
    pieces: tuple[tuple[_Piece, ...], ...]
    fillvalue: float
    method: str
    at: Shape
    marks: _Marks | None


def _pixels(source: Any) -> npt.NDArray[Any]:
    return np.asarray(source() if isinstance(source, (_Lazy, _Stored)) else source)


def _assembled(pieces: Sequence[_Piece], sources: Sequence[Any], shape: Shape, fillvalue: float) -> npt.NDArray[Any]:
    """Put the pieces of an extended image together; where there is no source the fill value stands."""
    parts = [None if s is None else _pixels(s) for s in sources]
    if len(parts) == 1 and parts[0] is not None and pieces[0].steps == (1, 1):
        return parts[0]
    known = [p.dtype for p in parts if p is not None]
    out = np.full(shape, fillvalue, np.float64 if len(known) < len(parts) else known[0])
    for (row, col, (height, width), (down, across)), part in zip(pieces, parts, strict=True):
        if part is not None:
            out[row : row + height, col : col + width] = part[:: down or 1, :: across or 1]
    return out


def _problem(block: _Block, sources: Sequence[Sequence[Any]], targets: Sequence[Any]) -> tuple[Problem, Boxed | None]:
    """Read the pixels of a block and return its problem, and what excludes or weighs pixels of it."""
    plan, marks = block.plan, block.marks
    beyond = [block.fillvalue] + [0.0] * (len(sources) - 1)
    images = tuple(
        Reader(_assembled(p, s, plan.extended_shape, fill), plan.extended_shape)
        for p, s, fill in zip(block.pieces, sources, beyond, strict=True)
    )
    results = tuple(Reader(_pixels(t), plan.size) for t in targets)
    problem = Problem(plan, images[:1], results[:1])
    if marks is None:
        return problem, None
    n = 1 + marks.n_masks
    return problem, Boxed(regions.alone(problem), results[1:n], results[n:], images[1:], marks.nan, marks.saturated)


def _item(boxed: Boxed | None) -> Item | None:
    """Return a block with its weights, None if all of its pixels count the same."""
    return None if boxed is None else boxed.item(regions.Box(0, 0, *boxed.problem.size), boxed.problem)


@one_blas_thread
def _block_statistics(block: _Block, sources: Any, targets: Any) -> NormalStats:
    with _placed(block):
        problem, boxed = _problem(block, sources, targets)
        item = _item(boxed)
        if boxed is None or item is None:
            return statistics(problem, block.method, 1)[0]
        return boxed.statistics(item, block.method, 1)


@one_blas_thread
def _block_residual(block: _Block, sources: Any, targets: Any, kernel: Array) -> Array:
    """Return ``A'r`` and ``r'r`` in one array."""
    with _placed(block):
        problem, boxed = _problem(block, sources, targets)
        item = _item(boxed)
        if item is not None:
            left = residual([item], kernel.ravel(), block.method, 1)
            return np.append(left.moment, left.energy)
        moments, energies = residual_moments(problem, kernel[None, None], block.method, 1)
        return np.append(moments[0], energies[0])


def _block_at_ends(block: _Block, sources: Any, targets: Any) -> int:
    """Return how many target pixels stand at the ends of their type's range."""
    assert block.marks is not None and block.marks.saturated is not None
    found = masks.at_ends(_pixels(targets[0]), block.marks.saturated)
    return 0 if found is None else int(np.count_nonzero(found))


@contextlib.contextmanager
def _placed(block: _Block) -> Iterator[None]:
    """Say in which block an error was found."""
    try:
        yield
    except ValueError as error:
        msg = f"in the block of target pixels that starts at {block.at}: {error}"
        raise ValueError(msg) from error


def _determined(stats: NormalStats) -> NormalStats:
    """Refuse statistics of fewer pixels than taps."""
    if stats.n_pixels < stats.n_taps:
        msg = (
            f"got a mask or weights that leave {stats.n_pixels} target pixels, need at least {stats.n_taps} for as "
            "many taps; ask for a smaller shape, or exclude less"
        )
        raise ValueError(msg)
    return stats


@one_blas_thread
def _each(work: Callable[..., Any], parts: list[tuple[_Block, Any, Any]], *more: Any) -> Any:
    """Do the work of several blocks, one after the other, and add it up."""
    return regions.in_tree((work(*part, *more) for part in parts), operator.add)


def _added(parts: list[Any]) -> Any:
    return regions.in_tree(parts, operator.add)


_NO_RULES = Rules()


class _Plan:
    """A pair of Dask arrays, or of anything else, cut into blocks."""

    def __init__(
        self,
        image: Any,
        target: Any,
        shape: Any,
        method: str,
        block: Any,
        keywords: dict[str, Any],
        rules: Rules = _NO_RULES,
    ) -> None:
        self.dask = _dask()
        geometry.known(method, ("auto", "direct", "fft"), "method")
        sides = regions.as_block(block)
        image, image_masked = self._unmasked(image, "image")
        target, target_masked = self._unmasked(target, "target")
        problem = pair.check(image, target, shape, **keywords)
        self.choice = resolve(problem, method)
        self.large = self.choice.method == "cg"
        if self.large:
            self.choice = self.choice._replace(method="fft", reason="only statistics can be added up")
        rules = dataclasses.replace(rules, image_masked=image_masked, target_masked=target_masked)
        self.problem, self.boxed = problem, Boxed.of(problem, rules)
        marks, wide = None, problem
        if self.boxed is not None:
            own = self.boxed
            marks = _Marks(len(own.masks), own.nan, own.saturated)
            wide = dataclasses.replace(
                problem,
                sources=(*problem.sources, *own.image_masks),
                targets=(*problem.targets, *own.masks, *own.weights),
            )
        # A block's graph is cut out of that of the whole array, unless it only reads a store; what cannot be sent along
        # is left to the scheduler.
        self.stores: dict[str, Any] = {}
        boxes = regions.cut(problem, sides, 2 * regions.FAN)  # at least two tasks
        self.blocks = [self._block(wide, box, marks) for box in boxes]

    def _unmasked(self, value: Any, name: str) -> tuple[Any, Any]:
        """Return an array without its mask, and the mask."""
        if isinstance(value, (list, tuple)) and any(getattr(item, "ndim", 0) > 1 for item in value):
            msg = f"got a list of arrays as {name}, need one; add up what kernelfit.scale.accumulate makes of each pair"
            raise TypeError(msg)
        if isinstance(getattr(value, "_meta", None), np.ma.MaskedArray):
            masked = self.dask.array.ma
            return masked.getdata(value), masked.getmaskarray(value)
        return masks.unmasked(value)

    def _block(
        self, problem: Problem, box: regions.Box, marks: _Marks | None
    ) -> tuple[_Block, list[list[Any]], list[Any]]:
        part = regions.sub_problem(problem, box)
        pieces, sources = [], []
        for reader in part.sources:
            (top, left), (height, width) = (-reader.before[0], -reader.before[1]), reader.shape
            rows = geometry.axis_runs(top, top + height, reader.array.shape[0], reader.boundary)
            cols = geometry.axis_runs(left, left + width, reader.array.shape[1], reader.boundary)
            own = [(_Piece(r, c, (h, w), (down, across)), y, x) for r, y, h, down in rows for c, x, w, across in cols]
            pieces.append(tuple(piece for piece, _, _ in own))
            sources.append([None if y is None or x is None else self._slice(reader.array, p, y, x) for p, y, x in own])
        targets = [
            self._slice(r.array, _Piece(0, 0, r.shape, (1, 1)), -r.before[0], -r.before[1]) for r in part.targets
        ]
        plan = part.geometry
        at = (plan.offset[0], plan.offset[1])
        found = _Block(plan, tuple(pieces), plan.convention.fillvalue, self.choice.method, at, marks)
        return found, sources, targets

    def _slice(self, array: Any, piece: _Piece, row: int, col: int) -> Any:
        """Return the stored pixels of a piece: something to call, or a collection that the scheduler has to make."""
        if isinstance(array, chunks.Chunked):
            array = array.array
        key = (pair._slice(row, piece.shape[0], piece.steps[0]), pair._slice(col, piece.shape[1], piece.steps[1]))
        if hasattr(array, "dims") and self.dask.is_dask_collection(array):  # xarray
            array = array.data
        if not self.dask.is_dask_collection(array):
            if not isinstance(array, np.ndarray):
                return _Stored(array, key)
            view = np.asarray(array[key])
            return view if view.nbytes <= _LIGHT else self.dask.delayed(view, pure=False)
        if array.name not in self.stores:
            self.stores[array.name] = _store(array)
        if self.stores[array.name] is not None:
            return _Stored(self.stores[array.name], key)
        (part,) = self.dask.optimize(array[key])
        lazy = _Lazy(part)
        return lazy if lazy.complete() and not _heavy(lazy.graph) else array[key]

    def total(self, work: Callable[..., Any], *more: Any) -> Any:
        """Return the sum over all blocks of what `work` makes of them, to be computed."""
        delayed = self.dask.delayed
        kept = [delayed(m) if isinstance(m, np.ndarray) else m for m in more]
        level: list[Any] = []
        for group in regions.groups(self.blocks):
            if all(self._own(sources, targets) for _, sources, targets in group):
                level.append(delayed(_each, pure=False)(work, group, *kept))
            else:
                parts = [delayed(work, pure=False)(*part, *kept) for part in group]
                level.append(delayed(_added, pure=False)(parts))
        while len(level) > 1:
            level = [delayed(_added, pure=False)(group) for group in regions.groups(level)]
        return level[0]

    def statistics(self) -> Any:
        """Return the statistics of all blocks, to be computed."""
        found = self.total(_block_statistics)
        return found if self.boxed is None else self.dask.delayed(_determined, pure=False)(found)

    def judged(self, *, automatic: bool) -> tuple[NormalStats, list[str]]:
        """Return the statistics, and what was excluded in words.

        Saturated pixels count if they are told automatically, and nearly all of the target is.
        """
        n, taps, notes = self.problem.geometry.n_pixels, self.problem.geometry.n_taps, []
        if automatic and self.large and not (self.boxed is not None and self.boxed.more):
            self._with_saturated()  # no reason to form products of thousands of taps
        stats: NormalStats = self.total(_block_statistics).compute()
        least = max(0.05 * n, 10 * taps)
        if automatic and stats.n_pixels < least and self.boxed is not None and self.boxed.saturated is not None:
            count = self.total(_block_at_ends).compute()
            if n - count < least:
                self._with_saturated()
                stats = self.total(_block_statistics).compute()
                ends = f"the ends of {self.problem.targets[0].array.dtype}'s range"
                notes = [f"{count} of {n} target pixels stand at {ends}; they are used, being nearly all of it"]
        return _determined(stats), notes + self._excluded(stats.n_pixels)

    def _with_saturated(self) -> None:
        """Let saturated pixels count."""
        if self.boxed is not None:
            self.boxed = dataclasses.replace(self.boxed, saturated=None)
            self.blocks = [
                (block._replace(marks=block.marks and block.marks._replace(saturated=None)), sources, targets)
                for block, sources, targets in self.blocks
            ]

    def _excluded(self, n_pixels: int) -> list[str]:
        """Say in words how many pixels do not count, and why."""
        n = self.problem.geometry.n_pixels
        if self.boxed is None or n_pixels == n:
            return []
        why = ["masked"] if self.boxed.masks else []
        why += ["an excluded image pixel in their footprint"] if self.boxed.image_masks else []
        why += ["NaN or infinite, or such an image pixel in their footprint"] if self.boxed.nan == "mask" else []
        why += ["of weight zero"] if self.boxed.weights else []
        if self.boxed.saturated is not None:
            why.append(masks.ends_in_words(self.boxed.saturated))
        return [f"{n - n_pixels} of {n} target pixels excluded: {'; or '.join(why)}"]

    def _own(self, sources: list[list[Any]], targets: list[Any]) -> bool:
        """Whether a block needs nothing that the scheduler has to bring."""
        return not any(self.dask.is_dask_collection(s) for s in [*(s for own in sources for s in own), *targets])


def _offered(call: Callable[..., Any], others: dict[str, Any]) -> None:
    """Refuse keywords of the namesake that there are none of here, unless they ask for nothing."""
    known = inspect.signature(call).parameters
    for name, value in others.items():
        if name not in known:
            msg = f"kernelfit.scale.{call.__name__}() got an unexpected keyword argument {name!r}"
            raise TypeError(msg)
        if value is None or (isinstance(value, (str, int, float)) and value == known[name].default):
            continue
        msg = (
            f"got {name}=, which kernelfit.scale.{call.__name__} does not offer; leave it out, or call "
            f"kernelfit.{call.__name__}, which reads Dask arrays too, block by block on this machine"
        )
        raise TypeError(msg)


def _heavy(value: Any) -> bool:
    """Whether a graph holds much data, or data on a cluster, rather than the way to get them."""
    if isinstance(value, np.ndarray):
        return value.nbytes > _LIGHT
    if type(value).__module__.split(".")[0] == "distributed":
        return True
    if isinstance(value, dict):
        return any(_heavy(v) for v in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_heavy(v) for v in value)
    if not type(value).__module__.startswith("dask."):
        return False
    return any(_heavy(getattr(value, name, None)) for name in ("args", "kwargs", "value"))  # of a task


def _store(array: Any) -> Any:
    """Return what a Dask array of `from_zarr` or `from_array` reads, chunk by chunk and unlocked; None for others.

    Slices of that need no graph, which to make, optimise and send costs milliseconds a block.
    """
    from dask.array import core

    graph = dict(array.__dask_graph__())
    ends = [np.cumsum([0, *sides]).tolist() for sides in array.chunks]
    found: Any = None
    for at in np.ndindex(*array.numblocks):
        node = graph.get((array.name, *at))
        if getattr(node, "func", None) not in (core.getter, core.getter_nofancy, core.getter_inline):
            return None
        assert node is not None
        if len(node.args) != 2 or node.kwargs.get("lock"):
            return None
        source, place = node.args
        source = graph.get(getattr(source, "key", None), source)
        source, place = getattr(source, "value", source), getattr(place, "value", place)
        if place != tuple(slice(e[i], e[i + 1], None) for e, i in zip(ends, at, strict=True)):
            return None
        if found is not None and source is not found:
            return None
        found = source
    usable = not isinstance(found, np.ndarray) and getattr(found, "shape", None) == array.shape
    return found if usable and hasattr(found, "__getitem__") and not _heavy(found) else None


def accumulate(
    image: Any,
    target: Any,
    shape: int | Shape,
    *,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    stride: int | Shape = 1,
    offset: int | Shape = 0,
    mask: Any = None,
    image_mask: Any = None,
    weights: Any = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = None,
    method: str = "auto",
    block: int | Shape | None = None,
    compute: bool = True,
    **others: Any,
) -> Any:
    """Add up what least squares learns from a pair of Dask arrays, wherever Dask computes.

    The target is cut into blocks; each reads what it needs of the image around it, and the statistics of the blocks are
    added in a tree of fan-in 4. The sum depends on the blocks alone, so that it has the same bits on any scheduler and
    as `kernelfit.accumulate_stream` with the same blocks, and agrees with `kernelfit.accumulate` to rounding.

    Parameters
    ----------
    image, target : dask.array.Array, xarray.DataArray, zarr.Array or other array_like
        Chunks may be of any shape, also smaller than the kernel, and need not agree. The labels of an xarray are not
        used; image and target are refused if their axes or coordinates contradict each other.
    shape : int or (int, int)
        Rows and columns of the kernel.
    mode, boundary, fillvalue, origin, operation, stride, offset
        As in `kernelfit.accumulate`.
    mask, image_mask, weights : dask.array.Array or other array_like, optional
        As in `kernelfit.accumulate`; an array of another kind than NumPy's has the shape of the target, or image.
        Chunks that are masked arrays bring their own mask.
    nan, saturated : optional
        As in `kernelfit.accumulate`; but that "auto" leaves out the ends of an integer target's range even if nearly
        all of it stands there. All of it is judged block by block, by the workers.
    method : {"auto", "direct", "fft"}, optional
        As in `kernelfit.accumulate`.
    block : int or (int, int), optional
        Rows and columns of a block of target pixels; four neighbouring blocks make a task where they read their own
        pixels. The default is some 1024 rows of 8 KiB, less for small images, and follows the
        target's chunks.
    compute : bool, optional
        Whether to compute the sum now (default) or return it as a `dask.delayed.Delayed`, to be computed with others.
    **others
        Of the keywords of `kernelfit.accumulate` there is no `workers`: the scheduler has them.

    Returns
    -------
    NormalStats or Delayed
        The statistics.

    Raises
    ------
    ImportError
        If Dask is missing.
    TypeError, ValueError
        As `kernelfit.accumulate`; where a pixel is NaN or infinite the error comes from the block that holds it. A
        keyword that is not offered is a TypeError.

    Notes
    -----
    Where the pixels come from a store or a computation, the part of the graph that makes a block is sent with the block
    and run there: no pixel travels, and chunks along the edges of blocks are made by both neighbours. Pixels in memory
    (NumPy arrays, persisted collections) are brought by the scheduler. h5py files cannot be sent to other processes;
    on those, wrap them in `dask.array.from_array` and use threads, or store the data in Zarr.

    Examples
    --------
    >>> import dask.array, kernelfit.scale
    >>> image = dask.array.random.default_rng(0).random((300, 200), chunks=(70, 90))
    >>> stats = kernelfit.scale.accumulate(image, 0.5 * image[1:-1, 2:], 3)
    >>> stats.n_pixels
    59004
    """
    _offered(accumulation.accumulate, others)
    rules = Rules(mask, image_mask, weights, nan, saturated)
    keywords = {
        "mode": mode,
        "boundary": boundary,
        "fillvalue": fillvalue,
        "origin": origin,
        "operation": operation,
        "stride": stride,
        "offset": offset,
    }
    total = _Plan(image, target, shape, method, block, keywords, rules).statistics()
    return total.compute() if compute else total


@one_blas_thread
def find_kernel(
    image: Any,
    target: Any,
    shape: int | Shape,
    *,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    stride: int | Shape = 1,
    offset: int | Shape = 0,
    mask: Any = None,
    image_mask: Any = None,
    weights: Any = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = "auto",
    method: str = "auto",
    solver: "solve.Solver | str | None" = None,
    block: int | Shape | None = None,
    **others: Any,
) -> KernelFit:
    """Find the kernel between two Dask arrays, wherever Dask computes.

    The kernel is the one that `kernelfit.find_kernel` finds with the same keywords, from sums that are always exact,
    and the verdict comes of the same looks at saturated pixels, noise, boundary and rounding.

    Parameters
    ----------
    image, target : dask.array.Array, xarray.DataArray, zarr.Array or other array_like
        As in `accumulate`.
    shape : int or (int, int)
        Rows and columns of the kernel.
    mode, boundary, fillvalue, origin, operation, stride, offset
        As in `kernelfit.find_kernel`.
    mask, image_mask, weights, nan : optional
        As in `accumulate`.
    saturated : {"auto", None} or (low, high), optional
        As in `kernelfit.find_kernel`.
    method : {"auto", "direct", "fft"}, optional
        As in `kernelfit.accumulate`.
    solver : solver or "auto", optional
        As in `kernelfit.find_kernel`.
    block : int or (int, int), optional
        As in `accumulate`.
    **others
        What `kernelfit.find_kernel` has beyond that is not offered: lists of pairs, `channel_axis`, `channels`,
        `background`, `noise`, `robust`, `image_noise`, `errors`, `balance`, `detrend`, `taper`, `workers`, `tolerance`,
        `progress`, and the methods "cg" and "wiener".

    Returns
    -------
    KernelFit
        The kernel, with errors and a verdict, refined against the pixels where rounding could matter. It does not keep
        `KernelFit.weights`, which would be of the target's size; `KernelFit.notes` says how many pixels do not count.

    Raises
    ------
    ImportError
        If Dask is missing.
    TypeError, ValueError
        As `kernelfit.find_kernel`. A keyword that is not offered is a TypeError.

    Notes
    -----
    Brought to the caller, in one computation, are 16 tiles of 64 x 64 pixels at most and, if a boundary is declared,
    the strips along the edges that depend on it. If the noise of a target of 8 or 16 bits is as large as that of values
    that wrapped round, 16 bands of 32 rows, or some more, are read as well.

    Examples
    --------
    >>> import dask.array, kernelfit.scale
    >>> image = dask.array.random.default_rng(0).random((300, 200), chunks=(70, 90))
    >>> fit = kernelfit.scale.find_kernel(image, 0.5 * image[1:-1, 2:], 3)
    >>> fit.kernel.round(6) + 0.0
    array([[0. , 0. , 0. ],
           [0.5, 0. , 0. ],
           [0. , 0. , 0. ]])
    """
    _offered(find.find_kernel, others)
    chosen = solve.as_solver(solver)
    rules = Rules(mask, image_mask, weights, nan, saturated)
    keywords = {
        "mode": mode,
        "boundary": boundary,
        "fillvalue": fillvalue,
        "origin": origin,
        "operation": operation,
        "stride": stride,
        "offset": offset,
    }
    plan = _Plan(image, target, shape, method, block, keywords, rules)
    stats, notes = plan.judged(automatic=isinstance(saturated, str))
    fit = stats.solve()
    refined = 0
    if solve.rounding_matters(stats, fit):
        while refined < _MOST_REFINEMENTS:
            before = fit.kernel
            found = plan.total(_block_residual, before).compute()
            stats = stats.centered(before.ravel(), found[:-1], float(found[-1]))
            fit = stats.solve()
            refined += 1
            if np.linalg.norm(fit.kernel - before) <= 1e-6 * np.linalg.norm(fit.kernel):
                break
    if solver is not None:
        fit = chosen.solve(stats)
    fit = dataclasses.replace(
        fit,
        method=plan.choice.method,
        method_reason=plan.choice.reason,
        refined=refined,
        notes=(*fit.notes, *notes),
    )
    return glimpses.looked_at(plan.problem, plan.boxed, fit, stats, plan.dask.compute)
