"""How much a kernel varies beyond the polynomials of the place that were fitted, and what that makes its errors.

Polynomials of the next two degrees, each with a kernel of its own, are held against the residual: kernels of a few
shapes, smooth or like the changes that were found, from a Gaussian process whose amplitude has the largest evidence;
then each shape has its own. What of them the fitted functions make up for is taken off. Where the evidence is clear,
the errors at a place hold what is left out there.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg

from ..core.estimate import Estimate, with_finding
from ..core.field import Omitted
from ..core.findings import Finding, Verdict
from ..core.validation import Array
from ..core.variation import Polynomial, powers
from ..data.observation import Observation
from ..solvers.evidence import Kind, covariance_of
from ..solvers.projection import Grid
from . import samples
from .tiles import Part

#: Degrees beyond those fitted, and shapes of kernels.
_MORE, _SHAPES = 2, 15
#: Side of the cells in which the functions are taken for constant.
_CELL = 16
#: Tiles of a pair that are looked at, from the one that tells the most.
_TILES = 64
#: Of a kernel of least squares: how many times its own width the changes are smooth over; standard errors of a tap.
_SMOOTH, _SEEN = 1.8, 3.0
#: How many times the squares of its errors those of a change are that others may be like; the variance of such ones.
_HEARD, _ALIKE = 4.0, 0.1
#: The log evidence that counts; what is left out is told from such a share of what noise makes of the errors on.
_CLEARLY, _MATTERS = 10.0, 0.5
#: Steps towards the variances of the shapes.
_STEPS = 5
#: Verdicts beside which what is left out is told.
_BESIDE = (Verdict.SOLVED, Verdict.NOISE_DOMINATES)


def told(fit: Estimate, parts: Sequence[Part]) -> Estimate:
    """Return a fit that knows of what its functions of the place leave out; the same where nothing shows in tiles."""
    field, shapes = fit.convention.field, _shapes(fit)
    if field is None or shapes is None or any(len(one.sources) != len(fit.kernel) for one, _ in parts):
        return fit
    found = _of(fit, parts, *shapes)
    if found is None:
        return fit
    omitted, evidence = found
    fit = dataclasses.replace(fit, omitted=omitted)
    degree = omitted.degree - _MORE
    ratio = _beside_noise(fit, omitted)
    remedy = (
        f"the errors at a place, fit.at, allow for it; for smaller ones take a higher degree (variation={degree + 2})"
    )
    if any(f.verdict is Verdict.VARYING for f in fit.findings):
        known = (dataclasses.replace(f, remedy=remedy) if f.verdict is Verdict.VARYING else f for f in fit.findings)
        return dataclasses.replace(fit, findings=tuple(known))
    if not evidence > _CLEARLY or ratio < _MATTERS or fit.verdict not in _BESIDE:
        return fit
    detail = (
        f"beside the {field.variation}, degrees {degree + 1} and {degree + 2} are in what is left (log evidence "
        f"{evidence:.0f}), by {ratio:.2g} times what noise makes of the kernel's errors"
    )
    return with_finding(fit, Finding(Verdict.VARYING, detail, remedy))


def _shapes(fit: Estimate) -> tuple[Array, Array] | None:
    """Return shapes that changes of a kernel may have, (shapes, taps), and their variances; None if that is unknown."""
    field = fit.convention.field
    if field is None or not isinstance(field.variation, Polynomial) or fit.kernel.ndim != 3:
        return None
    if (
        Polynomial(field.variation.degree).n_functions != len(fit.kernel)
        or fit.kernel.dtype.kind == "c"
        or fit.root is None
        or not fit.noise_std > 0
    ):
        return None
    kind, amplitude = Kind("squared-exponential"), float(np.abs(fit.kernel[0]).max())
    if fit.priors:
        prior = fit.priors[-1]
        kind, amplitude = Kind(prior.family, prior.envelope), prior.amplitude
        radius, length, center = prior.radius, prior.length, prior.center
    else:
        power = np.where(np.abs(fit.kernel[0]) > _SEEN * fit.stderr[0], fit.kernel[0] ** 2, 0.0)
        if not power.sum() > 0:
            return None
        places = np.indices(power.shape).reshape(2, -1)
        center = tuple(places @ power.ravel() / power.sum())
        spread = ((places - np.array(center)[:, None]) ** 2).sum(axis=0)
        radius = max(0.5, math.sqrt(float(spread @ power.ravel() / power.sum())))
        length = _SMOOTH * radius
    theta = np.array([0.0, math.log(length), math.log(radius), *center])
    covariance = covariance_of([Grid(fit.kernel.shape[1:])], kind, theta)
    changes, noise = (of[1:].reshape(len(fit.kernel) - 1, -1) for of in (fit.kernel, fit.stderr))
    heard = changes[np.square(changes).sum(axis=1) > _HEARD * np.square(noise).sum(axis=1)]
    if heard.any():  # further changes may be like those that were found, however rough
        alike = heard.T @ heard
        covariance = covariance + alike * (_ALIKE * np.trace(covariance) / np.trace(alike))
    values, vectors = scipy.linalg.eigh(covariance)
    some = slice(None, -1 - min(_SHAPES, len(values)), -1)
    kept = values[some] > 1e-9 * values[-1]
    return vectors[:, some].T[kept], amplitude**2 * values[some][kept]


def _of(fit: Estimate, parts: Sequence[Part], shapes: Array, variances: Array) -> tuple[Omitted, float] | None:
    """Return what is left out, and the evidence whatever the noise; None where nothing shows in even noise."""
    every = Polynomial(fit.convention.field.variation.degree + _MORE)  # type: ignore[union-attr]
    n, fitted = every.n_functions, len(fit.kernel)
    gram, score, loud = np.zeros((n * n, len(shapes) ** 2)), np.zeros((n, len(shapes))), np.zeros(len(shapes))
    seen: dict[int, int] = {}
    for observation, part in parts:
        if seen.get(id(observation), 0) >= _TILES:
            continue
        seen[id(observation)] = seen.get(id(observation), 0) + len(part.left)
        g, s, own_loud, rows, cols = _sums(observation, part, shapes.reshape(-1, *fit.kernel.shape[1:]))
        values = every.at(rows, cols, observation.geometry.image_shape)
        gram += (values[:, None] * values).reshape(n * n, -1) @ g.reshape(len(g), -1)
        score += values @ s
        loud += own_loud
    if not gram.any():
        return None
    many, power = fitted * len(shapes), fit.noise_std**2
    whole = gram.reshape(n, n, len(shapes), -1).swapaxes(1, 2).reshape(n * len(shapes), -1)
    inner, mixed = whole[:many, :many].copy(), whole[:many, many:]
    inner[np.diag_indices_from(inner)] += 1e-9 * inner.diagonal().max()  # places may be too few for all functions
    share = scipy.linalg.solve(inner, mixed, assume_a="pos")
    rest = whole[many:, many:] - mixed.T @ share
    pull = score.ravel()[many:] - share.T @ score.ravel()[:many]
    scale = np.tile(np.sqrt(variances), n - fitted)
    told, pulled = rest * np.multiply.outer(scale, scale) / power, pull * scale / power
    values, vectors = scipy.linalg.eigh(told)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    values, pull = values[kept], (vectors.T @ pulled)[kept]
    larger, evidence = _amplitude(values, pull)
    if not evidence > _CLEARLY:
        return None
    # the noise may be louder at bright places, or few of them tell: then errors that are too large are no harm, but a
    # verdict would be
    louder = max(1.0, float(variances @ loud) / float(variances @ whole.diagonal()[: len(shapes)]) / power)
    evidence = _amplitude(values / louder, pull / louder)[1]
    if fit.priors:  # which let the fitted functions make up for less
        amplitudes = np.array([prior.amplitude for prior in fit.priors]) / fit.priors[-1].amplitude
        inner[np.diag_indices_from(inner)] += power / np.multiply.outer(amplitudes**2, variances).ravel()
        share = scipy.linalg.solve(inner, mixed, assume_a="pos")
    each = _of_each(told, pulled, larger, len(shapes))
    mix = np.concatenate([-share, np.eye(len(scale))]) * (np.sqrt(each) * scale)
    return Omitted(shapes.reshape(-1, *fit.kernel.shape[1:]), mix.reshape(n, len(shapes), -1)), evidence


def _amplitude(values: Array, pull: Array) -> tuple[float, float]:
    """Return the mean of a variance, standard deviations being as likely beforehand, and the log evidence for it."""
    # `pull` has the variances ``v + tau v^2``; see `hyperparameters.independent_variance`
    tau = np.geomspace(1e-10, 1e2, 241)
    shrunk = 1.0 + np.multiply.outer(tau, values)
    score = np.log(shrunk).sum(axis=1) - tau * (pull**2 / shrunk).sum(axis=1)
    weight = np.sqrt(tau) * np.exp(-0.5 * (score - score.min()))
    return float(weight @ tau / weight.sum()), -0.5 * float(score.min())


def _of_each(told: Array, pulled: Array, variance: float, n: int) -> Array:
    """Return the variances of n shapes, found in the same way for each function, from that of all of them."""
    # by expectation and maximization; of shapes that nothing tells of it stays as it is
    each = np.full(len(pulled), variance)
    for _ in range(_STEPS):
        root = np.sqrt(each)
        inner = scipy.linalg.inv(np.eye(len(root)) + told * np.multiply.outer(root, root))
        covariance = inner * np.multiply.outer(root, root)
        second = np.square(covariance @ pulled) + covariance.diagonal()
        each = np.tile(second.reshape(-1, n).mean(axis=0), len(root) // n)
    return each


def _beside_noise(fit: Estimate, omitted: Omitted) -> float:
    """Return what is left out over what noise makes of the errors, root mean squares over the field and the taps."""
    size = np.array([1.0 / ((2 * i + 1) * (2 * j + 1)) for i, j in powers(omitted.degree)])  # mean squares
    noise = float(size[: len(fit.kernel)] @ np.square(fit.stderr).sum(axis=(1, 2)))
    return math.sqrt(float(size @ np.square(omitted.mix).sum(axis=(1, 2))) / max(noise, 1e-300))


def _sums(observation: Observation, part: samples.Sample, shapes: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return ``sum f f'`` and ``sum f r`` of each cell, ``sum f^2 r^2`` of all, and the places of the cells."""
    # f being what the shapes make of the image
    plan = observation.geometry
    made = samples.filtered(part.blocks[:1], plan, [shape[None] for shape in shapes], part.known.shape[1:])
    made *= part.known if part.root is None else np.where(part.known, part.root, 0.0)
    n, rows, cols = part.left.shape
    side = min(_CELL, rows), min(_CELL, cols)
    down, across = rows // side[0], cols // side[1]

    def cells(of: Array) -> Array:
        """Return pixels by cell, shape (cells, ..., pixels)."""
        lead = of.shape[:-3]
        cut = of[..., : down * side[0], : across * side[1]].reshape(*lead, n, down, side[0], across, side[1])
        cut = np.moveaxis(cut, [len(lead), len(lead) + 1, len(lead) + 3], [0, 1, 2])
        return cut.reshape(n * down * across, *lead, side[0] * side[1])

    f = cells(made)
    products = f * cells(np.where(part.known, part.left, 0.0))[:, None]
    gram = f @ f.swapaxes(1, 2)
    places = []
    for axis, count in enumerate((down, across)):
        middle = np.array([start[axis] for start in part.starts])[:, None] + side[axis] * (np.arange(count) + 0.5) - 0.5
        at = plan.stride[axis] * middle - plan.before[axis] + 0.5 * (plan.kernel_shape[axis] - 1)
        places.append(np.clip(at, 0, plan.image_shape[axis] - 1))
    grid = np.broadcast_arrays(places[0][:, :, None], places[1][:, None, :])
    loud = np.einsum("bsp,bsp->s", products, products)
    return gram, products.sum(axis=2), loud, grid[0].ravel(), grid[1].ravel()
