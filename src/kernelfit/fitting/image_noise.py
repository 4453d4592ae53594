"""What the noise of the image adds to the sums of some observations: its counts, and what weights know of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.background import Elimination
from ..core.geometry import Geometry
from ..core.validation import Array
from ..core.variation import legendre, powers_of_volume
from ..data.observation import Observation, Weights, lots
from ..solvers.errors_in_variables import counts_of, laid_back, laid_by, pairs_of, pairs_within, projected_of


@dataclass(frozen=True, eq=False)
class ImageNoise:
    """The sums of image noise of variance 1."""

    counts: Array  # (taps, taps); its Gram matrix, the background eliminated
    pairs: Array | None = None  # as `pairs_of` returns them; None where all pixels count once
    #: (taps, taps); by how much `counts` is too large because the weights w come from the residual r. The moments are
    #: ``A'psi(r)`` with ``psi = w r``, and normal noise N of variance s^2 in A makes of them ``E N'psi(r) = -s^2 k E
    #: psi'(r)``: a pixel counts psi', not w
    excess: Array | None = None

    @classmethod
    def of(
        cls,
        observations: Sequence[Observation],
        weights: Sequence[Weights] | None,
        eliminations: Sequence[Elimination],
        slopes: Sequence[Array] | None = None,
    ) -> "ImageNoise":
        """Add up over observations; `slopes` are psi' where the weights come from the residual."""
        if observations[0].plane is not None:
            return cls._of_volumes(observations, weights, eliminations, slopes)
        given = [None if weights is None else np.asarray(weights[i][:]) for i in range(len(observations))]
        counts, pairs, excess = [], [], []
        for i, (observation, own) in enumerate(zip(observations, given, strict=True)):
            plan = observation.geometry
            found = counts_of(plan, own)
            if own is not None:
                pairs.append(pairs_of(own, plan))
            if slopes is not None:
                excess.append(found - counts_of(plan, slopes[i]))
            if eliminations:
                columns = observation.columns
                found = found - projected_of(plan, columns, eliminations[i].root, own)
            counts.append(found)
        field = observations[0].geometry.convention.field
        n_images = len(observations[0].sources) // (1 if field is None else field.n)
        each = np.eye(n_images)  # the noise of one image has nothing of another's
        whole, beyond = (np.asarray(np.kron(each, sum(one))) if one else None for one in (counts, excess))
        assert whole is not None
        return cls(whole, np.asarray(sum(pairs)) if pairs else None, beyond)

    @classmethod
    def _of_volumes(
        cls,
        observations: Sequence[Observation],
        weights: Sequence[Weights] | None,
        eliminations: Sequence[Elimination],
        slopes: Sequence[Array] | None,
    ) -> "ImageNoise":
        """Add up over the planes of volumes: taps of two planes of the kernel may lie on one plane of the image."""
        counts: Any = 0.0
        beyond: Any = 0.0
        pairs: Any = 0.0
        for number, lot in enumerate(lots(observations)):
            own = [observations[i] for i in lot]
            plan = own[0].geometry
            given: list[Any] | None = None if weights is None else [np.asarray(weights[i][:]) for i in lot]
            counts = counts + _counts(own, given)
            if given is not None:
                pairs = pairs + pairs_within(np.stack(given), own[0].supports[0], own[0].convention.stride)
            if slopes is not None:
                beyond = beyond + _counts(own, given) - _counts(own, [slopes[i] for i in lot])
            if eliminations:
                mean = 1.0 if given is None else float(np.mean(given, dtype=np.float64))
                counts = counts - mean**2 * _projected(own, plan, eliminations[number].root)
        each = np.eye(len(observations[0].supports))  # the noise of one channel has nothing of another's
        whole, more = np.kron(each, counts), None if slopes is None else np.kron(each, beyond)
        return cls(whole, None if weights is None else pairs, more)

    @staticmethod
    def std_of(observations: Sequence[Observation], std: float) -> float:
        """Return its standard deviation in a source; of complex images each part has half the variance."""
        return std / math.sqrt(2.0) if observations[0].geometry.convention.apart else std

    def shift(self, std: float, taps: Array | None) -> Array | None:
        """Return what the moments of weights from the residual of a kernel lack, None without any."""
        return None if self.excess is None or taps is None else -(std**2) * (self.excess @ taps)


def _planes(planes: Sequence[Observation]) -> npt.NDArray[np.int64]:
    """Return which plane of the image each plane of the kernel lies on, -1 for fill values: (planes, target planes)."""
    each = [[-1 if at is None else at for at in one.plane.images] for one in planes if one.plane is not None]
    return np.array(each, dtype=np.int64).T


def _counts(planes: Sequence[Observation], weights: Sequence[Weights] | None) -> Array:
    """Return how often two taps of a volume's kernel multiply the same noisy pixel; see `counts_of`."""
    seen, plan = _planes(planes), planes[0].geometry
    same = (seen[:, None] == seen) & (seen >= 0)
    if weights is None:
        return np.kron(same.sum(axis=2).astype(np.float64), counts_of(plan))
    total: Any = 0.0
    for z, own in enumerate(weights):
        total = total + np.kron(same[..., z].astype(np.float64), counts_of(plan, own))
    return np.asarray(total)


def _projected(planes: Sequence[Observation], plan: Geometry, root: Array) -> Array:
    """Return what `_counts` loses with a background; see `projected_of`. Of weights the mean counts."""
    one, seen = planes[0], _planes(planes)
    degree, depth = one.background or 0, one.whole[0]
    used = [p.plane.at for p in planes if p.plane is not None]
    laid = [laid_by(seen, int(seen.max()) + 1, legendre(depth, degree)[used]), *laid_back(plan, one.columns)]
    tables = [np.einsum("ipz,jqz->ijpq", each, each, optimize=True) for each in laid]
    every, shares = powers_of_volume(degree), root @ root.T
    total: Any = 0.0
    for a, row in zip(every, shares, strict=True):
        for b, share in zip(every, row, strict=True):
            first, second, third = (table[i, j] for table, i, j in zip(tables, a, b, strict=True))
            total = total + share * np.kron(np.kron(first, second), third)
    return np.asarray(total)
