"""Filters whose taps are all known, such as Sobel's: what is left to find is which one it is, and its scale."""

import functools
import math

import numpy as np
import numpy.typing as npt

from .filter_families import GAIN, SLOPE, UNIT, Family, Hint, Setting, Start
from .filter_shapes import Grid

Array = npt.NDArray[np.float64]


def _correlated(*rows: tuple[float, ...]) -> Array:
    """Return weights that are laid on the image as they are, turned to be a convolution's."""
    return np.array(rows, dtype=np.float64)[::-1, ::-1]


def _difference(size: int, order: int) -> Array:
    """Return the profile of Sobel's filters of a size along an axis, as a correlation: a derivative of an order."""
    binomial = np.array([math.comb(size - 1 - order, i) for i in range(size - order)], dtype=np.float64)
    return functools.reduce(np.convolve, [np.array([-1.0, 1.0])] * order, binomial)


def _both_axes(down: Array, across: Array) -> list[tuple[dict[str, float], Array]]:
    """Return a derivative along the columns' axis and one along the rows', of a smooth profile and a slope."""
    turned = np.outer(down, across)[::-1, ::-1]
    return [({"axis": 1.0}, turned), ({"axis": 0.0}, turned.T)]


_STEP = np.array([-1.0, 0.0, 1.0])
_FARID = np.array([0.0376593171958126, 0.249153396177344, 0.426374573253687, 0.249153396177344, 0.0376593171958126])
_FARID_SLOPE = np.array([0.109603762960254, 0.276690988455557, 0.0, -0.276690988455557, -0.109603762960254])
_CROSS, _SQUARE = _correlated((0, 1, 0), (1, -4, 1), (0, 1, 0)), _correlated((1, 1, 1), (1, -8, 1), (1, 1, 1))
_DIAGONAL = _correlated((2, 0, 2), (0, -8, 0), (2, 0, 2))


def _sobels() -> list[tuple[dict[str, float], Array]]:
    found = []
    for size in (3, 5, 7):
        for first, second in ((1, 0), (2, 0), (1, 1), (2, 1), (2, 2)):
            both = _both_axes(_difference(size, second), _difference(size, first))
            more = {"size": float(size), "order": float(first)} if second == 0 else {"size": float(size)}
            if second:
                more |= {"order": float(first), "order_across": float(second)}
            found += [({**known, **more}, weights) for known, weights in both[: 1 if first == second else 2]]
    return found


def _turned(weights: Array) -> list[tuple[dict[str, float], Array]]:
    return [({"angle": 90.0 * i}, np.rot90(weights, i)) for i in range(4)]


_SMOOTH_MORE = np.ones((5, 5))
_SMOOTH_MORE[1:4, 1:4], _SMOOTH_MORE[2, 2] = 5, 44
#: Filters whose taps are all known: name, what tells one from another, taps, and by what tools scale them.
FIXED: dict[str, tuple[list[tuple[dict[str, float], Array]], tuple[float, ...], tuple[str, ...]]] = {
    "sobel": (_sobels(), (1.0, 0.25), SLOPE),
    "scharr": (_both_axes(np.array([3.0, 10.0, 3.0]), _STEP), (1.0, 1 / 16), SLOPE),
    "prewitt": (_both_axes(np.ones(3), _STEP), (1.0, 1 / 3), SLOPE),
    "farid": (_both_axes(_FARID, -_FARID_SLOPE), (1.0,), SLOPE),
    "roberts": (
        [({"diagonal": 1.0}, np.diag([1.0, -1.0])), ({"diagonal": -1.0}, np.diag([1.0, -1.0])[:, ::-1])],
        (1.0,),
        SLOPE,
    ),
    "central difference": (_both_axes(np.ones(1), _STEP), (0.5, 1.0), SLOPE),
    "difference": (_both_axes(np.ones(1), np.array([-1.0, 1.0])), (1.0,), SLOPE),
    "second difference": (_both_axes(np.ones(1), np.array([1.0, -2.0, 1.0])), (1.0,), SLOPE),
    "laplacian": (
        [({"neighbours": 4.0}, _CROSS), ({"neighbours": 8.0}, _SQUARE), ({"size": 3.0}, _DIAGONAL)]
        + [({"alpha": 1 / 3}, _correlated((1, 2, 1), (2, -12, 2), (1, 2, 1)))]
        + [
            ({"size": float(n)}, both + both.T)
            for n in (5, 7)
            for both in [np.outer(_difference(n, 0), _difference(n, 2))]
        ],
        (1.0, -1.0),
        SLOPE,
    ),
    "emboss": (
        [
            one
            for rows in (
                ((-2, -1, 0), (-1, 1, 1), (0, 1, 2)),
                ((-2, -1, 0), (-1, 0, 1), (0, 1, 2)),
                ((-1, -1, 0), (-1, 0, 1), (0, 1, 1)),
                ((-1, -1, 0), (-1, 1, 1), (0, 1, 1)),
                ((-1, 0, 0), (0, 1, 0), (0, 0, 0)),
                ((-1, 0, 0), (0, 0, 0), (0, 0, 1)),
                ((-1, -1, -1, -1, 0), (-1, -1, -1, 0, 1), (-1, -1, 0, 1, 1), (-1, 0, 1, 1, 1), (0, 1, 1, 1, 1)),
            )
            for one in _turned(_correlated(*map(tuple[float, ...], rows)))
        ],
        (1.0,),
        (UNIT, GAIN),
    ),
    "square ring": ([({"size": 5.0}, np.pad(np.zeros((3, 3)), 1, constant_values=1.0))], (1 / 16,), (UNIT, GAIN)),
    "smooth more": ([({}, _SMOOTH_MORE)], (1 / 100,), (UNIT, GAIN)),
}
_ODD = ("scharr", "prewitt", "farid", "roberts", "central difference", "difference")


def fixed(name: str) -> Family:
    """Return the family of a name in `FIXED`."""
    every, scales, modes = FIXED[name]

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        found: list[Start] = []
        for i, (_, weights) in enumerate(every):
            fits = all(
                (n % 2 == 0) == (c % 1 != 0) and n <= size
                for n, c, size in zip(weights.shape, grid.center, grid.shape, strict=True)
            )
            found += [((i, scale), ()) for scale in scales if fits]
        return found

    def taps(grid: Grid, setting: Setting, theta: Array) -> Array:
        index, scale = setting
        weights = every[index][1]
        y, x = (np.rint(a + (n - 1) / 2).astype(np.intp) for a, n in zip(grid.axes(), weights.shape, strict=True))
        inside = np.ix_((y >= 0) & (y < weights.shape[0]), (x >= 0) & (x < weights.shape[1]))
        placed = np.zeros(grid.shape)
        placed[inside] = scale * weights[np.ix_(y[(y >= 0) & (y < weights.shape[0])],
                                                x[(x >= 0) & (x < weights.shape[1])])]  # fmt: skip
        return placed

    def known(setting: Setting, theta: Array) -> dict[str, float]:
        return every[setting[0]][0] | ({} if setting[1] == 1 else {"scale": setting[1]})

    parity = {"sobel": 0, "emboss": 0} | dict.fromkeys(_ODD, -1)
    return Family(name, (), taps, starts, known=known, modes=modes, constant=True, parity=parity.get(name, 1))
