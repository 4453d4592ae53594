"""Pixels to statistics.

With the valid problem of `geometry`, ``G[p, q] = sum_t P[t + p] P[t + q]``. It depends on the lag ``q - p`` but for
what lies along the edges, so it is built in three steps:

1. the lag sums of the whole extended image, and ``b[p] = sum_t Y[t] P[t + p]``, in one pass over tiles (`engines`);
2. the lag sums of the strips ``side - 1`` pixels wide along each of the four edges (`edges`);
3. for each pair of taps, the lag sum less what lies outside the pair's box of target pixels (`edges`).
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .. import pair
from ..geometry import Shape
from ..pair import Array, Problem
from ..statistics import NormalStats
from . import edges
from .blas import one_blas_thread
from .choice import engine_of
from .engines import PASSES, Frame, Progress, Sums, add, counted
from .threads import in_order


def pass_over(
    problem: Problem,
    frame: Frame,
    method: str,
    workers: int,
    taps: Array | None,
    progress: Progress | None,
    also: "Sequence[Callable[[], tuple[Array, ...]]]" = (),
) -> tuple[Sums, list[Array]]:
    """Read all pixels once, for the sums of the pair or, with `taps`, of the residual; refuse NaN and overflow.

    The threads do the jobs of `also` as well, and what these return is returned in their order.
    """
    with np.errstate(all="ignore"):
        jobs, finish = PASSES[method](frame, taps)
        parts = iter(in_order([*jobs, *also], lambda job: job(), workers))
        sums = finish(*add(counted(itertools.islice(parts, len(jobs)), len(jobs), progress)))
        others = [part for more in parts for part in more]
        if not all(np.isfinite(a).all() for a in (sums.lags, sums.moment, sums.energy)):
            pair.refuse_nonfinite(problem)
    return sums, others


def statistics(problem: Problem, method: str, workers: int, progress: Progress | None = None) -> list[NormalStats]:
    """Return the statistics of a problem, one for each target."""
    plan = problem.geometry
    frame = Frame.of(problem)
    sums, strips = pass_over(problem, frame, method, workers, None, progress, edges.strip_jobs(frame, method))
    with np.errstate(all="ignore"):
        gram = edges.gram_matrix(frame, sums.lags, strips, workers)
    moments = frame.to_user(sums.moment).reshape(len(frame.targets), -1)
    return [
        NormalStats(
            gram=gram,
            moment=moments[t],
            target_energy=float(sums.energy[t]),
            target_sum=float(sums.total[t]),
            n_pixels=plan.n_pixels,
            terms=(plan.kernel_shape,) * len(problem.sources),
            convention=plan.convention,
        )
        for t in range(len(frame.targets))
    ]


def residual_moments(
    problem: Problem, kernels: Array, method: str, workers: int, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Return ``A'r`` and ``r'r`` of the residual ``r = y - A k`` taken from the pixels.

    Parameters
    ----------
    problem : Problem
        The pair.
    kernels : ndarray, shape (targets, sources, rows, cols)
        The kernel of each target and source.
    method : {"direct", "fft"}
        The engine.
    workers : int
        Number of threads.
    progress : callable, optional
        Told of each band of pixels.

    Returns
    -------
    moments : ndarray, shape (targets, taps)
    energies : ndarray, shape (targets,)
    """
    frame = Frame.of(problem)
    sums, _ = pass_over(problem, frame, method, workers, frame.from_user(kernels), progress)
    return frame.to_user(sums.moment).reshape(len(frame.targets), -1), sums.energy


@one_blas_thread
def accumulate(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape,
    *,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    stride: int | Shape = 1,
    offset: int | Shape = 0,
    mask: "npt.ArrayLike | None" = None,
    image_mask: "npt.ArrayLike | None" = None,
    weights: "npt.ArrayLike | None" = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = None,
    method: str = "auto",
    workers: int | None = None,
) -> NormalStats:
    """Read the pixels of a pair once and return everything least squares can learn from them.

    With the design matrix A, one row for each target pixel t that is used and one column for each tap p,
    ``A[t, p] = image[t - (p - origin)]`` (for correlation ``image[t + (p - origin)]``), and the target's pixels y,
    the statistics are the Gram matrix ``A'A``, the moment ``A'y``, ``y'y`` and the number of pixels. A itself is never
    formed: the work grows with the number of pixels times the shorter side of the kernel at most, the memory not
    with the image at all. With a stride there is a row for every stride-th pixel only.

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        The image before. Any real dtype and memory layout, memory-mapped files included; it is read in blocks,
        converted to float64 one block at a time, and never changed.
    target : array_like
        What became of it; its shape is the image's (`mode` "same"), smaller by side - 1 ("valid") or larger by
        side - 1 ("full") along each axis; with a stride of them, that many rounded up.
    shape : int or (int, int)
        Rows and columns of the kernel, odd or even.
    mode : {"same", "valid", "full"}, optional
        How the two lie on each other. The default is the first of them that the shapes allow.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lay beyond the edge when the target was made: `fillvalue`, the opposite edge, the image mirrored about its
        border ("symm", edge pixel repeated, or "mirror", not repeated), or the nearest pixel. The default None assumes
        nothing and uses only target pixels whose whole footprint lies inside the image.
    fillvalue : float, optional
        The value beyond the edge for ``boundary="fill"``, default 0.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel, for mode "same". The default is SciPy signal's
        centre, ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel is laid on the image flipped (default) or as it is.
    stride, offset : int or (int, int), optional
        Every how many pixels of what the kernel makes the target holds one, and which one first, as in `find_kernel`;
        all by default.
    mask, image_mask, weights, nan, saturated : optional
        Which target pixels count, and how much, as in `find_kernel`, but that `saturated` is None by default. The
        statistics are exact whatever they are, which may take long for weights that differ from pixel to pixel and
        kernels of hundreds of taps; `find_kernel` has a quicker way.
    method : {"auto", "direct", "fft"}, optional
        The engine; both give the same sums to rounding. The default is `choose_method`'s verdict.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.

    Returns
    -------
    NormalStats
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
    from ..weights import masks, weighted

    plain_image, image_masked = masks.unmasked(image)
    plain_target, target_masked = masks.unmasked(target)
    rules = masks.Rules(mask, image_mask, weights, nan, saturated, target_masked, image_masked)
    problem = pair.check(
        plain_image,
        plain_target,
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    threads = pair.as_workers(workers)
    if method in ("cg", "wiener"):
        msg = f"got method={method!r}, which forms no statistics; need 'auto', 'direct' or 'fft' (find_kernel takes it)"
        raise ValueError(msg)
    engine = engine_of(problem, method)
    judged = rules.judge(problem)
    if judged is not None:
        return weighted.statistics([judged.item], engine, threads)
    return statistics(problem, engine, threads)[0]
