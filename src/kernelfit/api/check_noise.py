"""The verbs that look at the noise of a fit."""

import dataclasses

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.complex_numbers import raised, taken_apart
from ..core.dimensions import of_any_dimension
from ..core.estimate import Estimate, require_fit
from ..core.model import Selection, model_of
from ..core.validation import as_list, as_workers
from ..data import masking
from ..data.observation import NUMBERS, Observation, WeightedObservation, Weights, of_target
from ..data.plan import make_plan
from ..data.warp import laid_on
from ..diagnostics import score_covariance
from ..diagnostics.whiteness import NoiseCheck, examine, shaping_filter
from .results import KernelFit


@of_any_dimension
@one_blas_thread
def check_noise(image: npt.ArrayLike, target: npt.ArrayLike, fit: KernelFit) -> NoiseCheck | tuple[NoiseCheck, ...]:
    """Look whether the residual of a fit is white, which plain error bars take for granted.

    A few tiles of the residual r are taken from the pixels, at places fixed by the shapes. Their autocovariance, the
    mean c[d] of ``r[t] r[t + d]``, is compared with what independent residuals would show, the root of
    ``sum of (r[t] r[t + d])^2`` over the number of pairs, also where the noise is louder in some places than in others.

    Parameters
    ----------
    image, target : array_like, or lists of them
        The pair the kernel was found in, or the pairs.
    fit : KernelFit
        What was found; any solver's.

    Returns
    -------
    NoiseCheck
        The autocovariance, how far it reaches and how much it matters; of a fit with `parts` a tuple, one for each. Of
        complex residuals it is the mean of that of the real and that of the imaginary parts, which `NoiseCheck.parts`
        tells apart where the noise is not circular.

    Raises
    ------
    TypeError
        If a dtype is not one of numbers.
    ValueError
        If the pair does not go with the fit's convention.

    Notes
    -----
    A residual is also correlated where the kernel is wider than the shape asked for, where the boundary is not the one
    declared, or where the filter is not linear.

    References
    ----------
    G. Box, G. Jenkins and G. Reinsel, "Time Series Analysis", 4th ed. (2008), section 8.2.1,
    doi:10.1002/9781118619193.

    Examples
    --------
    >>> import numpy as np, scipy.ndimage, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((150, 160))
    >>> noise = scipy.ndimage.uniform_filter(rng.normal(size=image.shape), 3)
    >>> target = scipy.ndimage.uniform_filter(image, (3, 5)) + 0.1 * noise
    >>> check = kernelfit.check_noise(image, target, kernelfit.find_kernel(image, target, (3, 5)))
    >>> check.coloured, check.autocorrelation[8, 9].round(1)  # neighbours along a row
    (True, np.float64(0.7))
    """
    checks = [examine(observations, one, weights) for one, observations, weights in _items_of(image, target, fit)]
    return checks[0] if len(checks) == 1 else tuple(checks)


@of_any_dimension
@one_blas_thread
def sandwich_errors(
    image: npt.ArrayLike, target: npt.ArrayLike, fit: KernelFit, *, workers: int | None = None
) -> KernelFit:
    """Return a fit with error bars that hold for noise correlated from pixel to pixel.

    Plain error bars come of ``cov(A'v) = s^2 A'A``, which is so for white noise v only. If v has the autocovariance
    ``c = h * h`` (`check_noise` finds it), ``cov(A'v)`` is nearly the Gram matrix M of the image filtered by h, and
    the covariance of least squares becomes ``G^-1 M G^-1``, the sandwich. The kernel stays as it is.

    Parameters
    ----------
    image, target : array_like, or lists of them
        The pair the kernel was found in, or the pairs.
    fit : KernelFit
        What was found. A posterior covariance C becomes ``C - C G C / s^2 + C M C / s^4``: the expected squared error
        under the same prior.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    KernelFit
        The same kernel with other error bars; `KernelFit.errors` is "sandwich".

    Raises
    ------
    TypeError
        If a dtype is not one of numbers.
    ValueError
        If the pair does not go with the fit's convention, or the fit has no covariance because it was found
        iteratively.

    Notes
    -----
    M takes the noise to be stationary and is taken from the pixels further from the edges than h reaches. The
    autocovariance counts up to eight pixels, with less weight from its own reach on. Of images of more than 2^22 pixels
    16 blocks of 512 x 512 pixels are taken, of volumes of as many 8 blocks of 80 x 80 x 80. The cost is about that of
    two passes over the pixels. In volumes the residual is looked at in runs of nine neighbouring planes.

    With weights w, which are the fit's own, the noise is taken to be stationary after multiplication by ``sqrt(w)``:
    with a mask noise of one kind everywhere, of which some pixels are not seen. Then M holds to the edges, but costs
    taps^2 multiply-adds for each pixel, of a sample of them beyond 2^18. So it is with several source images, and
    beside a background, whose coefficients have error bars for the same noise.

    References
    ----------
    H. White, "Asymptotic Theory for Econometricians", 2nd ed. (2001), section 6.1; D. Politis and J. Romano, "On
    flat-top kernel spectral density estimators for homogeneous random fields", J. Stat. Plan. Inference 51 (1996),
    section 2, doi:10.1016/0378-3758(95)00069-0.

    Examples
    --------
    >>> import numpy as np, scipy.ndimage, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = scipy.ndimage.uniform_filter(rng.random((150, 160)), 2)
    >>> noise = scipy.ndimage.uniform_filter(rng.normal(size=image.shape), 3)
    >>> target = scipy.ndimage.uniform_filter(image, (3, 5)) + 0.1 * noise
    >>> plain = kernelfit.find_kernel(image, target, (3, 5))
    >>> better = kernelfit.sandwich_errors(image, target, plain)
    >>> total = lambda fit: np.sqrt(fit.covariance().sum())  # the standard error of the sum of all taps
    >>> bool(total(better) > 2 * total(plain))
    True
    """
    threads, parts = as_workers(workers), []
    for one, observations, weights in _items_of(image, target, fit):
        shaping = shaping_filter(examine(observations, one, weights))
        parts.append(raised(score_covariance.correct(observations, one, shaping, threads, weights=weights)))
    background = fit.background
    if not fit.parts:
        (one,) = parts
        if background is not None and one.background is not None:
            stderr = one.background.stderr.reshape(background.stderr.shape)
            one = dataclasses.replace(one, background=dataclasses.replace(background, stderr=stderr))
        return KernelFit.of(one)
    if background is not None:
        tables = [one.background.stderr for one in parts if one.background is not None]
        background = dataclasses.replace(background, stderr=np.stack(tables, axis=-2))
    changed = dataclasses.replace(fit, parts=tuple(parts), errors="sandwich", background=background)
    return KernelFit.of(changed)


def _items_of(
    image: object, target: object, fit: Estimate
) -> list[tuple[Estimate, list[Observation], list[Weights] | None]]:
    """Return the observations under the fit's own convention, and their weights if any, for it or each of its parts."""
    require_fit(fit)
    shown = fit.parts or (fit,)
    ndim = 3 if fit.convention.ndim == 3 else 2
    if shown[0].kernel.ndim > ndim + (fit.convention.field is not None) and not fit.parts:
        msg = f"got a kernel of shape {fit.kernel.shape} of several sources; need the fit that has it as a part"
        raise ValueError(msg)
    images, targets = (as_list(one) or [one] for one in (image, target))
    if fit.curve is not None:
        images, targets = [fit.curve.image(one) for one in images], [fit.curve.target(one) for one in targets]
    if fit.registration is not None:  # what is not known has no weight
        motions = [fit.registration.of(i) for i in range(len(images))]
        pairs = zip(images, motions, strict=True)
        images = [np.nan_to_num(laid_on(one, motion, fit.channel_axis)) for one, motion in pairs]
    known = len(fit.weights) if isinstance(fit.weights, tuple) else None if fit.weights is None else 1
    known = known if fit.background is None else len(fit.background.shapes)
    if len(images) != len(targets) or (fit.channel_axis is None and known not in (None, len(images))):
        need = "as many of either" if known is None else f"{known} of either, with weights or a background for each"
        msg = f"got images and targets of {len(images)} and {len(targets)} pairs, need {need}; give lists of all"
        raise ValueError(msg)
    # masks that arrays bring along are refused: which pixels count, the fit's weights say
    plan = make_plan(
        images, targets, model_of(fit), Selection(saturated=None), unmask=lambda value: (value, None), kinds=NUMBERS
    )
    plan.require_numbers(fit.convention.numbers)
    found = []
    for c, one in enumerate(map(taken_apart, shown)):
        group, at = (plan.groups[0], c) if plan.channels == "mixed" else (plan.groups[c], 0)
        observations, weights = [of_target(p, at) for p in group], None
        if one.weights is not None:
            every = one.weights if isinstance(one.weights, tuple) else (one.weights,)
            items = []
            if plan.n_planes:
                every = tuple(every[p.plane.volume][p.plane.at] for p in observations if p.plane)
            for observation, own in zip(observations, every, strict=True):
                judged = masking.PlaneSelection(weights=own, nan="mask").judge(observation, part=ndim == 3)
                whole = WeightedObservation(observation, np.broadcast_to(np.True_, observation.size))
                items.append(whole if judged is None else judged.item)
            observations, weights = [item.observation for item in items], [item.weights for item in items]
        found.append((one, observations, weights))
    return found
