"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, never pixels, as long as the pixels come from a store or a computation: the part of the
graph that makes a block goes into the task of the block, and is run there.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import chunks, geometry, pair
from .exact import regions
from .exact.accumulation import residual_moments, statistics
from .exact.choice import resolve
from .geometry import Geometry, Shape
from .pair import Array, Problem, Reader
from .result import KernelFit
from .solvers import solve
from .statistics import NormalStats

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


class _Block(NamedTuple):
    """One block of target pixels: all that is known of it without its pixels."""

    plan: Geometry
    pieces: tuple[tuple[_Piece, ...], ...]
    fillvalue: float
    method: str
    at: Shape


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


def _problem(block: _Block, sources: Sequence[Sequence[Any]], targets: Sequence[Any]) -> Problem:
    """Read the pixels of a block and return its problem."""
    plan = block.plan
    readers = [
        Reader(_assembled(p, s, plan.extended_shape, block.fillvalue), plan.extended_shape)
        for p, s in zip(block.pieces, sources, strict=True)
    ]
    return Problem(plan, tuple(readers), tuple(Reader(_pixels(t), plan.size) for t in targets))


def _block_statistics(block: _Block, sources: Any, targets: Any) -> NormalStats:
    try:
        return statistics(_problem(block, sources, targets), block.method, 1)[0]
    except ValueError as error:
        raise _placed(error, block) from error


def _block_residual(block: _Block, sources: Any, targets: Any, kernel: Array) -> Array:
    """Return ``A'r`` and ``r'r`` in one array."""
    try:
        moments, energies = residual_moments(_problem(block, sources, targets), kernel[None, None], block.method, 1)
    except ValueError as error:
        raise _placed(error, block) from error
    return np.append(moments[0], energies[0])


def _placed(error: ValueError, block: _Block) -> ValueError:
    return ValueError(f"in the block of target pixels that starts at {block.at}: {error}")


def _each(work: Callable[..., Any], parts: list[tuple[_Block, Any, Any]], *more: Any) -> Any:
    """Do the work of several blocks, one after the other, and add it up."""
    return regions.in_tree((work(*part, *more) for part in parts), operator.add)


def _added(parts: list[Any]) -> Any:
    return regions.in_tree(parts, operator.add)


class _Plan:
    """A pair of Dask arrays, or of anything else, cut into blocks."""

    def __init__(self, image: Any, target: Any, shape: Any, method: str, block: Any, keywords: dict[str, Any]) -> None:
        self.dask = _dask()
        geometry.known(method, ("auto", "direct", "fft"), "method")
        sides = regions.as_block(block)
        problem = pair.check(image, target, shape, **keywords)
        self.choice = resolve(problem, method)
        if self.choice.method == "cg":
            self.choice = self.choice._replace(method="fft", reason="only statistics can be added up")
        # A block's graph is cut out of that of the whole array, unless it only reads a store; what cannot be sent along
        # is left to the scheduler.
        self.stores: dict[str, Any] = {}
        self.blocks = [self._block(problem, box) for box in regions.cut(problem, sides)]

    def _block(self, problem: Problem, box: regions.Box) -> tuple[_Block, list[list[Any]], list[Any]]:
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
        return _Block(plan, tuple(pieces), plan.convention.fillvalue, self.choice.method, at), sources, targets

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

    def _own(self, sources: list[list[Any]], targets: list[Any]) -> bool:
        """Whether a block needs nothing that the scheduler has to bring."""
        return not any(self.dask.is_dask_collection(s) for s in [*(s for own in sources for s in own), *targets])


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
    method: str = "auto",
    block: int | Shape | None = None,
    compute: bool = True,
) -> Any:
    """Do what `kernelfit.accumulate` does, on Dask arrays, wherever Dask computes.

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
    method : {"auto", "direct", "fft"}, optional
        As in `kernelfit.accumulate`.
    block : int or (int, int), optional
        Rows and columns of a block of target pixels; four neighbouring blocks make a task where they read their own
        pixels. The default is some 1024 rows of 8 KiB, less for small images, and follows the
        target's chunks.
    compute : bool, optional
        Whether to compute the sum now (default) or return it as a `dask.delayed.Delayed`, to be computed with others.

    Returns
    -------
    NormalStats or Delayed
        The statistics.

    Raises
    ------
    ImportError
        If Dask is missing.
    TypeError, ValueError
        As `kernelfit.accumulate`; where a pixel is NaN or infinite the error comes from the block that holds it.

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
    keywords = {
        "mode": mode,
        "boundary": boundary,
        "fillvalue": fillvalue,
        "origin": origin,
        "operation": operation,
        "stride": stride,
        "offset": offset,
    }
    total = _Plan(image, target, shape, method, block, keywords).total(_block_statistics)
    return total.compute() if compute else total


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
    method: str = "auto",
    solver: "solve.Solver | str | None" = None,
    block: int | Shape | None = None,
) -> KernelFit:
    """Do what `kernelfit.find_kernel` does, on Dask arrays, wherever Dask computes.

    Parameters
    ----------
    image, target : dask.array.Array, xarray.DataArray, zarr.Array or other array_like
        As in `accumulate`.
    shape : int or (int, int)
        Rows and columns of the kernel.
    mode, boundary, fillvalue, origin, operation, stride, offset
        As in `kernelfit.find_kernel`.
    method : {"auto", "direct", "fft"}, optional
        As in `kernelfit.accumulate`.
    solver : solver or "auto", optional
        As in `kernelfit.find_kernel`.
    block : int or (int, int), optional
        As in `accumulate`.

    Returns
    -------
    KernelFit
        The kernel, with errors and a verdict, refined against the pixels where rounding could matter.

    Raises
    ------
    ImportError
        If Dask is missing.
    TypeError, ValueError
        As `kernelfit.find_kernel`.

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
    chosen = solve.as_solver(solver)
    keywords = {
        "mode": mode,
        "boundary": boundary,
        "fillvalue": fillvalue,
        "origin": origin,
        "operation": operation,
        "stride": stride,
        "offset": offset,
    }
    plan = _Plan(image, target, shape, method, block, keywords)
    stats: NormalStats = plan.total(_block_statistics).compute()
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
    return dataclasses.replace(fit, method=plan.choice.method, method_reason=plan.choice.reason, refined=refined)
