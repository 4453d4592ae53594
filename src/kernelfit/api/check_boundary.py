"""The verb that compares boundaries."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core import geometry
from ..core.complex_numbers import taken_apart
from ..core.dimensions import of_any_dimension
from ..core.estimate import Estimate, require_fit
from ..core.geometry import Convention
from ..core.model import Execution, Selection, model_of
from ..core.validation import as_list, as_workers
from ..data import masking
from ..data.complex_parts import parts_of
from ..data.observation import (
    NUMBERS,
    Items,
    Observation,
    WeightedObservation,
    Weights,
    lots,
    of_target,
    source_reader,
    target_reader,
)
from ..data.plan import FitPlan, make_plan
from ..data.volumes import along, as_volumes, stacked
from ..diagnostics.boundary import BoundaryCheck, _compare, _Plane, _planes
from ..engines import accumulation
from ..engines.cost_model import Choice, engine_of
from ..engines.weighted_pass import residual
from ..fitting import pipeline
from ..fitting.equations import plain_fit
from ..fitting.pipeline import in_place
from ..solvers.least_squares import estimate_of
from .results import KernelFit

_NO_ROOM = "got no more interior pixels than taps, need some to spare for the noise; use a fit of a smaller shape"


@of_any_dimension
@one_blas_thread
def check_boundary(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    fit: KernelFit,
    *,
    mask: "npt.ArrayLike | None" = None,
    weights: "npt.ArrayLike | None" = None,
    workers: int | None = None,
) -> BoundaryCheck:
    """Find out which boundary a target was made with.

    The kernel is taken from the interior, where no boundary matters: it is the fit's own if that assumes none, else it
    is found anew there by least squares. For each boundary the target pixels that depend on it are predicted. A
    boundary fits if the mean square of their residual is no larger than that inside allows (Fisher's F, at a
    probability of 0.001); among those that fit the one with the smallest is the best.

    Parameters
    ----------
    image, target : array_like
        A pair, such as the one the kernel was found in.
    fit : KernelFit
        The kernel with its convention, of mode "same" or "full". Of its weights all hold that tell anything: where it
        assumes no boundary it has none near the edges.
    mask, weights : array_like, optional
        Which target pixels do not count, and how much the others do, as in `find_kernel`; needed near the edges where
        the fit assumes no boundary. NaN and infinite pixels do not count if the fit has weights.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    BoundaryCheck
        The best boundary, and a table of all; print it to read it.

    Raises
    ------
    ValueError
        If the fit is of mode "valid", where no pixel depends on the boundary, the shapes do not fit, or the interior
        pixels are too few for the taps.

    Examples
    --------
    >>> import numpy as np, scipy.ndimage, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((80, 90))
    >>> target = scipy.ndimage.uniform_filter(image, 5, mode="mirror") + rng.normal(0, 0.001, image.shape)
    >>> fit = kernelfit.find_kernel(image, target, 5)
    >>> kernelfit.check_boundary(image, target, fit).best
    'mirror'
    """
    require_fit(fit)
    return boundary_of(image, target, fit, Selection(mask=mask, weights=weights, saturated=None), as_workers(workers))


def boundary_of(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    fit: KernelFit,
    selection: Selection,
    threads: int,
    *,
    own: bool = False,
) -> BoundaryCheck:
    """Find out which boundary a target was made with; of the fit's `own` pair the residual inside is known."""
    if fit.curve is not None:
        msg = "got a fit with a curve, need one without: give the light, fit.curve.image(image), and a fit of that"
        raise ValueError(msg)
    if fit.registration is not None:
        msg = "got a fit with a motion, need one without: give fit.registered(image), and a fit of that with nan='mask'"
        raise ValueError(msg)
    conv = fit.convention
    if conv.mode == "valid":
        msg = "got a fit of mode 'valid', in which no target pixel depends on the boundary; need 'same' or 'full'"
        raise ValueError(msg)
    if conv.ndim == 3:
        return _of_volumes(image, target, fit, selection, threads)
    given = [taken_apart(one) for one in fit.parts or (fit,)]
    model = model_of(fit, boundary=None)
    nan = "error" if all(one.weights is None for one in given) else "mask"
    asked = make_plan(image, target, model, dataclasses.replace(selection, nan=nan), kinds=NUMBERS)
    asked.require_numbers(conv.numbers)
    conv = given[0].convention
    planes: list[_Plane] = []
    squares, df_resid, n_inside = 0.0, 0, 0
    for g, group in enumerate(asked.groups):
        parts = given if asked.channels == "mixed" else given[g : g + 1]
        known = conv.boundary is None and fit.background is None
        items = _items(asked, g, parts, conv)
        if items is not None:
            inner = [[_inner(item, p) for item, p in zip(one, group, strict=True)] for one in items]
            fits = parts if known else [_weighted_fit(one, threads) for one in inner]
            for fitted, one in zip(fits, inner, strict=True):
                squares += _weighted_squares(one, fitted, threads) if known else fitted.rss
                n_inside += sum(item.n_pixels for item in one)
                df_resid -= fitted.rank
            for t, one in enumerate(items):
                observations, every = [item.observation for item in one], [item.weights for item in one]
                planes += _planes(observations, fits[t : t + 1], every)
            continue
        if known:
            fits = parts
            squares += sum(one.rss for one in fits) if own else _squares(group, fits, threads)
        else:
            found = plain_fit(group, engine_of(group[0]), threads)
            fits = [estimate_of(*both) for both in zip(found.stats, found.solutions, strict=True)]
            if found.eliminations:
                fits = pipeline.with_background(
                    fits, group, found.eliminations, sum(p.geometry.n_pixels for p in group)
                )
            squares += sum(one.rss for one in fits)
        n_inside += sum(p.geometry.n_pixels for p in group) * len(fits)
        df_resid -= sum(one.rank for one in fits)
        planes += list(_planes(group, fits))
    df_resid += n_inside
    if df_resid < 1:
        raise ValueError(_NO_ROOM)
    return _compare(planes, conv, squares / df_resid, df_resid, n_inside / df_resid)


def _of_volumes(image: object, target: object, fit: Estimate, selection: Selection, workers: int) -> BoundaryCheck:
    """Find out which boundary the target of a volume was made with."""
    background, given = fit.background, [taken_apart(one) for one in fit.parts or (fit,)]
    conv, numbers = given[0].convention, fit.convention.numbers
    parts = 1 if numbers == "real" else 2
    free, filled = model_of(fit, boundary=None), model_of(fit, boundary="fill", fillvalue=0.0)
    weighed = any(one.weights is not None for one in given)
    chosen = dataclasses.replace(selection, nan="mask" if weighed else "error", saturated=None)
    every, inner = (make_plan(image, target, model, chosen, kinds=NUMBERS) for model in (filled, free))
    every.require_numbers(numbers)
    places = [(g, t) for g, group in enumerate(every.groups) for t in range(len(group[0].targets))]
    if weighed or any(j for g, _ in places for one in every.judged(g) for j in one):
        part = inner if conv.boundary is None else every
        known = selection.weights is not None
        table: list[list[Weights]] = [[] for _ in range(every.n_pairs)]
        for (g, t), one in zip(places, given, strict=True):
            whole = stacked(every.groups[g], [in_place(item) for item in _whole_items(every, g, t)])
            own = one.weights if isinstance(one.weights, tuple) else (one.weights,) * len(whole)
            seen = stacked(part.groups[g], [in_place(_whole_item(plane)) for plane in part.groups[g]])
            for lot, both in list(enumerate(zip(whole, own, seen, strict=True)))[::parts]:  # either part counts alike
                table[lot * every.n_pairs // len(whole)].append(_volume_weights(*both, known=known))
        axis = fit.channel_axis
        weights = [row[0] if axis is None else np.stack(row, axis=axis) for row in table]
        chosen = Selection(weights=weights if every.listed else weights[0], nan=chosen.nan, saturated=None)
        every, inner = (make_plan(image, target, model, chosen, kinds=NUMBERS) for model in (filled, free))
    items, inside = ([_whole_items(plan, *place) for place in places] for plan in (every, inner))
    settings = pipeline.Settings(execution=Execution(workers=workers), diagnosis=False, edges=False)
    asis, groups = conv.boundary is None and background is None, range(len(every.groups))
    found = given if asis else [taken_apart(one) for g in groups for one in pipeline.fit_of_group(inner, g, settings)]
    matched = zip(inside, found, strict=True)
    squares = sum(_weighted_squares(own, one, workers) if asis else one.rss for own, one in matched)
    n_inside = sum(item.n_pixels for own in inside for item in own)
    df_resid = n_inside - sum(one.rank for one in found)
    if df_resid < 1:
        raise ValueError(_NO_ROOM)
    images = [as_volumes(one, "image", fit.channel_axis, NUMBERS) for one in as_list(image) or [image]]
    planes = []
    for (g, _), one, some in zip(places, found, items, strict=True):
        n_lots = len(lots(every.groups[g])) // parts
        for p in _planes([item.observation for item in some], [one], [item.weights for item in some]):
            assert p.observation.plane is not None
            lot = p.observation.plane.volume // parts
            sources = images[lot * every.n_pairs // n_lots]
            channel = lot % (n_lots // every.n_pairs) if fit.channels == "shared" else g
            volumes = sources if fit.channels == "mixed" else sources[channel:][:1]
            if numbers != "real":
                volumes = parts_of(volumes, p.observation.imaginary, real=numbers != "complex")
            planes.append(dataclasses.replace(p, images=volumes))
    return _compare(planes, along(conv, slice(1, 3)), squares / df_resid, df_resid, n_inside / df_resid)


def _whole_items(plan: FitPlan, group: int, target: int) -> list[WeightedObservation]:
    """Return the planes of a group of a plan of volumes with their weights."""
    both = zip(plan.groups[group], plan.judged(group)[target], strict=True)
    return [j.item if j else _whole_item(of_target(one, target)) for one, j in both]


def _whole_item(observation: Observation) -> WeightedObservation:
    """Return a pair, or a plane, all pixels of which count."""
    return WeightedObservation(observation, np.broadcast_to(np.True_, observation.size))


def _volume_weights(whole: Weights, own: Weights | None, seen: Weights, *, known: bool) -> Weights:
    """Let the weights count that a fit gave the pixels of a volume it has `seen`, as `_with_weights` does."""
    if own is None:
        return whole
    usual = float(np.median(own[own > 0])) if np.any(own > 0) else 1.0
    inside, outside = (own > 0, 1.0) if known else (own, usual)
    return np.asarray(whole * np.where(seen, inside, outside), dtype=np.float64)


def _items(
    asked: FitPlan, group: int, fits: Sequence[Estimate], conv: Convention
) -> list[list[WeightedObservation]] | None:
    """Return the problems of a group with weights for the whole target, for each target; None if all count the same."""
    observations, found, told = asked.groups[group], [], False
    for t, fit in enumerate(fits):
        one = []
        for i, observation in enumerate(observations):
            single = dataclasses.replace(observation, targets=(observation.targets[t],))
            whole = _laid(single, single, dataclasses.replace(conv, boundary="fill", fillvalue=0.0))
            judged = asked.selection_of(group, t, i).judge(whole)
            item = WeightedObservation(whole, np.broadcast_to(np.True_, whole.size)) if judged is None else judged.item
            own = fit.weights[i] if isinstance(fit.weights, tuple) else fit.weights
            told |= judged is not None or own is not None
            if own is not None:
                plan = observation.geometry if conv.boundary is None else whole.geometry
                item = _with_weights(item, own, plan.used, asked.selection.weights is not None)
            one.append(item)
        found.append(one)
    return found if told else None


def _with_weights(
    item: WeightedObservation, own: Weights, used: tuple[slice, slice], known: bool
) -> WeightedObservation:
    """Let the weights count that a fit gave the pixels it used; if weights are `known`, only where they are zero."""
    weights, inside = np.array(item.weights, dtype=np.float64), own[used].astype(np.float64)
    if known:
        weights[used][inside == 0] = 0.0
    else:
        usual = float(np.median(inside[inside > 0])) if inside.any() else 1.0
        every = np.full(weights.shape, usual)  # of the others it tells nothing
        every[used] = inside
        weights *= every
    kept = masking.zeroed(item.observation.targets[0], weights == 0)
    return WeightedObservation(dataclasses.replace(item.observation, targets=(kept,)), weights)


def _laid(observation: Observation, arrays: Observation, conv: Convention) -> Observation:
    """Return a problem with the arrays of another one of a single target, under some convention."""
    shapes = observation.geometry
    plan = geometry.lay_out(shapes.image_shape, shapes.kernel_shape, conv)
    sources = tuple(dataclasses.replace(source_reader(s.array, plan), weight=s.weight) for s in arrays.sources)
    return dataclasses.replace(
        observation, geometry=plan, sources=sources, targets=(target_reader(arrays.targets[0].array, plan),)
    )


def _inner(item: WeightedObservation, observation: Observation) -> WeightedObservation:
    """Return the part of a pair that depends on no boundary."""
    inner = _laid(observation, item.observation, dataclasses.replace(observation.geometry.convention, boundary=None))
    return WeightedObservation(inner, item.weights[inner.geometry.used])


def _weighted_fit(items: Items, workers: int) -> Estimate:
    judged = [masking.Judged(item, ()) for item in items]
    settings = pipeline.Settings(execution=Execution(workers=workers))
    return pipeline.fit_weighted(judged, Choice(engine_of(items[0].observation), ""), settings).estimate


def _weighted_squares(items: Items, fit: Estimate, workers: int) -> float:
    """Return the weighted sum of squares of the residual of a given kernel."""
    return residual(items, fit.kernel.ravel(), engine_of(items[0].observation), workers).energy


def _squares(group: Sequence[Observation], fits: Sequence[Estimate], workers: int) -> float:
    """Return the sum of squares of the residual of given kernels inside."""
    total = 0.0
    for observation in group:
        kernels = np.stack([f.kernel.reshape(-1, *observation.geometry.kernel_shape) for f in fits])
        _, energies = accumulation.residual_moments(observation, kernels, engine_of(observation), workers)
        total += float(energies.sum())
    return total
