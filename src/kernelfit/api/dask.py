"""The verbs on Dask arrays."""

import functools
import os
from collections.abc import Callable
from typing import Any, Unpack

from ..compiled.threads import one_blas_thread
from ..core.dimensions import of_any_dimension
from ..core.geometry import Shape
from ..core.model import Execution, Model, Selection
from ..core.normal_equations import NormalEquations
from ..core.validation import require_checkpoint
from ..data.blocks import as_block
from ..data.observation import NUMBERS
from ..data.plan import make_plan
from ..fitting import dask_fit, requirements
from ..fitting.checkpoint import Checkpoint
from ..fitting.context import Context
from ..fitting.dask_blocks import BlockGroup, determined, together, unmasked
from ..fitting.dask_fit import kept_equations
from ..fitting.dask_sources import import_dask
from ..fitting.dask_tasks import Sums
from ..fitting.pipeline import Settings
from ..fitting.statistics import context_of
from ..solvers.least_squares import Solver
from .accumulate import settings_of
from .keywords import Call, Keywords, call_of, takes_keywords
from .results import KernelFit
from .statistics import ChannelStats, NormalStats, stats_of


@of_any_dimension
@takes_keywords("workers", "tolerance", "balance", "detrend", "taper")
def accumulate(
    image: Any,
    target: Any,
    shape: int | Shape | Model | None = None,
    *,
    selection: Selection | None = None,
    execution: Execution | None = None,
    block: int | Shape | None = None,
    compute: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    **keywords: Unpack[Keywords],
) -> Any:
    """Add up what least squares learns from Dask arrays, wherever Dask computes.

    The target is cut into blocks; each reads what it needs of the image around it, and the statistics of the blocks are
    added in a tree of fan-in 4. The sum depends on the blocks alone, so that it has the same bits on any scheduler and,
    but for volumes, as `kernelfit.accumulate_stream` with the same blocks; it agrees with `kernelfit.accumulate` to
    rounding.

    Parameters
    ----------
    image, target : dask.array.Array, xarray.DataArray, zarr.Array or other array_like, or lists of them
        Chunks may be of any shape, also smaller than the kernel, and need not agree. The labels of an xarray are not
        used; image and target are refused if their axes or coordinates contradict each other. Masks and weights may be
        Dask arrays, too. Chunks that are masked arrays bring their own mask.
    shape : int, (int, int), (int, int, int) or Model
        Rows and columns of the kernel, of a volume planes, rows and columns; or the whole model.
    selection : Selection, optional
        Which target pixels count, instead of its fields one by one. All of it is judged block by block, by the workers.
        With ``saturated="auto"`` the ends of an integer target's range are left out even if nearly all of it stands
        there.
    execution : Execution, optional
        The engine, and `progress`, called as ``progress("reading pixels", done, total)`` with numbers of tasks, each of
        four blocks; the scheduler has the workers.
    block : int, (int, int) or (int, int, int), optional
        Rows and columns of a block of target pixels, of volumes planes, rows and columns; four neighbouring blocks make
        a task where they read their own pixels. The default is some 1024 rows of 8 KiB, less for small images, of
        volumes four times the kernel's planes at least, and follows the target's chunks.
    compute : bool, optional
        Whether to compute the sum now (default) or return it as a `dask.delayed.Delayed`, to be computed with others.
    checkpoint : path-like, optional
        A file to which the sums are written now and then, in one step, by the caller. If it exists, the run goes on
        from there, and ends with the same bits as if it had never been interrupted. Shapes, types and a few pixels of
        the first and the last pair are read to see that they are the same.
    every : float, optional
        Seconds between two checkpoints, default 30.
    **keywords
        The fields of `Model`, `Selection` and `Noise`, flat, and `progress`.

    Returns
    -------
    NormalStats, ChannelStats or Delayed
        The statistics; `ChannelStats` with channels "separate" and "mixed".

    Raises
    ------
    ImportError
        If Dask is missing.
    TypeError, ValueError
        As `kernelfit.accumulate`; where a pixel is NaN or infinite the error comes from the block that holds it. Also
        if the checkpoint is incomplete or of another call; then it is left untouched.
    OSError
        If the checkpoint cannot be written at the start. Later on that is a RuntimeWarning; the run goes on.

    Notes
    -----
    With `progress` or a checkpoint the blocks are computed in portions of some seconds, at whose ends workers wait for
    one another. Without, all is one computation.

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
    dask = import_dask()
    call = call_of(shape, keywords, verb="accumulate", selection=selection, execution=execution)
    sides, unmask = _laid(call, block)
    progress = call.execution.progress
    opened = _opener(call, sides, checkpoint, every, "Dask")
    if not compute and (checkpoint is not None or progress is not None):
        name = "progress" if checkpoint is None else "checkpoint"
        raise ValueError(f"got {name}= with compute=False, which computes nothing; leave one of them out")
    plan = make_plan(image, target, call.model, call.selection, unmask=unmask, kinds=NUMBERS)
    settings = Settings(call.noise, call.solver, call.execution)
    more = "statistics alone", "statistics of blocks"
    features = requirements.features_of(plan, settings.noise, settings.solver, settings.execution, *more)
    requirements.require(features)
    engine = dask_fit.chosen(plan.groups[0], settings).method
    contexts = [context_of(plan, group, engine) for group in range(len(plan.groups))]
    groups = [BlockGroup(plan, group, engine, sides, progress) for group in range(len(plan.groups))]
    if opened is not None:
        return _statistics(kept_equations(groups, opened()), contexts)
    if progress is not None:
        return _statistics([group.computed_equations() for group in groups], contexts)
    total = dask.delayed(_of_sums, pure=False)([group.sums() for group in groups], contexts)
    return total.compute() if compute else total


def _of_sums(groups: list[list[list[Sums]]], contexts: list[Context]) -> NormalStats | ChannelStats:
    return _statistics([together(one) for one in groups], contexts)


def _statistics(groups: list[list[NormalEquations]], contexts: list[Context]) -> NormalStats | ChannelStats:
    both = zip(groups, contexts, strict=True)
    return stats_of([(determined(one), context) for group, context in both for one in group])


@of_any_dimension
@takes_keywords("workers")
@one_blas_thread
def find_kernel(
    image: Any,
    target: Any,
    shape: int | Shape | Model | None = None,
    *,
    selection: Selection | None = None,
    execution: Execution | None = None,
    solver: Solver | str | None = None,
    block: int | Shape | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    **keywords: Unpack[Keywords],
) -> KernelFit:
    """Find the kernel between Dask arrays, wherever Dask computes.

    The kernel is the one that `kernelfit.find_kernel` finds with the same arguments, from sums that are always exact,
    and the verdict comes of the same looks at saturated pixels, noise, boundary and rounding.

    Parameters
    ----------
    image, target : dask.array.Array, xarray.DataArray, zarr.Array or other array_like, or lists of them
        As in `accumulate`.
    shape : int, (int, int), (int, int, int) or Model
        Rows and columns of the kernel, of a volume planes, rows and columns; or the whole model.
    selection, execution, solver : optional
        As in `kernelfit.find_kernel`. `ConjugateGradient` works on the Gram matrix here as long as that can be formed.
    block : int, (int, int) or (int, int, int), optional
        As in `accumulate`.
    checkpoint, every : optional
        As in `accumulate`. The file keeps the sums of every pass over the pixels, those that correct rounding included,
        and in the end the same call returns at once, but for a look at a few of the pixels.
    **keywords
        The fields of `Model`, `Selection`, `Noise` and `Execution`, flat.

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
        As `kernelfit.find_kernel`; of a checkpoint as `accumulate`.

    Notes
    -----
    Brought to the caller, in one computation, are 16 tiles of 64 x 64 pixels at most, of volumes on some planes, and,
    if a boundary is declared, the strips along the edges that depend on it. If the noise of a target of 8 or 16 bits is
    as large as that of values that wrapped round, 16 bands of 32 rows, or some more, are read as well. Spectra, and
    weights that come from the residual (`noise`, `robust`), are made by the caller, who reads the arrays block by
    block.

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
    import_dask()
    call = call_of(shape, keywords, verb="find_kernel", selection=selection, execution=execution, solver=solver)
    sides, unmask = _laid(call, block)
    opened = _opener(call, sides, checkpoint, every, "find_kernel on Dask")
    plan = make_plan(image, target, call.model, call.selection, unmask=unmask, kinds=NUMBERS)
    return KernelFit.of(dask_fit.fit(plan, Settings(call.noise, call.solver, call.execution), sides, opened))


def _laid(call: Call, block: object) -> tuple[Any, Callable[[object], tuple[object, object]]]:
    """Return the sides of a block, and what parts arrays of so many axes from their masks."""
    ndim = 3 if call.model.dimensions == 3 else 2
    return as_block(block, ndim), functools.partial(unmasked, ndim=ndim)


def _opener(
    call: Call, sides: Shape | None, path: str | os.PathLike[str] | None, every: float, arrays: str
) -> Callable[[], Checkpoint] | None:
    """Return what opens a checkpoint, if there is to be one: of these arrays, since the sums of a stream are others."""
    require_checkpoint(path, every)
    return None if path is None else lambda: Checkpoint(path, {**settings_of(call, sides), "arrays": arrays}, every)
