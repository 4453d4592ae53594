"""Statistics of a stream of pairs: the verb."""

import contextlib
import operator
import os
from collections.abc import Iterable
from typing import Any

from ..compiled.blas import one_blas_thread
from ..compiled.threads import Progress
from ..core import validation
from ..core.geometry import Shape
from ..core.model import Model, Selection
from ..core.normal_equations import NormalEquations
from ..core.validation import as_workers, require_progress
from ..data import blocks
from ..data.blocks import Tree
from ..fitting.stream import Checkpoint, _computed, _Stream
from .results import NormalStats


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
    kernel = model.kernel_shape
    keywords = {name: getattr(model, name) for name in ("mode", "boundary", "fillvalue", "origin", "operation")}
    if model.strided:
        keywords |= {"stride": model.stride, "offset": model.offset}
    Selection(nan=nan, saturated=saturated)
    validation.known(method, ("auto", "direct", "fft"), "method")
    sides = blocks.as_block(block)
    threads = as_workers(workers)
    require_progress(progress)
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
    tree = Tree[NormalEquations](operator.add) if state is None else state.tree
    stream = _Stream(pairs, model, (nan, saturated), method, sides, state)
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
    return NormalStats.of(total)
