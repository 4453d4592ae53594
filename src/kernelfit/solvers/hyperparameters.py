"""The search for the hyperparameters and the kind of a Gaussian-process prior."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .cholesky import product
from .descent import Lowest, descend
from .evidence import DECAYS, FAMILIES, Applied, Kind, all_taps, applied_evidence, blocks_of, covariance_of, evidence
from .least_squares import LeastSquaresSolution
from .projection import SYMMETRIES, Grid, Projection

#: The kinds of prior that were tried, with minus twice the log evidence, less a constant, and the hyperparameters.
Found = dict[Kind, Lowest]
#: Above this many taps the search begins on few combinations of the data, so many of them.
DIRECT = 256
COMBINATIONS = 80
#: Up to so many unknowns (taps, or sets of equal ones) it goes on with all the data; above, it only ends with them.
EASY = 300
#: So many kinds of prior are settled; one where that takes all the data, of more unknowns than that.
_SETTLED, _MANY = 3, 600
#: Steps of a descent from a start, to another kind of prior, and to settle.
_STEPS = (60, 40, 20)
#: A kind of prior is given up where twice its log evidence lies so far below the best before or after its descent.
_FAR, _HOPELESS = 60.0, 12.0
#: How far beyond hyperparameters, each an exponent, a part of the data is to tell: amplitude, length, radius, centre.
_SLACK = (0.5, -0.25, 0.2)
#: How far the logs of a volume's scales may go.
_STRETCH = 2.0
#: A change of twice the log evidence that matters no more.
_ENOUGH = 0.03


@dataclass(frozen=True, eq=False)
class Views:
    """The data of a search, all of them or parts that tell most, each made when first asked for."""

    stats: NormalEquations
    start: LeastSquaresSolution

    @functools.cached_property
    def grids(self) -> tuple[Grid, ...]:
        """The supports, which all views share."""
        return tuple(Grid(shape) for shape in self.stats.supports)

    @functools.cached_property
    def whole(self) -> Projection:
        """All of them."""
        return Projection.whole(self.stats, self.start, self.grids)

    @functools.cached_property
    def few(self) -> Projection:
        """What a search begins with: all of them for few taps."""
        if self.stats.n_taps <= DIRECT:
            return self.whole
        return Projection.part(self.stats, self.start, COMBINATIONS, self.grids)

    def near(self, kinds: Sequence[tuple[Kind, Array]]) -> Projection:
        """Return what tells some kinds of prior, near some hyperparameters, from each other: nearly as good as all."""
        prior = np.zeros((self.stats.n_taps,) * 2)
        for kind, theta in kinds:
            grids = self.few.under(kind.symmetric).grids
            loose = theta.reshape(len(grids), -1).copy()
            loose[:, :3] += _SLACK
            prior += all_taps(grids, all_taps(grids, covariance_of(grids, kind, loose.ravel())).T)
        # beyond a fifth of the taps all the data are quicker, where the inverse of the Gram matrix serves
        most = self.start.rank // (5 if self.whole.inverse is not None else 2)
        found = Projection.near(self.stats, self.start, prior, most, self.grids)
        return self.whole if found is None else found


def search(views: Views, family: str, envelope: str, wanted: str | None) -> Found:
    """Return the (value, hyperparameters) of the kinds of prior that were tried, each from where the last ended."""
    # First symmetries with the smoothest correlation, each of which contains those before; then, under the last that
    # the data do not speak against, rougher correlations, until one does harm; then the other envelope.
    if family in DECAYS:
        found = _decays(views.few, (family,))
        return found if views.stats.n_taps <= DIRECT else settle(views, found)
    families = FAMILIES if family == "auto" else (family,)
    first = Kind(families[0], "gaussian" if envelope == "auto" else envelope)
    if wanted not in (None, "auto"):
        first = first._replace(symmetric=wanted)
    data = few = views.few
    settled = views.stats.n_taps <= DIRECT
    found = _symmetries(few, first, everything=wanted == "auto")
    if not settled and len(few.under(_best(found).symmetric).weights) <= EASY:
        data, found = views.whole, settle(views, found)
        kind = _best(found)  # what was settled on less is not to be compared with what follows
        found = {kind: _descend(data, kind, found[kind].at, steps=_STEPS[1], like=found[kind])}
    kind = _best(found)
    for rougher in families[1:]:
        last = found[kind]
        theta = last.at.copy()
        theta.reshape(len(few.grids), -1)[:, 1] += math.log(1.3)  # a rougher family is as smooth at a longer length
        kind = kind._replace(family=rougher)
        found[kind] = _descend(data, kind, theta, steps=_STEPS[1], like=last)
        if found[kind].value > found[_best(found)].value + _HOPELESS:
            break
    if envelope == "auto":
        theta = found[_best(found)].at.copy()
        theta.reshape(len(few.grids), -1)[:, 2] -= 0.2
        kind = _best(found)._replace(envelope="power")
        if _attempt(data, found, kind, theta):
            for other in families:
                if abs(families.index(other) - families.index(kind.family)) == 1:
                    _attempt(data, found, kind._replace(family=other), found[kind].at)
    if family == envelope == "auto" and wanted in (None, "auto") and views.stats.convention.ndim == 1:
        found |= _decays(data, DECAYS, found[_best(found)].value)
    return found if settled else settle(views, found)


def _decays(data: Projection, families: Sequence[str], least: float = math.inf) -> Found:
    """Return what comes of priors of responses that decay, but for those that lie far above a value."""
    found: Found = {}
    for family in families:
        kind = Kind(family, "decay")
        begin = min((_descend(data, kind, theta, steps=8) for theta in _starts(data, kind)), key=_value)
        if begin.value < least + _FAR:
            found[kind] = _descend(data, kind, begin.at, steps=_STEPS[0], like=begin)
    return found


def _symmetries(data: Projection, first: Kind, *, everything: bool) -> Found:
    """Return what comes of a kind of prior and, if asked for, of the same under each symmetry."""
    begin = min((_descend(data, first, theta, steps=8) for theta in _starts(data, first)), key=_value)
    found = {first: _descend(data, first, begin.at, steps=_STEPS[0], like=begin)}
    for symmetric in SYMMETRIES if everything else ():
        kind = first._replace(symmetric=symmetric)
        if symmetric == "square" and any(grid.shape[0] != grid.shape[1] for grid in data.grids):
            break
        _attempt(data, found, kind, _centered(found[_best(found)].at, data))
        if kind not in found or found[kind].value > found[_best(found)].value + _HOPELESS:
            break
    return found


def _best(found: Found) -> Kind:
    return min(found, key=lambda kind: found[kind].value)


def _attempt(data: Projection, found: Found, kind: Kind, theta: Array) -> bool:
    """Descend from a start that is not hopeless, and say whether the kind is the best so far."""
    best = found[_best(found)]
    under = data.under(kind.symmetric)
    if evidence_of(under, kind)(under, kind, theta)[0] > best.value + _FAR:
        return False
    found[kind] = _descend(data, kind, theta, steps=_STEPS[1], like=best)
    return found[kind].value < best.value


def settle(views: Views, found: Found) -> Found:
    """Return the best kinds of prior with their hyperparameters and values on all the data that tell of them."""
    order = sorted(found, key=lambda kind: found[kind].value)
    order = [kind for kind in order if found[kind].value <= found[order[0]].value + _HOPELESS]
    easy = all(len(views.few.under(kind.symmetric).weights) <= EASY for kind in order)
    data = views.whole if easy else views.near([(kind, found[kind].at) for kind in order])
    settled: Found = {}
    all_at_once = data is views.whole and not easy
    for rank, kind in enumerate(order):
        last, under = found[kind], data.under(kind.symmetric)
        if rank < (_SETTLED if not all_at_once or len(under.weights) <= _MANY else 1):
            if all_at_once and rank and kind.symmetric == order[0].symmetric:
                last = settled[order[0]]  # which has seen more than what was found on few
            settled[kind] = _descend(data, kind, last.at, steps=_STEPS[2], like=last)
        else:
            settled[kind] = last._replace(value=evidence_of(under, kind)(under, kind, last.at)[0])
    return settled


def _value(found: Lowest) -> float:
    return found.value


def _bounds(data: Projection) -> list[tuple[float, float]]:
    """Return how far the search may go: beyond, nothing changes any more, or rounding takes over."""
    brightest = float(np.einsum("ij,ij->i", data.weights, data.weights).max())
    found, start = [], 0
    for grid in data.grids:
        side = float(max(grid.shape))
        own = data.weights[start : start + len(grid)] / grid.counts[:, None]
        start += len(grid)
        own = own - grid.counts @ own / grid.counts.sum()  # without the mean of the image
        detail = max(float(np.einsum("ij,ij->i", own, own).max()), 1e-14 * brightest)
        found += [
            (0.5 * math.log(1e-6 / brightest), 0.5 * math.log(1e13 / detail)),
            (math.log(0.25), math.log(8 * side)),
            (math.log(0.4), math.log(8 * side)),
            *((-0.25 * n, 1.25 * n - 1) for n in grid.shape),
            *[(-_STRETCH, _STRETCH)] * (grid.width - 3 - grid.ndim),
        ]
    return found


def _starts(data: Projection, kind: Kind) -> list[Array]:
    """Return where to begin: a kernel in the middle of its support, narrow or wide, each with its best amplitude."""
    data = data.under(kind.symmetric)
    bounds = _bounds(data)
    found: list[Array] = []
    decays = kind.family in DECAYS
    for length, share in ((1.0, 0.02), (1.0, 0.1), (1.0, 0.3)) if decays else ((2.0, 0.2), (1.2, 0.6)):
        rows, unit, start = [], np.zeros((data.weights.shape[1],) * 2), 0
        for grid in data.grids:
            flat = grid.shape[-2:]
            side = max(grid.shape) if decays else math.sqrt(flat[0] * flat[1])
            radius = max(0.5, share * side)
            middle = [0.0, 0.0] if decays else [0.5 * (n - 1) for n in grid.shape]
            deep = [math.log(min(max(grid.shape[0] / side, 0.5), 2.0)), 0.0] if grid.ndim > 2 else []
            rows.append([0.0, math.log(length * radius if decays else length), math.log(radius), *middle, *deep])
            own = data.weights[start : start + len(grid)]
            start += len(grid)
            unit += product(own.T, Applied.of(grid, kind, np.array(rows[-1]), own).prior)
        theta = np.array(rows)
        values, vectors = scipy.linalg.eigh(unit, driver="evd")
        z = (vectors.T @ data.data) ** 2
        log_a = np.linspace(*bounds[0], 120)
        s = 1 + np.exp(2 * log_a)[:, None] * np.maximum(values, 0.0)
        score = data.n * np.log(data.rss + (z / s).sum(axis=1)) + np.log(s).sum(axis=1)
        theta[:, 0] = log_a[int(np.argmin(score))]
        found.append(theta.ravel())
    return found


def evidence_of(data: Projection, kind: Kind) -> Callable[..., tuple[float, Array]]:
    """Return the quicker way to the evidence."""
    n, r = data.weights.shape
    if kind.family == "squared-exponential":
        return applied_evidence if n > max(100, 2 * r) else evidence
    # nanoseconds: transforms of all taps of each combination, against a matrix of sets of equal ones and its products
    transforms = 120 * r * sum(math.prod(grid.shape) for grid in data.grids)
    return applied_evidence if n > 2 * r and n * n * (8.5 + 0.1 * r) > transforms else evidence


def _centered(theta: Array, data: Projection) -> Array:
    """Return hyperparameters with the centre of each envelope in the middle of its support."""
    table = theta.reshape(len(data.grids), -1).copy()
    for row, grid in zip(table, data.grids, strict=True):
        row[3 : 3 + grid.ndim] = [0.5 * (n - 1) for n in grid.shape]
    return table.ravel()


def _descend(data: Projection, kind: Kind, theta: Array, steps: int, like: Lowest | None = None) -> Lowest:
    """Return the least value near a start, and where it is; its curvature is `like` that of another kind."""
    data = data.under(kind.symmetric)
    compute = evidence_of(data, kind)
    ties = _ties(data, kind)
    low, high = (np.array(ends) - theta for ends in zip(*_bounds(data), strict=True))
    moves = [np.flatnonzero(along) for along in ties.T]

    def both(free: Array) -> tuple[float, Array]:
        value, slope = compute(data, kind, theta + ties @ free, slope=True)
        return value, ties.T @ slope

    bounds = (np.array([low[at].max() for at in moves]), np.array([high[at].min() for at in moves]))
    curvature = None if like is None or like.curvature is None else ties.T @ like.curvature @ ties
    found = descend(both, np.zeros(ties.shape[1]), *bounds, steps, _ENOUGH, curvature)
    over = scipy.linalg.pinv(ties)
    back = None if found.curvature is None else over.T @ found.curvature @ over
    return Lowest(found.value, theta + ties @ found.at, back)


def _ties(data: Projection, kind: Kind) -> Array:
    """Return how the hyperparameters move with those that are free; of circular priors both parts alike."""
    copies = 2 if data.circular else 1
    return np.tile(kind.ties(len(data.grids) // copies, data.grids[0].width), (copies, 1))


def unsettled(
    stats: NormalEquations,
    few: Projection,
    kind: Kind,
    theta: Array,
    factor: Array,
    pull: Array,
    ties: Array | None = None,
) -> Array:
    """Return a factor of what the uncertainty of the hyperparameters adds to the covariance, in units of s^2."""
    # Laplace's approximation: they are normal about their best values, with the inverse of half the value's second
    # derivatives for their covariance (differences of the gradient, on few combinations of the data), and move the
    # kernel by ``(I - C G / s^2) dP P^-1 k``. P being in units of s^2, `pull` is ``s P^-1 k``, the residual's moments
    # over s. None is taken to be less certain than by 1. Hyperparameters that are not free move by `ties` with those
    # that are.
    data = few.under(kind.symmetric)
    step = 0.05
    if ties is None:
        ties = _ties(data, kind)
    here = evidence_of(data, kind)(data, kind, theta, slope=True)[1]
    there = [evidence_of(data, kind)(data, kind, theta + step * along, slope=True)[1] for along in ties.T]
    curvature = (np.array(there) - here) @ ties / (2 * step)
    moves = np.zeros((len(data.weights), len(theta)))
    start = 0
    for at, (grid, b) in enumerate(zip(data.grids, blocks_of(data.grids, kind, theta), strict=True)):
        own = grid.fold(pull[start : start + len(grid.set_of)])
        start += len(grid.set_of)
        own_moves = [2 * (b.covariance @ own), b.slope @ own]
        for by in (b.envelope.by_radius, *b.envelope.by_center):
            own_moves.append(by * (b.covariance @ own) + b.covariance @ (by * own))
        for by, change in zip(b.envelope.by_scale, b.by_scale, strict=True):
            own_moves.append(by * (b.covariance @ own) + b.covariance @ (by * own) + change @ own)
        moves[b.where, grid.width * at : grid.width * (at + 1)] = np.array(own_moves).T
    moves = all_taps(data.grids, moves)
    moves = moves @ ties
    moves = moves - product(factor, product(factor.T, product(stats.gram, moves)))
    values, vectors = scipy.linalg.eigh(0.5 * (curvature + curvature.T))
    return np.asarray(moves @ (vectors / np.sqrt(np.maximum(values, 1.0))))


def independent_part(gram: Array, factor: Array, pull: Array) -> Array:
    """Return a factor of what an independent part of each tap adds to the covariance, in units of s^2."""
    # Of variance tau it adds ``tau (I - C G)(I - C G)'`` to the posterior covariance C, to first order: nothing where
    # the data determine the taps, all where the prior has.
    variance = independent_variance(gram, factor, pull)
    return math.sqrt(variance) * (np.eye(len(gram)) - product(factor, product(factor.T, gram)))


def independent_variance(gram: Array, factor: Array, pull: Array) -> float:
    """Return the variance that an independent part of each tap may have beside a prior, in units of s^2."""
    # A prior whose envelope has gone to nothing is sure of what it has not seen. With ``tau I`` beside P minus twice
    # the log evidence changes by ``sum log(1 + tau v) - tau z^2 / (1 + tau v)``, v and V being eigenvalues and
    # eigenvectors of ``A = (P + G^-1)^-1`` and ``z = V'A k0``, which is `pull`, the residual's moments over s. Returned
    # is the mean of tau over that, all standard deviations being as likely beforehand (A. Gelman, "Prior distributions
    # for variance parameters in hierarchical models", Bayesian Analysis 1 (2006) 515). `factor` is F of ``F F' = (P^-1
    # + G)^-1``.
    half = product(gram, factor)
    values, vectors = scipy.linalg.eigh(gram - product(half, half.T), driver="evd")
    values, seen = np.maximum(values, 0.0), (vectors.T @ pull) ** 2
    tau = np.geomspace(1e-8, 1e4, 121) / float(np.median(gram.diagonal()))
    shrunk = 1.0 + np.multiply.outer(tau, values)
    score = np.log(shrunk).sum(axis=1) - tau * (seen / shrunk).sum(axis=1)
    weight = np.sqrt(tau) * np.exp(-0.5 * (score - score.min()))  # equal steps of log tau
    return float(weight @ tau / weight.sum())
