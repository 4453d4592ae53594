"""The front door: one pair, or several, to one kernel."""

import dataclasses
from typing import Unpack

import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.dimensions import SIGNAL, in_samples, of_any_dimension
from ..core.findings import Finding, ranked
from ..core.model import Execution, Model, Selection
from ..core.variation import AUTO
from ..data.observation import NUMBERS
from ..data.plan import make_plan
from ..fitting import advice, channel_relation, degree, pipeline, registration, requirements
from ..solvers.least_squares import Solver
from .discover import completed, edges_of, matched, may_move, model_of_signals, motion_told, still, written
from .keywords import Keywords, call_of, takes_keywords
from .results import KernelFit


@of_any_dimension
@takes_keywords()
@one_blas_thread
def find_kernel(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | tuple[int, ...] | Model | None = None,
    *,
    selection: Selection | None = None,
    execution: Execution | None = None,
    solver: Solver | str | None = None,
    **keywords: Unpack[Keywords],
) -> KernelFit:
    """Find the convolution kernel that lies between an image and what became of it.

    The kernel k minimises the sum over the target pixels t that are used of
    ``(target[t] - sum_p k[p] image[t - (p - origin)])^2`` (for correlation ``image[t + (p - origin)]``): exactly, edges
    included, with the error of each tap. It is the one to hand to ``scipy.signal.convolve2d(image, kernel, ...)``.

    Parameters
    ----------
    image : array_like, shape (rows, cols), or list of arrays
        The image before. Any dtype of real or complex numbers and memory layout, memory-mapped files included; it is
        read in blocks, converted to float64 one block at a time, and never changed. Three dimensions with
        `channel_axis`, or of a volume, where `shape` has three numbers, four with both. A list of arrays of any sizes
        for several pairs that share one kernel.
    target : array_like, or list of arrays
        What became of it; its shape is the image's (`mode` "same"), smaller by side - 1 ("valid") or larger by
        side - 1 ("full") along each axis; with a stride of them, that many rounded up; or any ("crop"). A list of as
        many targets as there are images.
    shape : int, (int, int) or Model, optional
        Rows and columns of the kernel, odd or even, of a volume planes, rows and columns; or the
        whole `Model`, beside which its fields are not given again.
        Without it they are found from the pixels, and with them what else is not given: where the target lies, of
        whatever size it is, a stride, a constant, and how the channels go together. `KernelFit.found` says what was
        found, `KernelFit.convention` holds it, and `KernelFit.reproduce` writes it out. Two stamps that fade to nothing
        at their edges go to `match_psf`.
    selection : Selection, optional
        Which target pixels count, instead of its fields one by one.
    execution : Execution, optional
        How to run, instead of its fields one by one.
    solver : solver or "auto", optional
        What makes a kernel of the pixels: `LeastSquares()` (the default, unbiased), `Penalized`, `GaussianProcess`,
        `NonNegative`, `Constrained`, `InBasis`, `Sparse`, `ConjugateGradient` for thousands of taps, `Wiener` for
        division by frequency, any object with a method ``solve(stats)``, or "auto", which picks one and says why.
    **keywords
        The fields of `Model`, `Selection`, `Noise` and `Execution`, flat.

    Returns
    -------
    KernelFit
        The kernel with its standard errors, the residual, and `KernelFit.verdict`: what there is to doubt.

    Raises
    ------
    TypeError
        If a dtype is not one of numbers, or a keyword is of the wrong type.
    ValueError
        If the shapes fit no mode, the pixels are too few for the taps, a pixel is NaN or infinite, or a keyword's
        value is unknown; without `shape`, if no kernel relates the two.

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

    With nothing said of the two, here of what was shifted by 9 rows and cut:

    >>> fit = kernelfit.find_kernel(image, target[9:, :-12])
    >>> fit.kernel.shape, fit.convention.mode, fit.convention.origin
    ((3, 2), 'crop', (10, 0))

    The filter with which an image was made smaller, here the mean of blocks of two rows by three columns:

    >>> small = image.reshape(25, 2, 20, 3).mean(axis=(1, 3))
    >>> fit = kernelfit.find_kernel(image, small, (2, 3), stride=(2, 3), offset=(1, 1))
    >>> np.round(fit.kernel, 6)
    array([[0.166667, 0.166667, 0.166667],
           [0.166667, 0.166667, 0.166667]])
    """
    found: tuple[str, ...] = ()
    plain = False
    short: tuple[Finding, ...] = ()
    given, asked, arrays = shape, keywords, ("image", "target")
    if shape is SIGNAL or (shape is None and keywords.get("lags") is None):
        plain = shape is None and selection is None and (solver is None or solver == "auto")
        stamps = matched(image, target, keywords, plain)
        if stamps is not None:
            return stamps
        image, target, words, found, short, arrays, left = completed(
            image, target, keywords, selection, execution, solver
        )
        if "robust" in words:
            asked = {**asked, "robust": words["robust"]}
        if shape is SIGNAL:
            shape, found = model_of_signals(words), tuple(in_samples(part) for part in found)
        else:
            shape = words.pop("shape")
        if keywords.get("register") is not None or keywords.get("curve") is not None:
            found = (*found, "found without the motion and the curve, which the fit has besides")
        keywords = words  # type: ignore[assignment]
    call = call_of(shape, keywords, verb="find_kernel", selection=selection, execution=execution, solver=solver)
    plan, note = make_plan(image, target, call.model, call.selection, kinds=NUMBERS), ""
    if call.model.variation == AUTO:
        requirements.require(requirements.features_of(plan, call.noise, call.solver, call.execution))
        plan, note = degree.chosen(plan, call.execution)
    settings = pipeline.Settings(call.noise, call.solver, call.execution)
    if call.model.register is not None or call.model.curve is not None:
        estimate = registration.registered(image, target, plan, settings)
    else:
        estimate = pipeline.fit(plan, settings)
        if found == () or "channels" in asked:  # else they were compared before
            estimate = channel_relation.advised(estimate, image, target, call.model, call.execution)
    if found and plain and may_move(estimate, asked):
        model = dataclasses.replace(call.model, register="affine", boundary=None)
        moved = registration.registered(image, target, make_plan(image, target, model, call.selection), settings)
        if words_of_motion := motion_told(estimate, moved):
            estimate, found = moved, (*found, words_of_motion)
    features = requirements.features_of(plan, call.noise, call.solver, call.execution)
    fit = KernelFit.of(advice.knowing(degree.noted(estimate, note), features))
    fit = dataclasses.replace(fit, call=written(arrays, asked, solver=solver, selection=selection, execution=execution))
    if not found:
        return fit
    if given is None and selection is None:
        fit = dataclasses.replace(fit, notes=(*fit.notes, *edges_of(image, target, fit, keywords)))
    said = {finding.verdict for finding in fit.findings}
    more = [finding for finding in still(short, fit, left) if finding.verdict not in said]
    return dataclasses.replace(fit, found=found, findings=ranked([*fit.findings, *more]))
