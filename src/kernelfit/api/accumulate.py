"""Statistics and spectra of a pair, by their verbs."""

from typing import Unpack

import numpy.typing as npt

from ..compiled.blas import one_blas_thread
from ..core.dimensions import of_any_dimension
from ..core.geometry import Shape
from ..core.model import Execution, Model, Selection
from ..core.validation import as_workers
from ..data.observation import NUMBERS, as_observation
from ..data.plan import make_plan
from ..engines.welch import spectral_statistics
from ..fitting.statistics import gather
from .keywords import Keywords, call_of, takes_keywords
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
