"""What the noise of the image adds to the sums of some observations: its counts, and what weights know of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.background import Elimination
from ..core.validation import Array
from ..data.observation import Observation, Weights
from ..solvers.errors_in_variables import counts_of, pairs_of, projected_of


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

    def shift(self, std: float, taps: Array | None) -> Array | None:
        """Return what the moments of weights from the residual of a kernel lack, None without any."""
        return None if self.excess is None or taps is None else -(std**2) * (self.excess @ taps)
