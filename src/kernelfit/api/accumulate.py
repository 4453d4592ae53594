"""Statistics and spectra of a pair, and statistics of a stream of pairs, by their verbs."""

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Unpack

import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.dimensions import of_any_dimension
from ..core.geometry import Shape
from ..core.model import Execution, Model, Selection
from ..core.normal_equations import NormalEquations
from ..core.validation import as_workers, require_checkpoint
from ..data import blocks
from ..data.observation import NUMBERS, as_observation
from ..data.plan import make_plan
from ..engines.welch import spectral_statistics
from ..fitting.checkpoint import Checkpoint, KernelSums, Sums
from ..fitting.context import Context, ImageNoise
from ..fitting.rereading import StreamFitter, reweighted_stream
from ..fitting.statistics import gather
from ..fitting.stream import Stream, summed
from .keywords import Call, Keywords, call_of, takes_keywords
from .statistics import ChannelStats, NormalStats, SpectralStats, stats_of


@of_any_dimension
@takes_keywords()
@one_blas_thread
def accumulate(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape | Model | None = None,
    *,
    selection: Selection | None = None,
    execution: Execution | None = None,
    **keywords: Unpack[Keywords],
) -> NormalStats | ChannelStats:
    """Read the pixels of a pair once and return everything least squares can learn from them.

    With the design matrix A, one row for each target pixel t that is used and one column for each tap p,
    ``A[t, p] = image[t - (p - origin)]`` (for correlation ``image[t + (p - origin)]``), and the target's pixels y,
    the statistics are the Gram matrix ``A'A``, the moment ``A'y``, ``y'y`` and the number of pixels. A itself is never
    formed: the work grows with the number of pixels times the shorter side of the kernel at most, the memory not
    with the image at all. With a stride there is a row for every stride-th pixel only.

    Beside the sums stand a few tiles of the pixels, so that `NormalStats.solve` judges the residual as `find_kernel`
    does, and what it takes to find the background.

    Parameters
    ----------
    image : array_like, shape (rows, cols), or list of arrays
        The image before, as in `find_kernel`; it is read in blocks, converted to float64 one block at a time, and never
        changed.
    target : array_like, or list of arrays
        What became of it.
    shape : int, (int, int) or Model
        Rows and columns of the kernel, odd or even; or the whole `Model`, beside which its fields are not given again.
    selection : Selection, optional
        Which target pixels count, instead of its fields one by one. The statistics are exact whatever they are, which
        may take long for weights that differ from pixel to pixel and kernels of hundreds of taps; `find_kernel` has a
        quicker way.
    execution : Execution, optional
        How to run, instead of its fields one by one.
    **keywords
        The fields of `Model`, `Selection`, `Noise` and `Execution`, flat. With `noise` or `robust` the statistics are
        those with the weights of the last residual. What the noise of the image adds is taken off, as
        `NormalStats.without_image_noise` does. There are no statistics for ``errors="sandwich"``, and none for the
        methods "cg" and "wiener".

    Returns
    -------
    NormalStats or ChannelStats
        The statistics; those of other pairs that share the kernel can be added with ``+``. With channels "separate" and
        "mixed" there are several kernels, and a `ChannelStats` with the statistics of each.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type.
    ValueError
        If the shapes fit no mode, the pixels are too few for the taps, a pixel is NaN or infinite, or a keyword's
        value is unknown.

    See Also
    --------
    find_kernel : accumulate, solve and refine in one call.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((40, 50))
    >>> target = 0.5 * image[:, :-2]
    >>> stats = kernelfit.accumulate(image, target, (1, 3))
    >>> stats.n_pixels, stats.gram.shape
    (1920, (3, 3))
    >>> np.round(stats.solve().kernel, 6) + 0.0
    array([[0. , 0. , 0.5]])
    """
    call = call_of(shape, keywords, verb="accumulate", selection=selection, execution=execution)
    plan = make_plan(image, target, call.model, call.selection, kinds=NUMBERS)
    return stats_of(gather(plan, call.noise, call.execution, call.solver))


@of_any_dimension
def accumulate_spectra(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape,
    *,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    block: int | Shape | str | None = None,
    detrend: str | None = "auto",
    taper: float | str = "auto",
    workers: int | None = None,
) -> SpectralStats:
    """Transform a pair, whole or block by block, and return the power and cross spectra.

    With X and Y the transforms of the image and of the target under it, the statistics are the sums over blocks of
    ``|X|^2``, ``|Y|^2`` and ``conj(X) Y``. Where the data are periodic (boundary "wrap", or "fill" in mode "full") and
    taken whole, ``Y = K X`` holds exactly; everywhere else it is an approximation, made good by tapers.

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        The image before. Any real dtype and memory layout; never changed.
    target : array_like
        What became of it; its shape is the image's (`mode` "same"), smaller by side - 1 ("valid") or larger by
        side - 1 ("full") along each axis.
    shape : int or (int, int)
        Rows and columns of the kernel, odd or even.
    mode : {"same", "valid", "full"}, optional
        How the two lie on each other. The default is to infer it from the shapes.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lay beyond the edge when the target was made; as in `find_kernel`.
    fillvalue : float, optional
        The value beyond the edge for ``boundary="fill"``, default 0.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel, for mode "same". The default is SciPy signal's
        centre, ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel is laid on the image flipped (default) or as it is.
    block : None, "auto", int or (int, int), optional
        Rows and columns of a block. The default None transforms the image whole; "auto" takes blocks of at least 16
        times the kernel's sides (Welch's method), in memory that does not grow with the image. A block larger
        than the image is filled up with zeros.
    detrend : {"auto", "mean", None}, optional
        Whether the mean of each image is removed first. The default "auto" does so unless the data are periodic and
        whole. Without it the mean, which in photographs outweighs all the rest, leaks through the tapers.
    taper : float or "auto", optional
        Share of each side of a block over which it fades to zero, half of it at each end (Tukey's window). The default
        "auto" is 0 for periodic data taken whole and 0.25 otherwise. On photographs 0.25 to 0.5 divide the error by
        about ten against none; on an image that fades to a constant by itself tapers only cost data.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    SpectralStats
        The statistics; those of other pairs that share the kernel can be added with ``+``.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type.
    ValueError
        If the shapes fit no mode, the pixels are too few for the taps, a pixel is NaN or infinite, or a keyword's
        value is unknown.

    See Also
    --------
    find_kernel : with ``method="wiener"`` accumulates and divides in one call.

    Notes
    -----
    P. D. Welch, "The use of fast Fourier transform for the estimation of power spectra", IEEE Trans. Audio
    Electroacoust. 15 (1967) 70, doi:10.1109/TAU.1967.1161901.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((300, 400))
    >>> stats = kernelfit.accumulate_spectra(image, image[1:-1, 1:-1], 3, block=64)
    >>> stats.n_blocks, stats.cross.shape
    (42, (64, 33))
    >>> np.round(stats.solve().kernel, 2) + 0.0
    array([[0., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]])
    """
    model = Model(shape, mode=mode, boundary=boundary, fillvalue=fillvalue, origin=origin, operation=operation)
    observation = as_observation(image, target, model)
    return SpectralStats.of(spectral_statistics(observation, block, detrend, taper, as_workers(workers)))


@of_any_dimension
@takes_keywords()
@one_blas_thread
def accumulate_stream(
    pairs: Iterable[Any] | Callable[[], Iterable[Any]],
    shape: int | Shape | Model | None = None,
    *,
    selection: Selection | None = None,
    execution: Execution | None = None,
    block: int | Shape | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    **keywords: Unpack[Keywords],
) -> NormalStats | ChannelStats:
    """Read a stream of pairs that share a kernel, or one pair of any size, and return the sum of their statistics.

    Each pair is cut into blocks of target pixels, which read their own surroundings. The statistics of the blocks are
    those of `accumulate` and add up to ``A'A``, ``A'y``, ``y'y`` and n of all of them, in an order that the
    stream alone decides: any number of workers, and any number of interruptions, give the same bits.

    Parameters
    ----------
    pairs : iterable of (image, target) or (image, target, mask), or of dict; or a function that returns one
        Each as in `accumulate`: arrays, memory-mapped files, or anything else that can be sliced (h5py, Zarr,
        tifffile's Zarr view, Dask), which is never loaded whole. Tiles of one large image are pairs whose image is
        larger than the target by ``side - 1`` (mode "valid"). A generator is asked for few pairs more than there are
        threads ahead of time. For one large pair give ``[(image, target)]``. The mask is True where a pixel of the
        target is excluded; None is no mask. A dict has the keys "image" and "target" and, if need be, "mask",
        "image_mask" and "weights", which are what they are in `find_kernel` and may be arrays that are sliced, too.

        What is no iterator (a list, a function that opens the stream anew) is read again where that is needed: for
        `noise` and `robust`, with all pixels once for each round, and where rounding could matter beside the noise. An
        iterator, such as a generator, is read once.
    shape : int, (int, int) or Model
        Rows and columns of the kernel; or the whole `Model`, beside which its fields are not given again.
    selection : Selection, optional
        Which target pixels count, instead of its fields one by one. Masks and weights are for all pairs, or lists with
        those of each; a pair may bring its own instead.
    execution : Execution, optional
        How to run, instead of its fields one by one. Unless `workers` is 1 there are twice as many threads, since some
        of them wait for their pixels. `progress` is called as ``progress("reading pixels", done, total)`` after each
        block; total counts the blocks of the pairs seen so far, and as many for each pair to come if `pairs` has a
        length.
    block : int or (int, int), optional
        Rows and columns of a block of target pixels. The default is some 1024 rows of 8 KiB, less for small images,
        and follows the chunks in which the target is stored.
    checkpoint : path-like, optional
        A file to which the sums, and what is in them, are written now and then, in one step. If it exists, the run
        goes on from there: the same call with the same pairs ends with the same bits as if it had never been
        interrupted. Of pairs that are in it only a few pixels are read, to see that they are the same; but what needs
        all pixels again, after the first sums, begins anew. An interrupted run (by ctrl-C or an error in a pair) writes
        once more before it ends.
    every : float, optional
        Seconds between two checkpoints, default 30; 0 writes after each block.
    **keywords
        The fields of `Model`, `Selection`, `Noise` and `Execution`, flat, as in `accumulate`. A mode that is left out
        is inferred for each pair. Each pair has a background of its own.

    Returns
    -------
    NormalStats or ChannelStats
        The statistics, as those of `accumulate`; ``.solve()`` makes a kernel of them. The convention is that of the
        first pair.

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
    call = call_of(shape, keywords, verb="accumulate_stream", selection=selection, execution=execution)
    sides, threads, progress = blocks.as_block(block), call.execution.threads, call.execution.progress
    require_checkpoint(checkpoint, every)
    if isinstance(pairs, tuple) and len(pairs) == 2 and all(getattr(a, "ndim", 0) >= 2 for a in pairs):
        raise TypeError("got one pair of images, need an iterable of pairs; write [(image, target)]")
    stream = Stream(pairs, call.model, call.selection, call.noise, call.execution, sides)
    stream.require(call.solver)
    state = None if checkpoint is None else Checkpoint(checkpoint, settings_of(call, sides), every)
    sums = Sums() if state is None else state.sums
    with contextlib.nullcontext() if state is None else state.running():
        for work in summed(stream, state, sums, threads):
            stream.n_done += work.n_blocks
            if state is not None:
                state.digest = work.digest
                state.goes_on(*((work.pair + 1, 0) if work.last else (work.pair, work.block + 1)))
            if progress is not None:
                progress("reading pixels", stream.n_done, stream.total())
        if not sums:
            raise ValueError("got no pairs, need at least one (image, target); was the generator used up before?")
    return stats_of([_finished(stream, call, *place, sums[place]) for place in sorted(sums)])


def settings_of(call: Call, block: Shape | None) -> dict[str, Any]:
    """Return what the sums of a checkpoint depend on, beside the pairs."""
    model = {name: getattr(call.model, name) for name in Model.__dataclass_fields__}
    given = {"nan": call.selection.nan, "saturated": call.selection.saturated}
    return {**model, **given, "method": call.execution.engine, "block": block, "image_noise": call.noise.image_std}


def _finished(stream: Stream, call: Call, group: int, target: int, sums: KernelSums) -> tuple[NormalEquations, Context]:
    """Return the statistics of one kernel, refined or reweighted if that takes the pixels again."""
    stats, model = sums.whole.total(), call.model
    assert stats is not None
    if stats.n_pixels < stats.n_taps:
        sides = "x".join(map(str, model.kernel_shape))
        raise ValueError(
            f"{stats.n_pixels} target pixels of {stream.n_pairs} pairs cannot determine the {stats.n_taps} taps of a "
            f"{sides} kernel; ask for a smaller shape, give more pairs, or exclude less"
        )
    context = Context(
        None if model.channel_axis is None else model.channels,
        model.channel_axis,
        stream.n_pairs,
        listed=True,
        n_observations=stream.n_pairs * stream.group_sizes[group],
        method=sums.method,
        notes=sums.notes(stats),
        tiles=sums.tiles,
    )
    fitter = StreamFitter(stream, group, target, stats, sums.tiles, call.execution.threads, call.execution.progress)
    if call.noise.reweighted:
        return reweighted_stream(fitter, call.noise, context)
    if stream.again:
        stats, refined = fitter.refined()
        context = replace(context, refined=refined)
    if sums.noise is not None:
        stats, noise = ImageNoise(call.noise.image_std, sums.noise, sums.pairs).taken_off(stats)
        context = replace(context, noise=noise)
    return stats, context
