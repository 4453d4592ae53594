"""Whether the model holds: what of the residual the image explains all the same, from a sample of tiles.

Under the right kernel the residual is noise, which nothing made of the image alone can predict. So each misfit is a set
of features f of the image and the kernel, of which the sums ``g_b = sum_t f[t] r[t]`` over small cells b have the mean
zero unless the misfit is there. Whether they have is what Hotelling's test says (Annals of Mathematical Statistics 2
(1931) 360), whatever the noise's variance from place to place and its correlation within a cell. The features are those
of a local change of the kernel: the prediction and its first and second derivatives, for a gain, a shift and a change
of width. They are taken alone beside powers of the prediction and slopes (a filter that is not linear); times the
place (a kernel that varies, of which a rotation or a scale is a part); and times 1 and -1 on alternate rows. A kernel
wider than its support shows in the correlation of the residual with the whitened image at lags outside of it.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.validation import Array
from .drift import drifting
from .lags import lags_of, residuals_of, suspects
from .local_scores import CURVED, LOCAL, Cells, cells_of, evened, hotelling
from .plateau import cut_off, missing
from .quantization import ALONE, HALF_WAY, ROUNDING, beside, rounding_of, with_rounding
from .rounding import Rounding, alike_where_flat, possible
from .tile_design import TileDesign, moved
from .tiles import Part, energy_of, root_of, trimmed, with_residuals

#: Rows and columns of a tile that it takes to have derivatives.
_NARROW = 8
#: A misfit is told where chance would make as much of it in so few cases; of signals, which are correlated further.
_CHANCE, _NEVER = 3e-5, 1e-7
#: Tiles whose kernels differ, in standard deviations.
_TILES = 7.0
#: Below this share of the target's root mean square the residual is rounding.
_ROUNDING_SHARE = 1e-6
#: A misfit is told beside a greater one if it explains this share of what that does; and such a share of what there is
#: beyond the rounding of the target where that is so little that a filter may have rounded half way, of a misfit that
#: this may look like (a curve, or kernels that differ where residuals are alike in flat parts), and of another. Alike
#: they are from such a chi-square of two degrees of freedom on.
_BESIDE, _MOST_OF, _SOME_OF, _ALIKE = 0.5, 0.4, 0.2, 12.0
#: Pixels more than taps; margin of the wider support that is compared; a constant counts from so many standard errors
#: on; share of clipped pixels; share of a misfit that is left of it when another is taken off.
_SPARE, _MARGIN, _OFFSET, _CLIPPED, _TRACE = 32, 6, 6.0, 0.003, 0.1


#: Side of JPEG's blocks; standard errors by which the residual jumps more at one row in so many than at most, and than
#: at the next to that.
_BLOCK, _JUMP, _ALONE = 8, 4.0, 1.5


@dataclass(frozen=True)
class _Test:
    """What speaks for a misfit: the chance that noise would show as much, and the share of the residual it explains."""

    chance: float
    share: float
    detail: str
    at: tuple[int, int] = (0, 0)


def misfits(parts: list[Part], estimate: Estimate, *, weighted: bool) -> list[Finding]:
    """Return what speaks against the model of a fit of one target, the worst first; nothing if all seems well."""
    # One thread does it all, the sample being small.
    if (
        not estimate.noise_std > 0
        or estimate.image_noise > 0
        or any(f.verdict is Verdict.NOT_CONVERGED for f in estimate.findings)
    ):
        return []  # what is left tells of the iterations, or of the image's noise
    if estimate.df_resid < max(_SPARE, estimate.rank):
        return []  # the fit may have taken any misfit in
    whole, parts = parts, trimmed(parts, weighted=weighted)
    energy = energy_of([p.left for _, p in parts])
    if not energy > _ROUNDING_SHARE**2 * energy_of([p.targets for _, p in parts]):
        return []
    clipped = cut_off(whole, estimate)
    if clipped is not None:
        return [clipped]
    biased = estimate.solver != "LeastSquares()" or estimate.method == "wiener"
    count = sum(int(p.known.sum()) for _, p in parts)
    if biased:  # what a prior holds back of the kernel is no misfit
        if 4 * estimate.kernel.size > count:
            return []
        inside = TileDesign.of(parts)
        parts = with_residuals(parts, inside.without([p.left for _, p in parts]), inside.kept)
        if not energy_of([p.left for _, p in parts]) > 0:
            return []
    integer = all(np.dtype(o.targets[0].array.dtype).kind in "iu" for o, _ in parts)
    alike = all(p.root is None or bool((p.root[p.known] == 1).all()) for _, p in parts)  # in units of the pixels
    rounding = integer and alike and estimate.noise_std < ALONE * math.sqrt(ROUNDING)
    half_way = integer and alike and not rounding and estimate.noise_std < HALF_WAY * math.sqrt(ROUNDING)
    # of rounding alone; the kernels that it may come from tell what it makes of lags outside the support
    fit = with_rounding(dataclasses.replace(estimate, rounding=rounding_of(estimate))) if rounding else None
    if any(min(p.left.shape[1:]) < _NARROW for _, p in parts):  # of signals the lags, and whether it drifts
        outside = [Finding(v, t.detail) for v, t in _outside(parts, fit).items()]
        chance, share, words = drifting(parts, estimate)
        if rounding or outside or not chance < _NEVER:
            return outside
        detail = f"the kernel drifts from one end to the other, {words}; it explains {_percent(share)} of the residual"
        return [Finding(Verdict.VARYING, detail)]
    if estimate.convention.apart and estimate.background is None and estimate.rank == estimate.kernel.size:
        constants = _complex_constant(parts)
        if constants is not None:
            return [constants]
    cells = cells_of(parts)
    found = _tests(cells, estimate)
    parity = not (any("even and odd" in t.detail for t in found.values()) and in_blocks(parts))
    found = found if parity else _tests(cells, estimate, parity=False)
    if rounding:  # rounding errors are alike where the image is flat: no curve, and no other place, could do better
        found = {v: t for v, t in found.items() if v is Verdict.OFFSET}
    found |= _outside(parts, fit)
    if cells.uneven and Verdict.SHAPE_TOO_SMALL not in found:
        found |= _outside(evened(parts), fit)
    told = _explained(parts, found, cells, integer, fit, estimate, parity, half_way) if found else []
    return told or ([] if rounding or half_way else missing(whole, estimate))


def _beyond(found: dict[Verdict, _Test], parts: list[Part]) -> dict[Verdict, _Test]:
    """Return the misfits that explain the most of what is beyond the rounding of the target, and a constant.

    A filter that rounds half way (between passes, or saved between two filters) leaves more than one rounding, of which
    a part follows the image where that is smooth, as its errors are alike there: no kernel could do better.
    """
    tiles = [p.left for _, p in parts]
    beyond = 1.0 - ROUNDING * sum(int(p.known.sum()) for _, p in parts) / max(energy_of(tiles), 1e-300)
    like = {Verdict.NONLINEAR, Verdict.VARYING} if alike_where_flat(parts) > _ALIKE else {Verdict.NONLINEAR}
    shares = {v: beyond * (_MOST_OF if v in like else _SOME_OF) for v in found}
    return {v: t for v, t in found.items() if v is Verdict.OFFSET or t.share > shares[v]}


def _tests(cells: Cells, estimate: Estimate, *, parity: bool = True) -> dict[Verdict, _Test]:
    """Return the misfits that the sums over cells show."""
    (y, x), local = cells.place, list(LOCAL)
    found: dict[Verdict, list[_Test]] = {}

    def add(verdict: Verdict, result: tuple[float, float, str], words: str) -> None:
        if result[0] < _CHANCE:
            found.setdefault(verdict, []).append(_Test(result[0], result[1], words.format(result[2])))

    add(Verdict.NONLINEAR, hotelling(*cells.alone(list(CURVED), [0, *local]), cells.energy), "{}")
    places = "the kernels of parts of the field differ, {}"
    for alike in {False, cells.uneven}:
        for factors in ([y, x], [y * y, x * x, x * y]):
            add(Verdict.VARYING, hotelling(*cells.modulated(factors, local, alike=alike), cells.energy), places)
    gram = cells.gram[np.ix_(local, local)]
    for sign, what in (
        ([[1, 1], [-1, -1]], "even and odd rows"),
        ([[1, -1], [1, -1]], "even and odd columns"),
        ([[1, -1], [-1, 1]], "pixels of even and odd row plus column"),
    )[: None if parity else 0]:
        scores = np.einsum("fyxb,yx->fb", cells.scores[local], sign)
        add(Verdict.VARYING, hotelling(scores, gram, cells.energy), f"{what} have kernels of their own, {{}}")
    for alike in {False, cells.uneven}:
        for n_tiles, excess, share in cells.differing(local, alike=alike):
            if excess > _TILES:
                words = f"the kernels of {n_tiles} tiles differ by {excess:.3g} times what chance makes of it"
                found.setdefault(Verdict.VARYING, []).append(_Test(0.0, share, words))
    if estimate.background is None:
        add(Verdict.OFFSET, hotelling(*cells.alone([0], local), cells.energy), "{}")
    return {verdict: max(some, key=lambda t: t.share) for verdict, some in found.items()}


def in_blocks(parts: list[Part]) -> bool:
    """Return whether the residual jumps at every eighth row and column, as JPEG's blocks make a target do."""
    for axis in (1, 2):
        jumps = []
        for _, p in parts:
            steps = np.abs(np.diff(p.left, axis=axis)).mean(axis=3 - axis)
            for (row, col), own in zip(p.starts, steps, strict=True):
                phase = (np.arange(len(own)) + (row if axis == 1 else col)) % _BLOCK
                if len(own) >= 2 * _BLOCK and own.mean() > 0:
                    jumps.append([own[phase == c].mean() / own.mean() for c in range(_BLOCK)])
        table = np.array(jumps).reshape(-1, _BLOCK)
        if len(table) < 2:
            return False
        means, errors = table.mean(axis=0), table.std(axis=0, ddof=1) / math.sqrt(len(table))
        second, first = np.argsort(means)[-2:]
        middle = float(np.median(means))
        if not (
            means[first] - middle > _JUMP * errors[first] and means[first] - means[second] > _ALONE * errors[first]
        ):
            return False
    return True


def _outside(parts: list[Part], fit: Estimate | None) -> dict[Verdict, _Test]:
    """Return whether the residual, by more than rounding does, correlates with an image outside the support."""
    found, sources = [], suspects(parts, alike=fit is not None)
    residuals = residuals_of(parts, alike=fit is not None) if sources else []
    others = _of_rounding(parts, fit) if sources and fit is not None else []
    if others is None:
        return {}
    for source in sources:
        lags = lags_of(parts, source, residuals)
        same = [lags_of(some, source, residuals_of(some, alike=True)) for some in others]
        if lags.stands_out(same) if same else lags.seen():
            beyond, at = lags.beyond(), lags.peak()
            plan = parts[0][0].geometry
            axes = zip(at, lags.score.shape, plan.kernel_shape, strict=True)
            signed = [int(u) if u < (n + k) / 2 else int(u) - n for u, n, k in axes]
            tap = [k - 1 - u if plan.flipped else u for u, k in zip(signed, plan.kernel_shape, strict=True)]
            near = (beyond > 0) & (beyond <= _MARGIN)
            share = float((lags.score[near] ** 2).sum() - lags.spread**2 * near.sum()) / max(1, lags.count)
            correlation = float(lags.score[at]) / math.sqrt(max(1, lags.count))
            sides = "x".join(map(str, plan.kernel_shape))
            detail = f"correlation {correlation:.2g} with the image at tap {tuple(tap)}, outside the {sides} kernel"
            found.append(_Test(0.0, max(share, correlation**2), detail, (signed[0], signed[1])))
    return {Verdict.SHAPE_TOO_SMALL: max(found, key=lambda t: t.share)} if found else {}


def _of_rounding(parts: list[Part], fit: Estimate) -> list[list[Part]] | None:
    """Return the tiles with the residuals that rounding leaves of kernels like the one found, None if nothing tells."""
    if not possible(fit, prior=False):
        return None
    rounding = Rounding(parts, fit, beside(fit))
    if rounding.count <= rounding.rank:
        return None
    rounding.scaled()
    return [with_residuals(parts, left, [p.known for _, p in parts]) for _, left in rounding.ends]


def _explained(
    parts: list[Part],
    found: dict[Verdict, _Test],
    cells: Cells,
    integer: bool,
    fit: Estimate | None,
    estimate: Estimate,
    parity: bool,
    half_way: bool,
) -> list[Finding]:
    """Return what explains the most of the residual, and what is left to explain beside it."""
    tiles = [p.left for _, p in parts]
    if estimate.background is None and not found.keys() <= {Verdict.VARYING}:
        constant, rest = _constant(parts, integer)
        if constant is not None and fit is not None:  # of rounding alone, which may make one where the image is flat
            others = _of_rounding(parts, fit) or []
            constant = None if any(_constant(other, integer)[0] for other in others) else constant
        found.pop(Verdict.OFFSET, None)
        if constant is not None:
            found[Verdict.OFFSET] = constant
            without = with_residuals(parts, rest, [p.known for _, p in parts])
            still = {} if fit is not None else _tests(cells_of(without), estimate, parity=parity)
            still = _beyond(still, without) if half_way else still
            still |= {} if fit is not None else _outside(without, None)
            still = _remaining(still, energy_of(rest) / energy_of(tiles), found)
            if not still.keys() - {Verdict.OFFSET}:
                found = {Verdict.OFFSET: constant}
            else:
                # a straight line comes nearer to a curve, or to what another place makes, if it need not meet zero
                for verdict in (Verdict.NONLINEAR, Verdict.SHAPE_TOO_SMALL):
                    if verdict in still:
                        share = still[verdict].share + constant.share
                        found[verdict] = dataclasses.replace(still[verdict], share=share)
                        found.pop(Verdict.OFFSET, None)
            found = {**{v: t for v, t in still.items() if v is not Verdict.OFFSET}, **found}
    if not found.keys() <= {Verdict.NONLINEAR, Verdict.OFFSET} and cells.displaced():
        words = moved(parts)
        if words is not None:
            return [Finding(Verdict.MISALIGNED, words)]
    if Verdict.SHAPE_TOO_SMALL in found:
        shape = found[Verdict.SHAPE_TOO_SMALL]
        wide = TileDesign.of(parts, _margins(parts, shape.at))
        before = [np.where(k, t, 0.0) for k, t in zip(wide.kept, tiles, strict=True)]
        after = wide.without(tiles)
        count, n_taps = sum(int(k.sum()) for k in wide.kept), int(wide.taps.sum()) * parts[0][1].blocks.shape[0]
        whole, share = energy_of(before), 0.0  # the margins of a far lag may leave no pixel to compare by
        if whole > 0 and count > n_taps:
            share = 1.0 - energy_of(after) / whole * count / (count - n_taps)
        found[Verdict.SHAPE_TOO_SMALL] = shape = dataclasses.replace(shape, share=max(share, shape.share))
        if whole > 0 and all(shape.share >= t.share for t in found.values()):
            still = _remaining(
                _tests(cells_of(with_residuals(parts, after, wide.kept)), estimate, parity=parity), 1.0 - share, found
            )
            # to a wider kernel a curve is as much of a misfit
            found = {Verdict.SHAPE_TOO_SMALL: shape} | {
                v: dataclasses.replace(t, share=t.share + shape.share * (v is Verdict.NONLINEAR))
                for v, t in still.items()
                if v in found
            }
    found = _beyond(found, parts) if half_way else found
    most = max(t.share for t in found.values()) if found else 0.0
    kept = {v: t for v, t in found.items() if t.share >= _BESIDE * most}
    if Verdict.NONLINEAR in kept:
        kept[Verdict.NONLINEAR] = dataclasses.replace(kept[Verdict.NONLINEAR], detail=_curve(parts, cells))
    return sorted(
        (Finding(v, f"{t.detail}; it explains {_percent(t.share)} of the residual") for v, t in kept.items()),
        key=lambda f: -kept[f.verdict].share,
    )


def _remaining(found: dict[Verdict, _Test], rest: float, before: dict[Verdict, _Test]) -> dict[Verdict, _Test]:
    """Return what is left of misfits once another is taken off, with its shares of the whole residual."""
    shares = {v: dataclasses.replace(t, share=max(0.0, rest) * t.share) for v, t in found.items()}
    return {v: t for v, t in shares.items() if v not in before or t.share > _TRACE * before[v].share}


def _margins(parts: list[Part], peak: tuple[int, int]) -> list[tuple[int, int]]:
    """Return how many taps more a wider support is to have on each side, so that it holds a lag."""
    plan = parts[0][0].geometry
    margins = []
    for axis, (lag, k, step) in enumerate(zip(peak, plan.kernel_shape, plan.stride, strict=True)):
        most = min(step * (p.left.shape[1 + axis] // 3) for _, p in parts)
        ahead, beyond = (max(_MARGIN, m + _MARGIN // 2) if m > 0 else _MARGIN for m in (-lag, lag - k + 1))
        margins.append((min(ahead, most), min(beyond, most)))
    return margins


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2g} %"


def _constant(parts: list[Part], integer: bool) -> tuple[_Test | None, list[Array]]:
    """Return whether a constant lies in the target beside what the kernel makes, and the residual without it."""
    design = functools.lru_cache(1)(lambda: TileDesign.of(parts))

    def make() -> tuple[Array, ...]:
        return tuple(design().without([root_of(p, p.known) for _, p in parts]))

    plain = all(p.root is None and bool(p.known.all()) for _, p in parts)  # so that it is the images that tell
    key = "ones", *(id(p.blocks) for _, p in parts)
    ones, left = parts[0][1].made.once(key, make) if plain else make(), [p.left for _, p in parts]
    size = energy_of(ones)
    if not size > 0:
        return None, left
    # what is left of a fit of all pixels holds next to nothing that the kernel explains, and mostly no constant
    value, error = _mean_of(ones, left, size)
    if abs(value) > 0.5 * _OFFSET * error:
        left = design().without(left)
        value, error = _mean_of(ones, left, size)
    if not abs(value) > _OFFSET * error:
        return None, left
    detail = f"a constant of {value:.3g} +- {error:.2g}"
    if integer and abs(value + 0.5) < max(0.05, 3.0 * error) < 0.25:
        detail += ", the target's values being rounded down to integers, it seems"
    found = _Test(0.0, value**2 * size / max(energy_of(left), 1e-300), detail)
    return found, [r - value * one for one, r in zip(ones, left, strict=True)]


def _mean_of(ones: Sequence[Array], left: Sequence[Array], size: float) -> tuple[float, float]:
    """Return the constant in tiles, given what a constant leaves and its energy, and its error whatever the noise."""
    product = sum(float(np.vdot(a, b)) for a, b in zip(ones, left, strict=True))
    sums = []
    for one, r in zip(ones, left, strict=True):
        n, rows, cols = one.shape
        down, across = max(1, rows // 4), max(1, cols // 4)
        own = (one * r)[:, : rows // down * down, : cols // across * across]
        sums.append(own.reshape(n, rows // down, down, cols // across, across).sum(axis=(2, 4)).ravel())
    return product / size, math.sqrt(sum(float(np.vdot(s, s)) for s in sums)) / size


def _complex_constant(parts: list[Part]) -> Finding | None:
    """Return whether a constant lies in complex targets, whose two parts have one of their own."""
    halves = [[part for part in parts if part[0].imaginary == imaginary] for imaginary in (False, True)]
    told, share = [], 0.0
    for name, half in zip(("real", "imaginary"), halves, strict=True):
        found = _constant(half, False)[0] if half else None
        if found is not None:
            told.append(f"{found.detail} in the {name} parts")
            share += found.share * energy_of([p.left for _, p in half]) / energy_of([p.left for _, p in parts])
    return (
        Finding(Verdict.OFFSET, f"{' and '.join(told)}; it explains {_percent(share)} of the residual")
        if told
        else None
    )


def _curve(parts: list[Part], cells: Cells) -> str:
    """Say how the residual depends on the prediction."""
    values = np.concatenate([((p.targets - p.left) / root_of(p, p.known).clip(1e-300))[p.known] for _, p in parts])
    targets = np.concatenate([(p.targets / root_of(p, p.known).clip(1e-300))[p.known] for _, p in parts])
    for end, name in ((targets.max(), "above"), (targets.min(), "below")):
        if np.mean(targets == end) > _CLIPPED and len(np.unique(targets[:: max(1, len(targets) // 4096)])) > 16:
            return f"{_percent(float(np.mean(targets == end)))} of the target stand at {end:.6g} with nothing {name}"
    local = [0, *LOCAL]
    shares = [hotelling(*cells.alone(which, local), cells.energy)[1] for which in ([7, 8], [9, 10, 11, 12])]
    if shares[0] > shares[1]:
        return "the residual stands along the edges in the image, as after a median, or a blur of gamma-encoded values"
    order = np.argsort(values)
    bins = [part for part in np.array_split(order, 24)[1:-1] if len(part)]
    at, mean = (np.array([float(v[b].mean()) for b in bins]) for v in (values, targets))
    if min(at.min(), mean.min()) > 0 and np.diff(at).min(initial=np.inf) > 1e-6 * at[-1]:
        power = np.polyfit(np.log(at), np.log(mean), 1, w=np.sqrt([len(b) for b in bins]))[0]
        if abs(power - 1) > 0.02:
            return f"the target runs about like its prediction to the power of {power:.2f}"
    even = (at - at.mean()) / (float(np.ptp(at)) or 1.0)
    way = "upwards" if np.linalg.lstsq(np.vander(even, 3), mean, rcond=None)[0][0] > 0 else "downwards"
    return f"drawn over its prediction the target bends {way}"
