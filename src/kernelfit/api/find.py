"""The front door: it calls the rooms in order and does no mathematics."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy.typing as npt

from ..compiled.blas import one_blas_thread
from ..compiled.threads import Progress
from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.validation import as_workers, require_progress
from ..data import masking
from ..data.observation import Observation
from ..data.plan import make_plan
from ..diagnostics import quantization, whiteness
from ..diagnostics.boundary import doubt
from ..engines.cost_model import Choice, resolve
from ..engines.welch import spectral_statistics
from ..fitting import iterative, joint, reweighting
from ..fitting.channels import join
from ..fitting.requirements import check_errors, check_settings, check_stride
from ..solvers import auto, least_squares
from ..solvers.wiener import as_balance, divide
from .results import KernelFit

_WHOLE = 2**20  # pixels up to which data that are not periodic are transformed whole


@one_blas_thread
def find_kernel(
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
    channel_axis: int | None = None,
    channels: str = "shared",
    background: int | None = None,
    mask: "npt.ArrayLike | None" = None,
    image_mask: "npt.ArrayLike | None" = None,
    weights: "npt.ArrayLike | None" = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = "auto",
    noise: "str | tuple[float, float]" = "constant",
    robust: str | None = None,
    method: str = "auto",
    solver: "least_squares.Solver | str | None" = None,
    image_noise: float = 0.0,
    errors: str = "plain",
    balance: float | str = "auto",
    detrend: str | None = "auto",
    taper: float | str = "auto",
    workers: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> KernelFit:
    """Find the convolution kernel that lies between an image and what became of it.

    The kernel k minimises the sum over the target pixels t that are used of
    ``(target[t] - sum_p k[p] image[t - (p - origin)])^2`` (for correlation ``image[t + (p - origin)]``): exactly, edges
    included, with the error of each tap. It is the one to hand to ``scipy.signal.convolve2d(image, kernel, ...)``.

    Parameters
    ----------
    image : array_like, shape (rows, cols), or list of arrays
        The image before. Any real dtype and memory layout, memory-mapped files included; it is read in blocks,
        converted to float64 one block at a time, and never changed. Three dimensions with `channel_axis`. A list of
        arrays of any sizes for several pairs that share one kernel.
    target : array_like, or list of arrays
        What became of it; its shape is the image's (`mode` "same"), smaller by side - 1 ("valid") or larger by
        side - 1 ("full") along each axis; with a stride of them, that many rounded up. A list of as many targets as
        there are images.
    shape : int or (int, int)
        Rows and columns of the kernel, odd or even.
    mode : {"same", "valid", "full"}, optional
        How the two lie on each other. The default is the first of them that the shapes allow; with a stride it may be
        more than one.
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
        Whether the kernel is laid on the image flipped (default) or as it is, as `scipy.ndimage.correlate`, OpenCV's
        ``filter2D`` and a deep-learning ``conv2d`` do.
    stride : int or (int, int), optional
        Of what the kernel makes of the image the target holds every stride-th pixel, along rows and columns, as after
        downsampling: ``[offset[0]::stride[0], offset[1]::stride[1]]``. Default 1. The kernel's taps are pixels of the
        image.
    offset : int or (int, int), optional
        Which pixel the target starts with, ``0 <= offset < stride``, default 0.
    channel_axis : int, optional
        The axis of image and target that holds the channels (colours, bands), such as -1. The default None is for
        images of one plane.
    channels : {"shared", "separate", "mixed"}, optional
        With `channel_axis`: one kernel for all channels (default), one for each, of shape (channels, rows, cols), or
        one from each channel of the image to each of the target, of shape (target's channels, image's channels, rows,
        cols).
    background : int, optional
        Degree of a polynomial surface, for each target and channel its own, that is fitted together with the kernel and
        never penalised: 0 for a constant, 1 for a plane. It is found on `KernelFit.background`. The default is
        none. `KernelFit.r_squared` is then the share of what the surface leaves.
    mask : array_like of bool, optional
        True where a target pixel is excluded, as in `numpy.ma`; of the target's shape, or what broadcasts to it. What
        stands there changes no bit of the result. Masked arrays bring their own. For several pairs a list, as all of
        the next ones; for channels a plane for all of them, or one for each.
    image_mask : array_like of bool, optional
        True where an image pixel is bad: every target pixel whose footprint touches it is excluded.
    weights : array_like, optional
        Inverse variance of each target pixel, at least 0, in any unit: only ratios matter to the kernel, and
        `KernelFit.noise_std` is that of a pixel of weight 1. A mask is a weight of zero.
    nan : {"error", "mask"}, optional
        What to do with pixels that are NaN or infinite and not masked: refuse them (default), or mask them.
    saturated : {"auto", None} or (low, high), optional
        Which target pixels are saturated, and so excluded: those at `low` or below and at `high` or above, either of
        which may be None. The default "auto" means the two ends of the range of an integer target's type, unless nearly
        all of the target stands there, and nothing for other targets, for kernels of thousands of taps, or for methods
        "cg" and "wiener". `KernelFit.notes` says how many.
    noise : {"constant", "poisson"} or (gain, read_noise), optional
        How noisy the target's pixels are: all alike (default), or with the variance of photon noise,
        ``prediction / gain + (read_noise / gain)^2``, for a gain in electrons per unit of the target and a read noise
        in electrons; "poisson" is a gain of 1 without read noise. The weights come from the fit's own
        prediction, iteratively; predictions below 1 % of their mean count as that.
    robust : {None, "huber", "tukey", "clip"}, optional
        Hold outliers in the target down: in proportion to their distance ("huber"), to nothing by and by ("tukey"), or
        at once, beyond 4 standard deviations ("clip", the best of them for outliers far out). The scale is the median
        absolute residual, times 1.4826. The verdict says so if the image's detail is in so few pixels that which of
        them count decides the kernel.
        `KernelFit.weights` are the weights finally used.
    method : {"auto", "direct", "fft", "cg", "wiener"}, optional
        The engine that reads the pixels; "direct" and "fft" give the same sums to rounding. "cg", for kernels of
        thousands of taps, solves by conjugate gradients without ever forming the Gram matrix; then the standard errors
        are approximate, and there is no covariance. "wiener" is another estimator, quick and approximate: division by
        frequency (see Notes). The default is `choose_method`'s verdict among the first three.
    solver : solver or "auto", optional
        What makes a kernel of the statistics: `LeastSquares()` (the default, unbiased), `Penalized`,
        `GaussianProcess`, `NonNegative`, `Constrained`, `InBasis`, `Sparse`, any object with a method
        ``solve(stats)``, or "auto", which picks one and says why.
    image_noise : float, optional
        Standard deviation of the noise of an image pixel, if the image has noise of its own (another exposure, not the
        very array the target was made from): white, and independent of that of the target. It makes the kernel of
        least squares too small; what it adds to the Gram matrix, ``n image_noise^2`` on the diagonal or what the
        boundary makes of it, is taken off, as far as the image's detail allows; n counts what a mask leaves. Not with
        weights that differ, which do not know of it. Default 0.
    errors : {"plain", "sandwich"}, optional
        What noise the error bars are for: white noise (the default), or noise correlated from pixel to pixel as
        the residual is, which takes about two more passes, with a mask or weights some more (see `sandwich_errors`).
        With "plain" a sample of the residual is looked at, and the verdict says so if the error bars cannot be trusted.
    balance : float or "auto", optional
        For ``method="wiener"``: how much the penalty counts against the data, without dimension, relative to the
        mean over all frequencies of the image's power spectrum (its mean removed, unless the data are periodic).
        The default "auto" takes the balance with the smallest estimated error of the kernel, none if that gains
        less than 1 %; `Spectrum.balance` tells which.
    detrend, taper : optional
        For ``method="wiener"``: as in `accumulate_spectra`.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.
    tolerance : float, optional
        For method "cg", and for weights: the error at which to stop iterating, in units of the standard error that the
        noise causes, default 0.01.
    progress : callable, optional
        Called as ``progress(stage, done, total)`` now and then, with the name of what is being done and how far it is.

    Returns
    -------
    KernelFit
        The kernel with its standard errors, the residual, and `KernelFit.verdict`: what there is to doubt.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type.
    ValueError
        If the shapes fit no mode, the pixels are too few for the taps, a pixel is NaN or infinite, or a keyword's
        value is unknown.

    Notes
    -----
    The normal equations square the condition number of the problem. Where rounding could matter beside the noise, the
    pixels are read once more, the residual of the first solution is taken from them, and the solution is corrected
    (iterative refinement: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., chapters 12 and 20).
    `KernelFit.refined` says how often.

    With weights, a mask or outliers the normal equations are weighted ones, which lack the structure that makes the
    plain ones cheap. `KernelFit.weighting` names the way that was taken: "subtract" takes the patches of the pixels
    whose weight differs from the usual one off the plain equations, "patches" adds up the patches of all pixels that
    count, and both are exact; "iterate" solves by conjugate gradients, to `tolerance`, with standard errors that are
    approximate, mostly within some per cent. It needs arrays of the target's size: a byte for each pixel for a mask, 8
    for weights, and 16 more for `noise` and `robust`; none for saturated pixels, which the target itself tells.

    With ``method="wiener"`` the kernel minimises ``sum_f |Y - K X|^2 + balance * m * q |K|^2``, X, Y and K the
    transforms of image, target and kernel, m the mean of ``|X|^2``, q the power of the Laplacian over its mean.
    Among kernels as large as the image that is Wiener's division ``conj(X) Y / (|X|^2 + balance * m * q)`` (A. K.
    Jain, "Fundamentals of Digital Image Processing", 1989, section 8.3). Up to 1024 taps the minimum is taken among
    kernels of the shape asked for, from equations that the same spectra give; larger ones are cropped from the
    division, which is less accurate. For periodic data, which are boundary "wrap" and mode "full" with boundary
    "fill", nothing is approximate, and the balance makes the error smaller than that of least squares. In every
    other case the edges make an error, which tapers and the overlap of the tapers keep small and the verdict
    "approximate" tells. Pairs of more than 2^20 pixels that are not periodic are divided by blocks. The errors of
    the taps are root mean square ones, from noise and misfit, frequency by frequency, plus what the balance holds
    back: within a factor of two of the truth in simulations with 1 % noise and kernels of 5 to 31 taps a side. With
    less noise the edges make most of the error, of which symmetric kernels hide their part: there the errors told
    were up to 14 times too small. Kernels of more than 1024 taps have none (NaN): cropping makes an error of its own
    that the spectra do not tell.

    Examples
    --------
    >>> import numpy as np, scipy.signal, kernelfit
    >>> image = np.random.default_rng(0).random((50, 60))
    >>> kernel = np.array([[0.1, 0.2], [0.3, 0.4], [0.0, -0.5]])
    >>> target = scipy.signal.convolve2d(image, kernel, mode="same")
    >>> fit = kernelfit.find_kernel(image, target, (3, 2), boundary="fill")
    >>> np.round(fit.kernel, 9) + 0.0
    array([[ 0.1,  0.2],
           [ 0.3,  0.4],
           [ 0. , -0.5]])
    >>> fit.verdict.value
    'solved'

    The filter with which an image was made smaller, here the mean of blocks of two rows by three columns:

    >>> small = image.reshape(25, 2, 20, 3).mean(axis=(1, 3))
    >>> fit = kernelfit.find_kernel(image, small, (2, 3), stride=(2, 3), offset=(1, 1))
    >>> np.round(fit.kernel, 6)
    array([[0.166667, 0.166667, 0.166667],
           [0.166667, 0.166667, 0.166667]])
    """
    chosen = None if solver is None else auto.as_solver(solver)
    images, image_masked = masking.unmasked(image)
    targets, target_masked = masking.unmasked(target)
    rules = masking.Rules(mask, image_mask, weights, nan, saturated, target_masked, image_masked)
    wanted = reweighting.wanted(rules, noise, robust)
    check_settings(method, solver, tolerance, (balance, detrend, taper), channels, background, wanted)
    check_stride(method, stride, offset)
    check_errors(image_noise, errors, method, channels, background, reweighting.uneven(rules, noise, robust))
    asked = make_plan(
        images,
        targets,
        shape,
        channel_axis=channel_axis,
        channels=channels,
        background=background,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    threads = as_workers(workers)
    require_progress(progress)
    if method == "wiener":
        as_balance(balance)

    def fits_of(group: int, observations: Sequence[Observation]) -> list[Estimate]:
        if method == "wiener":
            sums = [spectral_statistics(p, _block(p), detrend, taper, threads) for p in observations]
            return [divide(functools.reduce(lambda a, b: a + b, sums), balance, "laplacian", threads)]
        choice = resolve(max(observations, key=lambda p: p.geometry.n_pixels), method)
        # saturation alone is no reason to form a Gram matrix of thousands of taps
        unweighed = choice.method == "cg" and wanted is None
        judged = None if unweighed else reweighting.judge(asked, group, rules, noise, robust)
        if judged is not None:
            if choice.method == "cg":
                choice = Choice("fft", "the Gram matrix is needed for the weights")
            fits = reweighting.fits(
                judged,
                choice,
                chosen,
                threads,
                noise=noise,
                robust=robust,
                tolerance=tolerance,
                progress=progress,
                image_noise=image_noise,
                errors=errors,
            )
            if robust is not None or any(fit.weights is None for fit in fits):  # as the fit's notes say
                return fits
            each = zip(judged, fits, strict=True)
            return [doubt([j.item.observation for j in one], [fit])[0] for one, fit in each]
        if choice.method == "cg":
            needs = (
                "what is asked of the errors" if image_noise or errors != "plain" else _needs_gram(observations, solver)
            )
            if needs is None:
                fit = iterative.find(observations[0], threads, tolerance, progress)
                fit = dataclasses.replace(fit, method=choice.method, method_reason=choice.reason)
                fit = whiteness.look(observations, fit)
                return doubt(observations, [fit])
            if method == "cg":
                msg = f"got method='cg' with {needs}, need a single one; or method='fft', if there is memory for it"
                raise ValueError(msg)
            choice = Choice("fft", f"the Gram matrix is needed for {needs}")
        fits = joint.fit(observations, choice, chosen, threads, progress, image_noise=image_noise, errors=errors)
        return doubt(observations, fits)

    def checked(group: int, observations: Sequence[Observation]) -> list[Estimate]:
        fits = fits_of(group, observations)
        return [quantization.judged(fit, observations, t, threads) for t, fit in enumerate(fits)]

    return KernelFit.of(join([checked(group, observations) for group, observations in enumerate(asked.groups)], asked))


def _needs_gram(observations: Sequence[Observation], solver: object) -> str | None:
    """Say what conjugate gradients cannot do, None if they can."""
    if solver is not None:
        return "the solver"
    if observations[0].background is not None:
        return "the background"
    if len(observations) > 1:
        return f"{len(observations)} planes that share a kernel"
    return "several sources" if len(observations[0].sources) > 1 or len(observations[0].targets) > 1 else None


def _block(observation: Observation) -> str | None:
    """Say how data that are not periodic are cut for the spectral method: whole up to a size, then in blocks."""
    return (
        "auto" if observation.geometry.n_pixels > _WHOLE and observation.geometry.convention.boundary is None else None
    )
