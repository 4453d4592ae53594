"""The verbs on Dask arrays."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..compiled.blas import one_blas_thread
from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.model import Model, Selection
from ..data.masking import PlaneSelection
from ..fitting import deferred_reads
from ..fitting.dask_blocks import _MOST_REFINEMENTS, _block_residual, _Plan
from ..solvers import auto, least_squares
from . import accumulate as accumulation
from . import find
from .results import KernelFit, NormalStats


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
    given = Selection(nan=nan, saturated=saturated)
    selection = PlaneSelection((mask,), ((image_mask,),), weights, given.nan, given.saturated)
    model = Model(
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    plan = _Plan(image, target, model, method, block, selection)
    total = plan.dask.delayed(NormalStats.of, pure=False)(plan.statistics())
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
    solver: "least_squares.Solver | str | None" = None,
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
    chosen = auto.as_solver(solver)
    given = Selection(nan=nan, saturated=saturated)
    selection = PlaneSelection((mask,), ((image_mask,),), weights, given.nan, given.saturated)
    model = Model(
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    plan = _Plan(image, target, model, method, block, selection)
    stats, notes = plan.judged(automatic=isinstance(saturated, str))
    fit: Estimate = least_squares.LeastSquares().solve(stats)
    refined = 0
    if least_squares.rounding_matters(stats, fit):
        while refined < _MOST_REFINEMENTS:
            before = fit.kernel
            found = plan.total(_block_residual, before).compute()
            stats = stats.centered(before.ravel(), found[:-1], float(found[-1]))
            fit = least_squares.LeastSquares().solve(stats)
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
    return KernelFit.of(deferred_reads.looked_at(plan.observation, plan.boxed, fit, stats, plan.dask.compute))
