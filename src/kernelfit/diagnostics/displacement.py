"""How the tiles of a target are displaced against what the kernel predicts: a rotation, a scale."""

import math

import numpy as np
import scipy.fft
import scipy.special

from ..core.validation import Array
from .tiles import Part, root_of

#: A linear displacement is told where chance would make as much of it in so few cases, ...
_UNLIKELY = 3e-5
#: ... and where this share of the variance of the displacements at most is not linear.
_LINEAR = 0.2


def moved(parts: list[Part]) -> str | None:
    """Return rotation and scale if the target's tiles are displaced linearly with their place, in words."""
    places, moves, sizes = [], [], []
    for observation, part in parts:
        root = np.where(part.known, root_of(part, part.known), 1.0)
        targets, model = part.left / root + part.model * part.known, part.model * part.known
        plan = observation.geometry
        middle = 0.5 * (np.array(part.left.shape[1:]) - 1) + plan.offset - 0.5 * (np.array(plan.target_shape) - 1)
        for start, target, made in zip(part.starts, targets, model, strict=True):
            found = _displacement(made, target)
            if found is not None:
                places.append(np.array(start) + middle)
                moves.append(found[0])
                sizes.append(found[1])
    if len(places) < 6:
        return None
    design = np.column_stack([np.ones(len(places)), np.array(places)])
    d = np.array(moves)
    weights = np.minimum(np.sqrt(sizes) / np.median(np.sqrt(sizes)), 1.0)
    for _ in range(3):
        table = np.linalg.lstsq(design * weights[:, None], d * weights[:, None], rcond=None)[0]
        off = np.linalg.norm(d - design @ table, axis=1)
        weights = weights * np.minimum(1.0, 2 * np.median(off) / np.maximum(off, 1e-12))
    mean = np.average(d, axis=0, weights=weights**2)
    whole = float((weights[:, None] ** 2 * (d - mean) ** 2).sum())
    rest = float((weights[:, None] ** 2 * (d - design @ table) ** 2).sum())
    n, free = 4, 2 * len(d) - 6
    ratio = (whole - rest) / n / max(rest / free, 1e-12)
    if not (rest < _LINEAR * whole and scipy.special.fdtrc(n, free, ratio) < _UNLIKELY):
        return None
    turn, scale = 0.5 * (table[1, 1] - table[2, 0]), 1.0 + 0.5 * (table[1, 0] + table[2, 1])
    return (
        f"the target is turned by {math.degrees(turn):.3g} degrees (counter-clockwise) and magnified {scale:.5g} times "
        f"against the image: its parts are displaced by up to {np.abs(design @ table - mean).max():.2g} pixels"
    )


def _displacement(model: Array, target: Array) -> tuple[Array, float] | None:
    """Return by how many rows and columns a tile of the target is displaced against its prediction; and its detail."""
    m, y = model - model.mean(), target - target.mean()
    window = np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in m.shape))
    cross = np.conj(scipy.fft.rfft2(m * window, workers=1)) * scipy.fft.rfft2(y * window, workers=1)
    size = np.abs(cross)
    if not size.max() > 0:
        return None
    near = scipy.fft.irfft2(cross / np.sqrt(size + 1e-6 * size.max()), m.shape, workers=1)
    reach = [n // 3 for n in m.shape]
    lags = [np.arange(-k, k + 1) for k in reach]
    part = near[np.ix_(lags[0] % m.shape[0], lags[1] % m.shape[1])]
    at = np.unravel_index(int(np.argmax(part)), part.shape)
    whole = np.array([int(lags[k][at[k]]) for k in (0, 1)])
    for _ in range(3):  # the rest by the slope of the prediction
        cut = [slice(max(1, 1 + int(s)), n - 1 + min(0, int(s))) for s, n in zip(np.rint(whole), m.shape, strict=True)]
        back = [slice(c.start - int(s), c.stop - int(s)) for c, s in zip(cut, np.rint(whole), strict=True)]
        if any(b.start < 1 or b.stop > n - 1 or b.stop - b.start < 8 for b, n in zip(back, m.shape, strict=True)):
            return None
        dy = 0.5 * (m[back[0].start + 1 : back[0].stop + 1, back[1]] - m[back[0].start - 1 : back[0].stop - 1, back[1]])
        dx = 0.5 * (m[back[0], back[1].start + 1 : back[1].stop + 1] - m[back[0], back[1].start - 1 : back[1].stop - 1])
        base, seen = m[back[0], back[1]], y[cut[0], cut[1]]
        design = np.stack([-dy.ravel(), -dx.ravel(), base.ravel(), np.ones(base.size)], axis=1)
        found = np.linalg.lstsq(design, seen.ravel(), rcond=1e-6)[0]
        if not abs(found[2]) > 0.1:
            return None
        step = np.clip(found[:2] / found[2], -1.0, 1.0)
        before = np.rint(whole)
        whole = before + step
        if np.array_equal(np.rint(whole), before):
            break
    return whole, float((dy**2).sum() + (dx**2).sum())
