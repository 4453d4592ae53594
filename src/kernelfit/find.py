"""The front door: it calls the rooms in order and does no mathematics."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from . import noise, pair, solve
from .accumulation import Progress, residual_moments, resolve, statistics
from .geometry import Shape
from .image_noise import counts_of, finish, shared, take_off
from .result import KernelFit
from .sandwich import with_scores
from .spectra import spectral_statistics
from .wiener import as_balance

_MOST_REFINEMENTS = 3
_WHOLE = 2**20  # pixels up to which data that are not periodic are transformed whole


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
    method: str = "auto",
    solver: "solve.Solver | str | None" = None,
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
    image : array_like, shape (rows, cols)
        The image before. Any real dtype and memory layout, memory-mapped files included; it is read in blocks,
        converted to float64 one block at a time, and never changed.
    target : array_like
        What became of it; its shape is the image's (`mode` "same"), smaller by side - 1 ("valid") or larger by
        side - 1 ("full") along each axis.
    shape : int or (int, int)
        Rows and columns of the kernel, odd or even.
    mode : {"same", "valid", "full"}, optional
        How the two lie on each other. The default is to infer it from the shapes.
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
        boundary makes of it, is taken off, as far as the image's detail allows. Default 0.
    errors : {"plain", "sandwich"}, optional
        What noise the error bars are for: white noise (the default), or noise correlated from pixel to pixel as
        the residual is, which takes about two more passes (see `sandwich_errors`). With "plain" a sample of the
        residual is looked at, and the verdict says so if the error bars cannot be trusted.
    balance : float or "auto", optional
        For ``method="wiener"``: how much the penalty counts against the data, without dimension, relative to the
        mean over all frequencies of the image's power spectrum (its mean removed, unless the data are periodic).
        The default "auto" takes the balance with the smallest estimated error of the kernel; `Spectrum.balance`
        tells which.
    detrend, taper : optional
        For ``method="wiener"``: as in `accumulate_spectra`.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.
    tolerance : float, optional
        For method "cg": the error at which to stop, in units of the standard error that the noise causes, default 0.01.
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

    With ``method="wiener"`` the kernel is the inverse transform of
    ``conj(X) Y / (|X|^2 + balance * m * q)`` within the kernel's shape, X and Y the
    transforms of image and target, m the mean of ``|X|^2``, q the power of the Laplacian over its mean (Wiener's
    deconvolution: A. K. Jain, "Fundamentals of Digital Image Processing", 1989, section 8.3). For periodic data, which
    are boundary "wrap" and mode "full" with boundary "fill", it is exact. In every other case the edges make an
    error, 2 to 10 times that of the exact method on photographs, which tapers keep small and the verdict "approximate"
    tells. Pairs of more than 2^20 pixels that are not periodic are divided by blocks. The errors of the taps are
    root mean square ones: noise and misfit, frequency by frequency, plus what the balance holds back; those
    of kernels of more than 2500 taps are NaN, since their covariance would cost more than all the rest.

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
    """
    chosen = solve.as_solver(solver)
    if method != "wiener" and not all(isinstance(v, str) and v == "auto" for v in (balance, detrend, taper)):
        msg = f"got balance, detrend or taper with method={method!r}, which has no use for them; need method='wiener'"
        raise ValueError(msg)
    if errors not in ("plain", "sandwich"):
        msg = f"got errors={errors!r}, need 'plain' or 'sandwich'"
        raise ValueError(msg)
    if isinstance(image_noise, bool) or not (math.isfinite(image_noise) and image_noise >= 0):
        msg = f"got image_noise={image_noise!r}, need a standard deviation of at least 0, in units of the image"
        raise ValueError(msg)
    if (image_noise or errors != "plain") and method in ("cg", "wiener"):
        msg = f"got image_noise or errors='sandwich' with method={method!r}, need method='auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if tolerance is not None and method in ("direct", "fft", "wiener"):
        msg = f"got a tolerance with method={method!r}, which does not iterate; need method='cg' or 'auto'"
        raise ValueError(msg)
    problem = pair.check(
        image,
        target,
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
    )
    threads = pair.as_workers(workers)
    if method == "wiener":
        if solver is not None:
            msg = f"got method='wiener' with solver={solver!r}, need one or the other: 'wiener' is a solver of its own"
            raise ValueError(msg)
        as_balance(balance)
        block = "auto" if problem.geometry.n_pixels > _WHOLE and boundary is None else None
        return spectral_statistics(problem, block, detrend, taper, threads).solve(balance)
    choice = resolve(problem, method)
    if tolerance is not None and not 0 < tolerance < 1:
        msg = f"got tolerance={tolerance!r}, need a number between 0 and 1"
        raise ValueError(msg)
    if choice.method == "cg" and (image_noise or errors != "plain"):
        choice = choice._replace(method="fft", reason="errors in the image, or correlated ones, need the Gram matrix")
    if choice.method == "cg" and solver is not None:
        if method == "cg":
            msg = (
                f"got method='cg' with solver={solver!r}, need the default solver; or method='fft', if "
                "there is memory for it"
            )
            raise ValueError(msg)
        choice = choice._replace(method="fft", reason="the solver needs the Gram matrix")
    if choice.method == "cg":
        from . import large

        fit = large.find(problem, threads, tolerance, progress)
        fit = noise.look([problem], fit)
        return dataclasses.replace(fit, method=choice.method, method_reason=choice.reason)
    stats = statistics(problem, choice.method, threads, progress)[0]
    fit = stats.solve()
    refined = 0
    if solve.rounding_matters(stats, fit):
        while refined < _MOST_REFINEMENTS:
            before = fit.kernel
            moments, energies = residual_moments(problem, before[None, None], choice.method, threads, progress)
            stats = stats.centered(before.ravel(), moments[0], float(energies[0]))
            fit = stats.solve()
            refined += 1
            if np.linalg.norm(fit.kernel - before) <= 1e-6 * np.linalg.norm(fit.kernel):
                break
    observed, share, more = stats.gram, 1.0, None
    if image_noise:
        stats, share = take_off(stats, image_noise, counts_of(problem.geometry))
    if image_noise or solver is not None:
        fit = chosen.solve(stats)
    if image_noise:
        more = shared(fit, math.sqrt(share) * image_noise)
    if errors == "sandwich":
        fit = noise.correct([problem], fit, noise.examine([problem], fit), threads, stats.gram, more)
    else:
        fit = fit if more is None else with_scores(fit, stats.gram, fit.noise_std**2 * observed + more)
        fit = noise.look([problem], fit)
    if image_noise:
        fit = finish(fit, image_noise, share)
    return dataclasses.replace(fit, method=choice.method, method_reason=choice.reason, refined=refined)
