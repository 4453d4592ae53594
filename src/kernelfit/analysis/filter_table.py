"""All families of filters that are tried, and what two of them make one after the other."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.fft

from . import filter_families as families
from . import filter_shapes as shapes
from .filter_families import ADD, BLEND, FAR, GAIN, SLOPE, UNIT, Family, Hint, Setting, Start
from .filter_fixed import FIXED, fixed
from .filter_shapes import Grid

Array = npt.NDArray[np.float64]
Taps = Callable[[Grid, Setting, Array], Array]


def _spot(grid: Grid, setting: Setting, theta: Array) -> Array:
    return shapes.outer(*(shapes.cut(axis, 0.25) for axis in grid.axes()))


def _box(grid: Grid, setting: Setting, theta: Array) -> Array:
    return shapes.product(*(shapes.cut(a, (n - 1) / 2) for a, n in zip(grid.axes(), setting, strict=True)))


def _soft_box(grid: Grid, setting: Setting, theta: Array) -> Array:
    widths = (float(theta[0]), float(theta[-1]))
    return shapes.product(*(shapes.soft_box(a, w) for a, w in zip(grid.axes(), widths, strict=True)))


def _binomial(grid: Grid, setting: Setting, theta: Array) -> Array:
    return shapes.product(*(shapes.binomial(a, n) for a, n in zip(grid.axes(), setting, strict=True)))


def _opencv(grid: Grid, setting: Setting, theta: Array) -> Array:
    return shapes.outer(*(shapes.steps(a, table) for a, table in zip(grid.axes(), setting, strict=False))) / 2.0**16


def _pillow(grid: Grid, setting: Setting, theta: Array) -> Array:
    widths = (float(theta[0]), float(theta[-1]))
    return shapes.outer(*(shapes.pillow_bell(a, s) for a, s in zip(grid.axes(), widths, strict=True)))


def _laplacian(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return a Laplacian with a share alpha of diagonals, as of MATLAB's "laplacian"."""
    y, x = (np.abs(a) for a in grid.axes())
    steps = y[:, None] + x[None, :]
    near = (y[:, None] < 1.5) & (x[None, :] < 1.5)
    weights = [-1.0, (1 - theta[0]) / 4, theta[0] / 4]
    taps = np.where(near, np.choose(np.minimum(np.rint(steps), 2).astype(np.intp), weights), 0.0)
    return np.asarray(taps * 4 / (theta[0] + 1))


def _radial(profile: Callable[..., Array]) -> Taps:
    return lambda grid, setting, theta: shapes.radial(grid, lambda r: profile(r, *theta), setting[0])


def _soft_box_starts(grid: Grid, hint: Hint) -> list[Start]:
    both = tuple(math.sqrt(12 * s * s + 1) for s in (hint.rows, hint.cols))
    return [((), tuple(f * w for w in both)) for f in (1.0, 0.9, 0.8, 1.1)]


def _near(*factors: float) -> Callable[[Grid, Hint], list[Start]]:
    return lambda grid, hint: [((), (hint.sigma * f,)) for f in factors]


def _soft_ring_starts(grid: Grid, hint: Hint) -> list[Start]:
    return [((), (hint.sigma * f, hint.sigma * (f + g))) for f in (0.6, 1.0, 1.3) for g in (0.4, 0.8, 1.5)]


def _line(kind: str) -> Family:
    return Family(
        "motion", ("length", "angle"),
        lambda grid, setting, theta: shapes.line(grid, float(theta[0]), float(theta[1]), setting[0]),
        families.line_starts(kind), tries=3,
    )  # fmt: skip


def _integer(grid: Grid, hint: Hint) -> list[Start]:
    return [] if any(c % 1 for c in grid.center) else [((), ())]


def _middle(grid: Grid, hint: Hint) -> list[Start]:
    return [((), (0.2,))] if _integer(grid, hint) and min(grid.reach()) > 0 else []


def _line_of_ones(grid: Grid, hint: Hint) -> list[Start]:
    return [((n, m), ()) for (n, m), _ in families.box_starts(grid, hint) if min(m, n) == 1 and max(m, n) > 2]


SPOT = Family("identity", (), _spot, _integer, constant=True)
AREA = Family(
    "area", (), _box, lambda grid, hint: [(hint.stride, ())] if hint.stride != (1, 1) else [],
    modes=(UNIT, GAIN), known=lambda setting, theta: {"rows": float(setting[0]), "cols": float(setting[1])},
)  # fmt: skip
BOX = Family(
    "box", (), _box, families.box_starts,
    known=lambda setting, theta: {"rows": float(setting[0]), "cols": float(setting[1])}, constant=True,
)  # fmt: skip
ROW = Family(
    "motion", (), _box, _line_of_ones, modes=(UNIT, GAIN),
    known=lambda s, theta: {"length": float(max(s)), "angle": 0.0 if s[1] > 1 else 90.0}, constant=True,
)  # fmt: skip
BINOMIAL = Family(
    "binomial", (), _binomial, families.binomial_starts,
    known=lambda setting, theta: {"rows": float(setting[0] + 1), "cols": float(setting[1] + 1)}, constant=True,
)  # fmt: skip
GAUSSIAN = Family(
    "gaussian", ("sigma",), lambda grid, s, theta: shapes.gaussian(grid, (theta[0], theta[0]), s),
    families.gaussian_starts, families.around_gaussian,
)  # fmt: skip
ALONG = Family(
    "gaussian", ("sigma",), families.along, families.along_starts, families.around_sigma, modes=(UNIT, GAIN),
    known=lambda s, theta: {"axis": float(s[1])},
)  # fmt: skip
OPENCV = Family("gaussian", (), _opencv, families.opencv_starts, known=families.opencv_known, modes=(UNIT, BLEND))
PILLOW = Family("gaussian", ("sigma",), _pillow, lambda grid, hint: [(("boxes",), (hint.sigma,))])
PILLOW_AXES = Family("gaussian", ("sigma_rows", "sigma_cols"), _pillow,
                     lambda grid, hint: [(("boxes",), (hint.rows, hint.cols))], modes=(UNIT,))  # fmt: skip
BOXES = (PILLOW, PILLOW_AXES)
#: Gaussians of two widths as two tools make them in 8 bits, tried where one along the axes is near.
TABLES = (OPENCV, PILLOW_AXES)
AXES = Family(
    "gaussian", ("sigma_rows", "sigma_cols"), lambda grid, s, theta: shapes.gaussian(grid, (theta[0], theta[1]), s),
    families.axes_starts, families.around_gaussian,
)  # fmt: skip
TURNED = Family(
    "gaussian", ("sigma_along", "sigma_across", "angle"),
    lambda grid, setting, theta: shapes.turned_gaussian(grid, *theta),
    lambda grid, hint: [((), (hint.along, hint.across, hint.degrees))],
)  # fmt: skip
SOFT_BOX = Family("box", ("rows", "cols"), _soft_box, _soft_box_starts, tries=3)
DISC = Family(
    "disc", (), lambda grid, s, theta: families.ring(grid, (-1.0, s[0]), theta), families.disc_starts,
    known=lambda s, theta: {"radius": families.radius_within(*s)}, constant=True,
)  # fmt: skip
DISC_AREA = Family(
    "disc", ("radius",), lambda grid, s, theta: shapes.disc_area(grid, float(theta[0])),
    _near(1.5, 1.7, 1.9, 2.1, 2.4),
)  # fmt: skip
DISC_RAMP = Family(
    "disc", ("radius",), lambda grid, s, theta: shapes.disc_ramp(grid, float(theta[0])),
    _near(1.5, 1.7, 1.9, 2.1, 2.4),
)  # fmt: skip
RING = Family(
    "ring", (), families.ring, families.ring_starts,
    known=lambda s, theta: {"inner": math.sqrt(s[0]), "outer": math.sqrt(s[1])}, constant=True,
)  # fmt: skip
SOFT_RING = Family("ring", ("inner", "outer"), lambda grid, s, theta: families.soft_ring(grid, theta),
                   _soft_ring_starts)  # fmt: skip
LINES = tuple(_line(kind) for kind in ("rotated", "bilinear", "distance", "pixel"))
#: Rows of ones that tools turned: so long as they are, with no doubt.
ROWS = tuple(
    Family("motion", ("angle",), families.row, families.row_starts(tool), families.around_row, modes=(UNIT, GAIN),
           known=lambda s, theta: {"length": float(s[0])}, tries=3)
    for tool in ("opencv", "scipy", "pillow")
)  # fmt: skip
ELLIPSE = Family(
    "ellipse", (), lambda grid, s, theta: shapes.ellipse(grid.axes(), s),
    lambda grid, hint: [] if any(c % 1 for c in grid.center) else [
        ((m, n), ()) for m, n in itertools.product(*(range(5, 2 * r + 2, 2) for r in grid.reach()))],
    known=lambda s, theta: {"rows": float(s[0]), "cols": float(s[1])}, constant=True,
)  # fmt: skip
DRAWN = Family("motion", (), lambda grid, s, theta: shapes.drawn(grid, s), families.drawn_starts,
               known=families.line_known, constant=True)  # fmt: skip
MOFFAT = Family("moffat", ("alpha", "beta"), _radial(shapes.moffat),
                families.radial_starts((1.5, 1.5), (2.2, 3.0), (3.5, 6.0)), families.around_reach)  # fmt: skip
AIRY = Family("airy", ("radius",), _radial(shapes.airy), families.radial_starts((2.9,)), families.around_reach)
LORENTZIAN = Family("lorentzian", ("gamma",), _radial(functools.partial(shapes.moffat, beta=1.0)),
                    families.radial_starts((0.7,)), families.around_reach)  # fmt: skip
EXPONENTIAL = Family("exponential", ("scale",), _radial(lambda r, scale: np.exp(-r / scale)),
                     families.radial_starts((0.7,)), families.around_reach)  # fmt: skip
GRADIENTS = tuple(
    Family("gaussian derivative", ("sigma",), families.slope, starts, families.around_sigma,
           families.slope_known, SLOPE, constant=True, parity=parity)
    for starts, parity in (
        (families.slope_starts((1, 0), (0, 1)), -1), (families.slope_starts((2, 0), (0, 2), (1, 1)), 1),
    )
)  # fmt: skip
LOGS = tuple(
    Family("laplacian of gaussian", ("sigma",), families.log, families.log_starts(kind), families.around_sigma,
           modes=SLOPE, constant=True)
    for kind in ("axes", "sampled")
)  # fmt: skip
DOG = Family("difference of gaussians", ("sigma_low", "sigma_high"), families.dog, families.dog_starts,
             families.around_dog, modes=SLOPE, constant=True)  # fmt: skip
LAPLACIAN = Family("laplacian", ("alpha",), _laplacian, _middle, modes=SLOPE)
RESIZED = tuple(
    Family(name, names, families.interpolated, families.resized_starts(*kinds), modes=(UNIT, GAIN), known=known,
           parity=0)
    for name, names, kinds, known in (
        ("bilinear", (), [("linear",)], lambda s, theta: {"scale": float(s[1][0])}),
        ("bicubic", ("a",), [("cubic",)], lambda s, theta: {"scale": float(s[1][0])}),
        ("lanczos", (), [("lanczos", n) for n in (2, 3, 4)],
         lambda s, theta: {"lobes": float(s[2]), "scale": float(s[1][0])}),
    )
)  # fmt: skip
SHIFTS = (
    Family("shift", ("rows", "cols"), families.shifted, families.shift_starts(("linear",)), modes=(UNIT, GAIN),
           tries=3, parity=0),
    Family("shift", ("rows", "cols", "a"), families.shifted,
           lambda grid, hint: [(s, (*t, -0.6)) for s, t in families.shift_starts(("cubic",))(grid, hint)],
           modes=(UNIT, GAIN), parity=0),
    Family("shift", ("rows", "cols"), families.shifted,
           families.shift_starts(*[("lanczos", n) for n in (2, 3, 4)]),
           lambda grid, s, theta: [(*s[:2], n) for n in (2, 3, 4)], modes=(UNIT, GAIN), parity=0,
           known=lambda s, theta: {"lobes": float(s[2])}),
    Family("shift", ("rows", "cols"), families.shifted,
           families.shift_starts(*[("spline", n) for n in (3, 2, 4, 5)]),
           lambda grid, s, theta: [(*s[:2], n) for n in (3, 2, 4, 5)], modes=(UNIT, GAIN), parity=0,
           known=lambda s, theta: {"order": float(s[2])}),
)  # fmt: skip
MOVING_GAUSSIAN = families.moving(TURNED)
#: Interpolations that follow another filter.
MOVES = tuple(
    dataclasses.replace(SHIFTS[i], names=("shift_rows", "shift_cols", *SHIFTS[i].names[2:])) for i in (0, 1, 3)
)
#: Filters that move the image, too: tried where none that leaves it in its place fits.
MOVING = (MOVING_GAUSSIAN, *(
    families.moving(family) for family in (MOFFAT, AIRY, LORENTZIAN, EXPONENTIAL, DISC_AREA, SOFT_BOX, *LINES)
))  # fmt: skip
#: Filters that hardly anyone makes, but nature does.
RARE = (MOFFAT, AIRY, LORENTZIAN, EXPONENTIAL, SOFT_RING, *MOVING[1:5])
FIXED_FAMILIES = tuple(fixed(name) for name in FIXED)
#: The simple ones first: of two that say the same the first is named.
SINGLES = (
    SPOT, AREA, *RESIZED, *FIXED_FAMILIES, ROW, BOX, BINOMIAL, ALONG, GAUSSIAN, OPENCV, PILLOW, DISC, ELLIPSE, RING,
    DRAWN, AXES, SOFT_BOX, DISC_AREA, DISC_RAMP, *LINES, *ROWS, TURNED, AIRY, LORENTZIAN, EXPONENTIAL, MOFFAT,
    SOFT_RING, *GRADIENTS, *LOGS, DOG, LAPLACIAN,
)  # fmt: skip

#: Filters of which a shape that is too small holds a part that tells them.
CUT_OFF = (GAUSSIAN, OPENCV, PILLOW, AXES, TURNED)


#: Taps of a filter up to which it is quicker to add shifted copies than to transform.
_FEW = 32


@functools.lru_cache(maxsize=256)
def _matrix(n: int, reach: int, sigma: float | None) -> Array:
    """Return the matrix that convolves a column with a Gaussian that is cut off at a reach, or with a box."""
    places = np.arange(-reach, reach + 1.0)
    profile = np.full(len(places), 1 / len(places)) if sigma is None else shapes.bell(places, sigma, reach)
    half = len(profile) // 2
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    return np.where(np.abs(lag) <= half, profile[np.clip(lag + half, 0, len(profile) - 1)], 0.0)


def _smeared(taps: Array, first: Family, setting: Setting, theta: Array) -> Array:
    """Convolve taps with a filter."""
    if first is GAUSSIAN:
        down, across = (_matrix(n, min(setting[0], 2 * max(taps.shape)), float(theta[0])) for n in taps.shape)
        return down @ taps @ across.T
    if first is BOX:
        down, across = (_matrix(n, side // 2, None) for n, side in zip(taps.shape, setting, strict=True))
        return down @ taps @ across.T
    rows, cols = (n // 2 for n in taps.shape)
    own = first.taps(Grid((2 * rows + 1, 2 * cols + 1), (float(rows), float(cols))), setting, theta)
    # scipy.signal.convolve2d(taps, own, "same"), which a command would import a second for
    out = np.zeros(np.add(taps.shape, own.shape) - 1)
    places = np.argwhere(own)
    if len(places) > _FEW:
        sides = [scipy.fft.next_fast_len(n, real=True) for n in out.shape]
        out = scipy.fft.irfft2(scipy.fft.rfft2(taps, sides) * scipy.fft.rfft2(own, sides), sides)
    else:
        for i, j in places:
            out[i : i + taps.shape[0], j : j + taps.shape[1]] += own[i, j] * taps
    return np.asarray(out[rows : rows + taps.shape[0], cols : cols + taps.shape[1]])


def _plain(family: Family, start: Start) -> bool:
    """Say whether a filter is one of the usual ones, which are those that follow another."""
    if family is RING:
        return all(math.isqrt(round(square)) ** 2 == round(square) for square in start[0])
    return family.name not in FIXED or FIXED[family.name][0][start[0][0]][0].get("size", 3.0) == 3.0


_SIDES = (1, 3, 5, 7, 9)  # of boxes before another filter
#: Of Gaussians before a filter that has no numbers: near enough for each to be followed to its own.
_SIGMAS = (0.5, 0.65, 0.8, 1.0, 1.25, 1.55, 1.95, 2.4, 3.0)


def _cascade(first: Family, second: Family) -> Family:
    """Return two filters, one after the other: the second's taps, convolved with the first."""
    own = len(first.names)

    def taps(grid: Grid, setting: Setting, theta: Array) -> Array:
        return _smeared(second.taps(grid, setting[1], theta[own:]), first, setting[0], theta[:own])

    def identity(grid: Grid, setting: Setting, theta: Array) -> Array:
        return _smeared(_spot(grid, (), theta), first, setting[0], theta[:own])

    def firsts(grid: Grid, hint: Hint) -> list[tuple[float, list[Start]]]:
        """Return how much each of the first filters widens, and its starts."""
        if first is BOX:
            oblong = (
                1 if second in FIXED_FAMILIES else 5 if "angle" in second.names else max(_SIDES)
            )  # many have a start
            every = itertools.product(_SIDES, repeat=2)
            sides = [(m, n) for m, n in every if m * n > 1 and (m == n or max(m, n) <= oblong)]
            return [((m * m + n * n - 2) / 24, [((m, n), ())]) for m, n in sides]
        any_width = second.constant or second is GAUSSIAN
        sizes = _SIGMAS if any_width else tuple(f * hint.across for f in (0.35, 0.6, 0.8, 0.93))
        if first is GAUSSIAN:
            return [(s * s, [((families.scipy_reach(s),), (s,))]) for s in sizes]
        ones = list(first.starts(grid, hint))[:3]
        return [(s * s, ones) for s in sizes]

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        found = []
        for wider, ones in firsts(grid, hint):
            along, across = (math.sqrt(max(s * s - wider, 0.01)) for s in (hint.along, hint.across))
            part = hint._replace(sigma=math.sqrt(along * across), along=along, across=across)
            if second is GAUSSIAN:  # that may stand beside the identity: no Gaussian is near then
                others: list[Start] = [((families.scipy_reach(s),) * 2, (s,)) for s in _SIGMAS[::2]]
            else:
                others = [two for two in second.starts(grid, part) if _plain(second, two)]
            found += [((one[0], two[0]), (*one[1], *two[1])) for one in ones for two in others]
        return list(dict.fromkeys(found))

    def around(grid: Grid, setting: Setting, theta: Array) -> list[Setting]:
        mine = [setting[0]]
        if first is GAUSSIAN:
            mine = [(r,) for r in (families.scipy_reach(float(theta[0])), *range(1, max(grid.reach()) + 1), FAR)]
        elif first is BOX:
            mine = [(m, n) for m in range(1, grid.shape[0] + 1, 2) for n in range(1, grid.shape[1] + 1, 2) if m * n > 1]
        same = [(one, setting[1]) for one in mine]
        return same + [(setting[0], two) for two in second.around(grid, setting[1], theta[own:])]

    def known(setting: Setting, theta: Array) -> dict[str, float]:
        return joined(first.known(setting[0], theta[:own]), second.known(setting[1], theta[own:]))

    names = tuple(joined(dict.fromkeys(first.names, 0.0), dict.fromkeys(second.names, 0.0)))
    late = second.modes == SLOPE or second is GAUSSIAN
    name = f"{first.name} then {second.name}" if late else f"{second.name} then {first.name}"
    sharper = second.name == "laplacian"
    modes = (BLEND,) if second is GAUSSIAN else (UNIT, GAIN, ADD) if sharper else (UNIT, GAIN)
    beside = identity if second is GAUSSIAN or sharper else None
    parity = first.parity * second.parity
    return Family(name, names, taps, starts, around, known, modes, beside, constant=second.constant, parity=parity)


def joined(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Return the numbers of two filters, those of the second with a 2 where both have the name."""
    return first | {f"{name}_2" if name in first else name: value for name, value in second.items()}


#: Two filters, tried where no single one fits, and those with a motion, tried where no others do.
CASCADES = (
    *(_cascade(GAUSSIAN, second) for second in (*FIXED_FAMILIES, BOX, GAUSSIAN, DISC, DISC_AREA, DISC_RAMP, ROW,
                                                SOFT_BOX, BINOMIAL, RING, AIRY, EXPONENTIAL, *MOVES)),
    *(_cascade(BOX, second) for second in (*FIXED_FAMILIES, BOX, GAUSSIAN, DISC, DISC_AREA, BINOMIAL, RING, AIRY,
                                           EXPONENTIAL, MOFFAT)),
)  # fmt: skip
MOTIONS = (
    *(_cascade(first, second) for first in (GAUSSIAN, BOX) for second in (*LINES, DRAWN)),
    _cascade(LINES[1], DISC_AREA),
    _cascade(LINES[1], LINES[1]),
)  # fmt: skip
PAIRS = (*CASCADES, *MOTIONS)
EVERY = (*SINGLES, PILLOW_AXES, *SHIFTS, *MOVING, *PAIRS)
