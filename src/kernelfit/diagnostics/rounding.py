"""What rounding of a target leaves open of a kernel where its errors follow the image, as they do where it is smooth.

Errors of rounding are a function e(k) of the kernel's prediction. In most images they are as good as random. In a ramp
or a flat picture few different surroundings occur, and pixels of like surroundings have like errors, however many they
are: other kernels would have made the same target. A kernel k is estimated by ``k + C A'e(k) / s^2``, C being the plain
covariance for noise of variance s^2. So kernels are sought, from some that lie far about, for which that is the one
found, and their scatter is the error: indirect inference (C. Gourieroux, A. Monfort, E. Renault, Journal of Applied
Econometrics 8 (1993) S85).

Filters that go along rows and then along columns often round in between. Where the picture is smooth the errors of the
first pass follow it as well, and more so, as its surroundings are fewer: a kernel of three taps hardly blurs what
differs by one. They pass through the second, and are taken for the noise beside the last rounding.

Floating-point numbers of few digits are rounded too, but by a share of their value: what a tap rests on one bright
pixel for, the plain covariance does not see. There errors are drawn, uniform within half a unit of the last place and
the same for pixels of the same prediction, and the scatter of what the estimate moves by is the error.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from ..core.estimate import Estimate
from ..core.validation import Array
from ..data.observation import Observation
from .samples import Sample
from .tile_design import TileDesign
from .tiles import Part, root_of

#: Kernels to start from, and how far their predictions lie apart in gray levels; short steps, and their length.
_STARTS, _APART, _STEPS, _LENGTH = 8, (0.4, 1.0), 6, 0.5
#: So many columns of the covariance tell how loud the tiles are.
_COLUMNS = 16
#: A first look from so near goes on where chance would show as much in so few cases; in the end it takes a rarer one,
#: and a scatter of so many times that of random errors.
_NEAR, _FIRST, _CHANCE, _FACTOR = 0.1, 0.05, 1e-4, 1.5
#: So many draws of the errors of floating-point numbers. Noise of up to so many times them may be that of arithmetic
#: with such numbers, and grows with the values like them; of arithmetic with an error for each tap where less than such
#: a share of them is left in the residual. Predictions that differ by a smaller share are the same. A residual of so
#: much less, of so many kinds of surroundings more than there are taps, is that of values that needed no rounding.
_DRAWS, _ARITHMETIC, _TOLD, _SAME, _EXACT = 32, 4.0, 0.01, 1e-11, (0.3, 20)
#: Gray levels by which the prediction changes from pixel to pixel where it is flat; so many pixels of this at least.
_FLAT, _FEWEST = 0.35, 256
#: A pass that sums to less than this share of its taps' size is one of differences, of whole numbers mostly.
_DIFFERENCE = 0.5
#: A second pass of which one tap is more than this share hardly is one; nor is a first one that needs no rounding.
_ALONE, _NOTHING = 0.9, 1e-6
#: Taps up to which the covariance of random errors is formed where another was asked for.
_MOST_TAPS = 256


class Rounding:
    """The estimates that kernels near the one found would have had of their rounded predictions.

    A background is sought beside the kernel: errors that are a function of the prediction follow the level as well.

    Parameters
    ----------
    parts : list of (Observation, Sample)
        Tiles of the pairs, or all of their pixels.
    estimate : Estimate
        A fit that `possible` allows.
    variance : float
        That of the noise of a pixel beside the errors of rounding.
    passes : bool
        Whether this noise is that of rounding between two passes.
    """

    def __init__(self, parts: list[Part], estimate: Estimate, variance: float, *, passes: bool = False) -> None:
        self.parts, self.estimate, self.noise_std, self.variance = parts, estimate, estimate.noise_std, variance
        self.count = sum(int(p.known.sum()) for _, p in parts)
        self.design, self.roots = TileDesign.of(parts), [root_of(p, p.known) for _, p in parts]
        self.predictions = [
            np.where(p.known, p.targets - p.left, 0.0) / np.where(p.known, r, 1.0)
            for (_, p), r in zip(parts, self.roots, strict=True)
        ]
        self.rng = np.random.default_rng(0)
        # of volumes planes share a background, which is left where it is
        every = [o.background is not None and o.plane is None for o, _ in parts]
        self.terms = [self._basis(*part) if own else None for part, own in zip(parts, every, strict=True)]
        self.n_terms = sum(0 if q is None else q.shape[1] for q in self.terms)
        self.share = estimate.n_pixels / self.count
        # of least squares to the tiles alone
        if _linear(estimate):
            assert estimate.factor is not None
            self.factor = estimate.factor * math.sqrt(self.share)
        elif estimate.least_squares is not None:
            self.factor = estimate.least_squares[1][:, : estimate.rank] * (estimate.noise_std * math.sqrt(self.share))
        else:
            self.factor = self._plain(estimate)
        self.rank = self.factor.shape[1]
        self.between = self._between(estimate.kernel) if passes else []

    @functools.cached_property
    def held(self) -> Array | None:
        """What a prior lets through of what moves least squares."""
        estimate = self.estimate
        if estimate.uncertainty != "posterior" or estimate.errors != "plain" or estimate.factor is None:
            return None
        settled = estimate.factor[:, : estimate.factor.shape[1] - estimate.unsettled]
        return np.asarray(
            self.share * settled @ (settled.T @ np.linalg.pinv(self.factor @ self.factor.T, hermitian=True))
        )

    def _plain(self, estimate: Estimate) -> Array:
        """Return a factor of the covariance for random errors, of the tiles alone."""
        self.factor = np.eye(estimate.kernel.size) * self.noise_std
        self.rank = len(self.factor)
        gram = np.array([self._moved(self._made(w)) for w in np.eye(self.rank, self.rank + self.n_terms)])
        values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
        kept = slice(len(values) - estimate.rank, None)
        return np.asarray(self.noise_std * vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-14 * values[-1])))

    @staticmethod
    def _basis(observation: Observation, part: Sample) -> Array:
        """Return orthonormal columns that span the terms of the background, of the weighted pixels of its tiles."""
        steps = np.indices(part.known.shape[1:])
        rows, cols = (np.concatenate([(start[k] + steps[k]).ravel() for start in part.starts]) for k in (0, 1))
        terms = observation.columns.at(rows, cols) * root_of(part, part.known).reshape(-1, 1)
        return np.asarray(np.linalg.qr(terms)[0])

    def _made(self, w: Array) -> list[Array]:
        """Return what kernels, and then backgrounds, of w standard errors make of the images."""
        forward, at = self._beside(self._forward(self.factor @ w[: self.rank])), self.rank
        for i, q in enumerate(self.terms):
            if q is not None:
                forward[i] += self.noise_std * (q @ w[at : at + q.shape[1]]).reshape(forward[i].shape)
                at += q.shape[1]
        return [made / np.where(r > 0, r, 1.0) for made, r in zip(forward, self.roots, strict=True)]

    def _forward(self, kernel: Array) -> list[Array]:
        """Return what a kernel makes of the images, times the roots of the weights."""
        (rows, cols), flipped = self.parts[0][0].geometry.kernel_shape, self.parts[0][0].geometry.flipped
        taps = kernel.reshape(-1, rows, cols) * self.design.level
        lags = np.zeros((len(taps), *self.design.size))
        lags[:, :rows, :cols] = taps[:, ::-1, ::-1] if flipped else taps
        return self.design.forward(lags)

    def _between(self, kernel: Array) -> list[list[Array]]:
        """Return the errors of rounding a first pass, along columns or rows, as the second leaves them of each pixel.

        The passes are those of the separable kernel next to the one found. Errors are as loud as the noise.
        """
        u, s, v = np.linalg.svd(kernel)
        found = []
        for across, first, second in ((0, v[0], s[0] * u[:, 0]), (1, u[:, 0], s[0] * v[0])):
            total = float(first.sum())
            weights = np.abs(second)
            if abs(total) < _DIFFERENCE * float(np.abs(first).sum()) or weights.max() > _ALONE * weights.sum():
                continue
            errors = [np.zeros(m.shape) for m in self.predictions]
            for i, tap in enumerate(second * total):
                taps = np.zeros(kernel.shape)
                taps[(i, slice(None)) if across == 0 else (slice(None), i)] = first / total
                made = [m / np.where(r > 0, r, 1.0) for m, r in zip(self._forward(taps), self.roots, strict=True)]
                errors = [e + tap * (np.rint(m) - m) for e, m in zip(errors, made, strict=True)]
            loud = math.sqrt(sum(float(np.vdot(e, e)) for e in errors) / self.count)
            if loud > _NOTHING:
                found.append([e * (math.sqrt(self.variance) / loud) for e in errors])
        return found

    def _beside(self, weighted: Sequence[Array]) -> list[Array]:
        """Return weighted values of the pixels less what a background takes of them."""
        return [
            e if q is None else e - (q @ (q.T @ e.ravel())).reshape(e.shape)
            for e, q in zip(weighted, self.terms, strict=True)
        ]

    def _weighted(self, errors: Sequence[Array]) -> list[Array]:
        return [np.where(r > 0, e * r, 0.0) for e, r in zip(errors, self.roots, strict=True)]

    def _moved(self, errors: Sequence[Array]) -> Array:
        """Return by how many standard errors errors of the pixels move the estimates of the kernel."""
        (rows, cols), flipped = self.parts[0][0].geometry.kernel_shape, self.parts[0][0].geometry.flipped
        taps = self.design.adjoint(self._beside(self._weighted(errors)))[:, :rows, :cols]
        taps = taps[:, ::-1, ::-1] if flipped else taps
        return np.asarray(self.factor.T @ taps.ravel() * (self.design.level / self.noise_std**2))

    def _moved_all(self, errors: Sequence[Array]) -> Array:
        """Return the same, and then those of the backgrounds."""
        both = zip(self._weighted(errors), self.terms, strict=True)
        levels = [q.T @ e.ravel() / self.noise_std for e, q in both if q is not None]
        return np.concatenate([self._moved(errors), *levels])

    def _start(self, apart: float, i: int) -> tuple[Array, list[Array]]:
        """Return standard errors from the kernel found, and noise of the pixels, for the start i."""
        if self.between:
            noise = self.between[i % len(self.between)]
        else:
            noise = [math.sqrt(self.variance) * self.rng.standard_normal(m.shape) for m in self.predictions]
        weight, n = sum(float(np.vdot(r, r)) for r in self.roots), self.rank + self.n_terms
        return np.asarray(apart * math.sqrt(weight / n) / self.noise_std * self.rng.standard_normal(n)), noise

    def _errors(self, w: Array, noise: Sequence[Array]) -> list[Array]:
        """Return the errors of rounding, and the other noise, of a kernel w standard errors from the one found."""
        at = [m + made for m, made in zip(self.predictions, self._made(w), strict=True)]
        return [np.rint(a + n) - a for a, n in zip(at, noise, strict=True)]

    def random(self) -> bool:
        """Return whether the errors are random, as far as a first look tells."""
        every = [self._moved(self._errors(*self._start(_NEAR, i))) for i in range(max(1, len(self.between)))]
        return all(float(scipy.special.chdtrc(self.rank, float(one @ one))) > _FIRST for one in every)

    def scaled(self) -> None:
        """Let errors that are random move estimates by one standard error: of few loud tiles they move them further."""
        columns = np.eye(self.rank, self.rank + self.n_terms)[:: -(-self.rank // _COLUMNS)]
        energies = [
            sum(float(np.sum((r * made) ** 2)) for made, r in zip(self._made(w), self.roots, strict=True))
            for w in columns
        ]
        self.factor /= max(math.sqrt(float(np.mean(energies))) / self.noise_std, 1e-150)

    def draws(self) -> Array:
        """Return by how many standard errors drawn errors of floating-point numbers move the estimate, one a row."""
        halves = [
            0.5 * np.spacing(np.abs(m).astype(o.targets[0].array.dtype)).astype(np.float64)
            for m, (o, _) in zip(self.predictions, self.parts, strict=True)
        ]
        every = np.concatenate([m.ravel() for m in self.predictions])
        scale = _SAME * float(np.abs(every).max()) or 1.0
        _, same = np.unique(np.rint(every / scale), return_inverse=True)
        ends = np.cumsum([m.size for m in self.predictions])[:-1]
        found, energy = [], 0.0
        for _ in range(_DRAWS):
            drawn = np.split(self.rng.uniform(-1.0, 1.0, int(same.max()) + 1)[same], ends)
            errors = [h * u.reshape(h.shape) for h, u in zip(halves, drawn, strict=True)]
            energy += sum(float(np.sum(np.square(e))) for e in self._beside(self._weighted(errors))) / _DRAWS
            found.append(self._moved(errors))
        moves = np.array(found)
        left = energy - self.noise_std**2 * float(np.mean(np.sum(moves**2, axis=1)))
        loud = math.sqrt(len(self.factor))
        if left > _TOLD * energy:
            loud = self.noise_std * math.sqrt(self.count / left)
            kinds = len(np.unique(same[np.concatenate([r.ravel() for r in self.roots]) > 0]))
            loud = 0.0 if loud < _EXACT[0] and kinds > self.rank + _EXACT[1] else max(1.0, loud)
        return moves * min(loud, _ARITHMETIC)

    @functools.cached_property
    def ends(self) -> list[tuple[Array, list[Array]]]:
        """Kernels that the one found may be an estimate of, in standard errors, and the residuals of their targets."""
        found = []
        for i in range(_STARTS):
            w, noise = self._start(_APART[i // 2 % len(_APART)], i)
            for _ in range(_STEPS):
                w = w - _LENGTH * (w + self._moved_all(self._errors(w, noise)))
            one = -self._moved_all(self._errors(w, noise))
            errors = self._errors(one, noise)
            other = -self._moved_all(errors)
            left = [
                np.where(r > 0, e + m, 0.0) * r for e, m, r in zip(errors, self._made(other), self.roots, strict=True)
            ]
            # where halves are rounded up and down in turn, the two cancel
            found.append(((one + other) / math.sqrt(2.0), left))
        return found


def _linear(estimate: Estimate) -> bool:
    """Return whether the estimate is least squares, of kernels of a form at most, and its factor that of its errors."""
    return estimate.factor is not None and (estimate.errors, estimate.uncertainty, estimate.unsettled) == (
        "plain",
        "sampling",
        0,
    )


def possible(estimate: Estimate, *, prior: bool = True) -> bool:
    """Return whether a fit has what this takes: a covariance from which that for random errors can be had.

    If `prior` is false none may hold the kernel.
    """
    held = estimate.factor is None or estimate.unsettled > 0 or estimate.uncertainty == "posterior"
    known = _linear(estimate) or estimate.least_squares is not None or estimate.kernel.size <= _MOST_TAPS
    return known and (prior or not held) and estimate.rank > 0 and 0 < estimate.noise_std < math.inf


def alike_where_flat(parts: list[Part]) -> float:
    """Return how much residuals of neighbours are alike where the prediction hardly changes from pixel to pixel.

    It is a chi-square of two degrees of freedom where the noise is random.
    """
    flat = []
    for observation, part in parts:
        if min(part.left.shape[1:]) < 2 or observation.plane is not None:
            return 0.0
        root = root_of(part, part.known)
        model = (part.targets - part.left) / np.where(root > 0, root, 1.0)
        slopes = np.gradient(model, axis=(1, 2))
        flat.append(part.known & (slopes[0] ** 2 + slopes[1] ** 2 < _FLAT**2))
    if sum(int(f.sum()) for f in flat) < _FEWEST:
        return 0.0
    total = 0.0
    for axis in (1, 2):
        products = []
        for (_, part), own in zip(parts, flat, strict=True):
            left, here = np.moveaxis(part.left, axis, 0), np.moveaxis(own, axis, 0)
            products.append((left[1:] * left[:-1])[here[1:] & here[:-1]])
        every = np.concatenate(products)
        total += float(every.sum()) ** 2 / max(float(np.vdot(every, every)), 1e-300)
    return total


def scatter(
    parts: list[Part], estimate: Estimate, variance: float | None, *, passes: bool = False
) -> tuple[Array, Array, Array]:
    """Return columns U, so that ``U U'`` is to be added to the covariance of the taps, none if errors are random.

    The `variance` is that of the noise beside rounding to integers, which may be that of rounding between two `passes`;
    None for floating-point numbers. The other arrays are those of least squares without a prior, and a factor of the
    covariance for random errors.
    """
    rounding = Rounding(parts, estimate, variance or 0.0, passes=passes)
    plain = rounding.factor / math.sqrt(rounding.share)
    nothing = np.zeros((estimate.kernel.size, 0))
    none = nothing, nothing, plain
    if rounding.count <= rounding.rank or (variance is not None and rounding.random()):
        return none
    if variance is None:
        ends, compared = rounding.draws(), rounding.count
    else:
        rounding.scaled()
        ends = np.array([w[: rounding.rank] for w, _ in rounding.ends])
        compared = ends.size
    ratio = float(np.mean(ends**2))
    if not ratio > _FACTOR or scipy.special.fdtrc(ends.size, compared, ratio) > _CHANCE:
        return none
    moves = rounding.factor @ ends.T * math.sqrt((1.0 - 1.0 / ratio) / len(ends))
    return np.asarray(moves if rounding.held is None else rounding.held @ moves), moves, plain
