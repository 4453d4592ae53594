"""Which named filter is this kernel? A chi-square test of one family after another."""

import math
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.validation import as_number
from . import filter_table as table
from .channel_split import split_channels
from .filter_calls import calls_of
from .filter_families import ADD, BLEND, GAIN, PLUS, UNIT
from .filter_problem import Problem, as_problem
from .filter_search import RULED_OUT, Fit, Search

Array = npt.NDArray[np.float64]
_MOST_TOLD = 1000  # taps up to which a summary looks for a name: some tenths of a second
_ALIKE = 0.01  # a difference of Schwarz's criterion that rounding makes
_LEVEL = 1e-3
_DEEPEST = 2  # rows and columns of a rim that may hold what lies beyond it ...
_INSIDE = 5  # ... where so many are left
_NO_IDENTITY = 4.0  # standard errors
_told: "weakref.WeakKeyDictionary[Estimate, str]" = weakref.WeakKeyDictionary()  # names of fits, as long as they live
_NOTHING = 1e-6  # a kernel that noise alone would make with so much probability is not known at all


class Parameter(NamedTuple):
    """A number of a filter, and its standard error: 0 where only some values are possible."""

    value: float
    error: float

    def __str__(self) -> str:
        """Write the number to the digits that its error leaves."""
        if not (math.isfinite(self.error) and self.error > 0):
            return f"{self.value:.6g}"
        digits = min(12, max(0, 1 - math.floor(math.log10(self.error))))
        return f"{self.value:.{digits}f} +- {self.error:.{digits}f}"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A named filter that may be the kernel; made by `recognise`.

    Attributes
    ----------
    name : str
        Such as "gaussian", "unsharp mask", "motion then gaussian".
    parameters : dict of str to Parameter
        Its numbers, each with `value` and `error`; lengths in pixels, angles in degrees from the columns' direction
        towards the top.
    chi_square : float
        ``(k - f)' C^-1 (k - f)`` of the kernel k, its covariance C and the filter f; of rounded targets C is larger by
        what rounding may do, as far as the filter needs it.
    dof : int
        Degrees of freedom: taps less numbers sought.
    p_value : float
        The probability of a `chi_square` as large by chance if the kernel is this filter.
    calls : dict of str to str
        The call that makes it, by tool; `image` is the image and `kernel` the taps below where they are needed.
    kernel : ndarray, shape (rows, cols)
        The taps of the filter, laid as the kernel was given.
    distance : float
        Norm of the difference to the kernel over that of the kernel.
    """

    name: str
    parameters: dict[str, Parameter]
    chi_square: float
    dof: int
    p_value: float
    calls: dict[str, str]
    kernel: Array
    distance: float

    def __str__(self) -> str:
        """Say the filter in one line."""
        numbers = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        article = "an" if self.name[0] in "aeiou" else "a"
        said = f"{article} {self.name}{' of ' if numbers else ''}{numbers}"
        return f"{said} (chi-square {self.chi_square:.3g} of {self.dof})"

    def to_dict(self) -> dict[str, object]:
        """Return all but the taps as plain types for JSON."""
        numbers = {name: {"value": value, "error": error} for name, (value, error) in self.parameters.items()}
        tested = {"chi_square": self.chi_square, "dof": self.dof, "p_value": self.p_value, "distance": self.distance}
        return {"name": self.name, "parameters": numbers, **tested, "calls": dict(self.calls)}


def _candidate(search: Search, fit: Fit, *others: Fit) -> Candidate:
    """Give a fit its name; its errors hold what others of that name say, by how likely they are beside it."""
    name, parameters = _named(fit, search.problem)
    every = [(math.exp((search.score(fit) - search.score(one)) / 2), _named(one, search.problem)[1]) for one in others]
    same = [(1.0, parameters), *((weight, said) for weight, said in every if _alike(parameters, said))]
    for key, (value, error) in parameters.items():
        if error > 0:  # a line that is 4.8 long falls off beyond as one of 4.9 does that was turned
            square = sum(w * (_off(key, said[key].value - value) ** 2 + said[key].error ** 2) for w, said in same)
            parameters[key] = Parameter(value, max(error, math.sqrt(square / sum(w for w, _ in same))))
    wide = search.problem.wide
    given = np.s_[wide : fit.grid.shape[0] - wide, wide : fit.grid.shape[1] - wide]
    model, taps = fit.model.reshape(fit.grid.shape)[given], search.problem.taps[given]
    distance = float(np.linalg.norm(model - taps)) / float(np.linalg.norm(taps))
    numbers = {key: number.value for key, number in parameters.items()}
    calls = calls_of(fit, name, numbers, model, search.problem)
    laid = model[::-1, ::-1] if search.problem.turned else model
    dof = search.n - fit.n_free
    return Candidate(name, parameters, search.told(fit), dof, search.p_value(fit), calls, laid, distance)


def _alike(one: dict[str, Parameter], other: dict[str, Parameter]) -> bool:
    """Say whether two filters of a name have the same numbers, and those that are whole have the same values."""
    return one.keys() == other.keys() and all(one[key].error > 0 or one[key].value == other[key].value for key in one)


def _off(key: str, difference: float) -> float:
    return (difference + 90.0) % 180.0 - 90.0 if key == "angle" else difference


def _named(fit: Fit, problem: Problem) -> tuple[str, dict[str, Parameter]]:
    """Return the name of a filter and its numbers."""
    family, mode = fit.family, fit.mode
    name = family.name
    numbers = {key: Parameter(value, 0.0) for key, value in family.known(fit.setting, fit.theta).items()}
    errors = fit.errors.tolist()
    numbers |= {
        key: Parameter(value, error)
        for key, value, error in zip(family.names, fit.theta.tolist(), errors, strict=False)
    }
    factors = [Parameter(v, e) for v, e in zip(fit.factors.tolist(), errors[len(family.names) :], strict=True)]
    offset = tuple(c - o for c, o in zip(fit.grid.center, problem.origin, strict=True))
    places = ("rows", "cols") if name == "shift" else ("shift_rows", "shift_cols")
    if places[0] in family.names:
        for key, at in zip(places, offset, strict=True):
            numbers[key] = Parameter(numbers[key].value + at, numbers[key].error)
    elif problem.stride == (1, 1) and any(offset):
        if name == "identity":
            name, places = "shift", ("rows", "cols")
        numbers |= {key: Parameter(at, 0.0) for key, at in zip(places, offset, strict=True)}
    elif name == "identity" and problem.stride != (1, 1):
        name = "nearest"
    if "angle" in family.names:
        value, error = numbers["angle"]
        if numbers.get("sigma_along", (1,))[0] < numbers.get("sigma_across", (0,))[0]:
            numbers["sigma_along"], numbers["sigma_across"] = numbers["sigma_across"], numbers["sigma_along"]
            value += 90.0
        numbers["angle"] = Parameter(90.0 - (90.0 - value) % 180.0, error)
    if numbers.get("inner", (0,))[0] > numbers.get("outer", (1,))[0]:
        numbers["inner"], numbers["outer"] = numbers["outer"], numbers["inner"]
    if mode == GAIN:
        numbers["gain"] = factors[0]
    elif mode in (BLEND, ADD):
        return _beside_identity(fit, name, numbers, factors[0])
    elif mode == PLUS:
        smooth = fit.family.modes[-2] == BLEND
        sign = 1.0 if smooth else fit.setting[1] if name == "laplacian" and fit.setting else 1.0
        identity, weight = (factor.value for factor in factors)
        high = identity > 0 > sign * weight and (smooth or name == "laplacian")
        gain = identity + weight
        if high and gain > 0 and name.endswith("gaussian"):
            slopes = np.array([[weight, -identity], [gain**2, gain**2]]) / gain**2
            errors = np.sqrt(np.diag(slopes @ fit.covariance[-2:, -2:] @ slopes.T)).tolist()
            name, numbers = _beside_identity(fit, name, numbers, Parameter(-weight / gain, errors[0]))
            return name, numbers | {"gain": Parameter(gain, errors[1])}
        numbers |= {"identity": factors[0], "weight": factors[1]}
        name = "high-boost" if high and name in ("box", "laplacian") else f"identity plus {name}"
    return name, numbers


def _beside_identity(
    fit: Fit, name: str, numbers: dict[str, Parameter], factor: Parameter
) -> tuple[str, dict[str, Parameter]]:
    """Return the name of a filter beside the identity, one number being the weight of both."""
    value, error = factor
    if fit.mode == ADD:
        scale = numbers.pop("scale", Parameter(1.0, 0.0)).value
        weight = Parameter(value * scale, error * abs(scale))
        if name.endswith("laplacian") and weight.value < 0:
            return name.replace("laplacian", "sharpen"), numbers | {"amount": Parameter(-weight.value, weight.error)}
        return f"identity plus {name}", numbers | {"weight": weight}
    if value <= 0:
        return f"identity plus {name}", numbers | {"weight": Parameter(-value, error)}
    if name.endswith("gaussian"):
        key = "sigma_2" if "sigma_2" in numbers else "sigma"
        numbers = {("radius" if k == key else k): v for k, v in numbers.items()}
        return name[: -len("gaussian")] + "unsharp mask", numbers | {"amount": factor}
    return ("high-boost" if name == "box" else f"unsharp mask of {name}"), numbers | {"amount": factor}


def in_words(fit: Estimate) -> str:
    """Say in a line what filter a kernel is (in the middle of the image); empty without a name, or of too many taps.

    Pairs of filters, which take several times as long, are not looked for. Where no kernel makes the target the name is
    that of a filter near by. Of several channels there is a line for each kernel that has a name.
    """
    if fit not in _told:  # a summary and a report both ask
        planes = split_channels(fit) if fit.kernel.ndim > 1 else {}
        told = sum(plane.kernel.size for plane in planes.values()) <= _MOST_TOLD and np.isfinite(fit.kernel).all()
        lines = []
        for channel, plane in planes.items() if told else ():
            found = _recognised(plane, None, _LEVEL, pairs=False)
            near = "about " if any(f.verdict is Verdict.NONLINEAR for f in (*fit.findings, *plane.findings)) else ""
            lines += [f"{channel}: {near}{found[0]}".removeprefix(": ")] if found else []
        _told[fit] = "\n".join(lines)
    return _told[fit]


def _without_identity(fit: Fit) -> bool:
    """Say whether a filter stands beside an identity that its errors do not tell from nothing."""
    if fit.mode not in (BLEND, PLUS):
        return False
    share, error = (1 + fit.factors[0], fit.errors[-1]) if fit.mode == BLEND else (fit.factors[0], fit.errors[-2])
    return bool(abs(share) < _NO_IDENTITY * error)


def _ranked(search: Search, level: float, pairs: bool = True, thorough: bool = False, cut: bool = False) -> list[Fit]:
    """Return all fits, the best first; of filters that are one and the same, the one with the plainest name."""
    found = search.run(level, pairs, thorough, cut)
    alone = {id(fit.family) for fit in found if fit.mode in (UNIT, GAIN)}
    found = [fit for fit in found if not (id(fit.family) in alone and _without_identity(fit))]
    order = {id(family): i for i, family in enumerate(table.EVERY)}
    scores = np.array([search.score(fit) for fit in found])
    alike = np.cumsum(np.diff(scores, prepend=scores[:1]) > _ALIKE).tolist()

    def rank(at: tuple[int, Fit]) -> tuple[int, int, int]:
        i, fit = at
        name = _named(fit, search.problem)[0]
        return i, name.startswith("identity plus") + name.startswith("identity plus laplacian"), order[id(fit.family)]

    return [fit for _, fit in sorted(zip(alike, found, strict=True), key=rank)]


def recognise(
    kernel: Estimate | npt.ArrayLike, covariance: npt.ArrayLike | None = None, *, level: float = _LEVEL
) -> tuple[Candidate, ...]:
    """Name the filter that a kernel is, within its errors.

    Each family of named filters f(theta) is fitted to the kernel k with its covariance C, ``(k - f)' C^-1 (k - f)``
    being least, and compared with the chi-square distribution of as many degrees of freedom as there are taps less
    numbers. Those that pass are ordered by Schwarz's criterion, ``chi^2 + m log n`` of m numbers and n taps; the ones
    it rules out (by 10 or more) are left out.

    Families: identity and shift (linear, cubic with its `a`, Lanczos, spline), Gaussian (round, along one axis or
    both, turned; cut off anywhere; in parts of 256 as OpenCV's of 8 bits; of three boxes as Pillow's), box, binomial,
    disc (of whole taps, or soft), ellipse, ring, motion along a line (also as rows that SciPy, OpenCV and Pillow
    turn), Moffat, Airy, Lorentzian, exponential, Sobel, Scharr, Prewitt, Farid, Roberts, differences, Laplacian,
    Gaussian derivative (of first and second order), Laplacian of Gaussian, difference of Gaussians, emboss; with a
    stride area, nearest, bilinear, bicubic and Lanczos interpolation. Each of them with a gain, beside the identity
    (unsharp mask, sharpen, high-boost, "identity plus ..."), and, if no single one fits, after a Gaussian or a box.

    Parameters
    ----------
    kernel : KernelFit or array_like, shape (rows, cols)
        The kernel. An array is a convolution kernel with SciPy signal's centre.
    covariance : array_like, optional
        Of an array's taps, shape (taps, taps); or the variance of each tap, of the kernel's shape, or of all, a number.
        By default the taps are exact, to single precision. A fit has its own.
    level : float, optional
        A filter whose chi-square is as large as this kernel's with a smaller probability is none, default 0.001.

    Returns
    -------
    tuple of Candidate
        The filters that fit, best first; empty where none does, and where noise alone could be the kernel.

    Raises
    ------
    ValueError
        If the kernel is not 2-D or not finite, the covariance does not fit it, or a level is not between 0 and 1.

    Notes
    -----
    Beside the errors, 1e-7 of the largest tap counts as noise, which is what tools lose in single precision. Where the
    target was rounded to integers and the rest is noise of that, its errors may depend on the image: a kernel counts as
    the filter if the two differ by no more than 4 % of the noise in a pixel's prediction, 8 % where the noise is
    correlated, since then the filter may have rounded half way, too. So much is added to chi-square's expectation,
    below which no filter is better than another. Pillow's Gaussian, where there is at least the noise of its six
    roundings, may differ by 15 % of what is beyond the last one.
    The variance of the numbers grows with it as far as chi-square is larger than expected; but where a filter rounds
    half way (Pillow's Gaussian does after each box, and so loses what of a box's weights is small), much of the noise
    beyond that of the last rounding may lie along a single number, and its interval holds that: Cauchy's and Schwarz's
    inequality. The amount of OpenCV's unsharp mask of 8 bits multiplies whole numbers: its interval holds all amounts
    of which rounding makes the same.

    Examples
    --------
    >>> import numpy as np, scipy.ndimage, kernelfit
    >>> image = np.random.default_rng(0).random((60, 70))
    >>> fit = kernelfit.find_kernel(image, scipy.ndimage.gaussian_filter(image, 0.8), (7, 9))
    >>> found = kernelfit.recognise(fit)[0]
    >>> found.name, round(found.parameters["sigma"].value, 4)
    ('gaussian', 0.8)
    >>> found.calls["scipy"]
    'scipy.ndimage.gaussian_filter(image, 0.8)'
    """
    if not 0 < as_number(level, "level") < 1:
        raise ValueError(f"got level={level!r}, need a number between 0 and 1 such as 0.001")
    return _recognised(kernel, covariance, level)


@one_blas_thread
def _recognised(
    kernel: Estimate | npt.ArrayLike, covariance: npt.ArrayLike | None, level: float, pairs: bool = True
) -> tuple[Candidate, ...]:
    """Do what `recognise` does, without `pairs` of filters if so asked."""
    problem = as_problem(kernel, covariance)
    search = _search(problem)
    if problem is None or search is None:
        return ()
    every = _passed(search, level, _ranked(search, level, pairs))
    first = any(map(search.plain, every[:1]))
    if search.ends_beyond(every[0]) if first else problem.cut_off:
        for depth in range(1, min(1 if every else _DEEPEST, (min(problem.taps.shape) - _INSIDE) // 2) + 1):
            wider = Search(problem.without_rim(depth).without_constant())
            within = [fit for fit in _passed(wider, level, _ranked(wider, level, cut=True)) if wider.plain(fit)]
            within = [fit for fit in within if fit.mode != GAIN]  # which would hold anything of so few taps
            if within:
                search, every = wider, within
                break
    plain = {id(fit.family) for fit in every if fit.mode == UNIT}
    found: dict[str, list[Fit]] = {}
    for fit in every:
        if fit.mode == UNIT or id(fit.family) not in plain:  # the others say the same with a number more
            found.setdefault(_named(fit, search.problem)[0], []).append(fit)
    return tuple(_candidate(search, *fits) for fits in found.values())


def _passed(search: Search, level: float, fits: list[Fit]) -> list[Fit]:
    """Return the fits that may be the kernel, and that the best of them does not rule out."""
    every = [fit for fit in fits if fit.determined and search.p_value(fit) >= level]
    laid = min((fit.chi_square for fit in every if fit.family is table.OPENCV), default=math.inf)
    # boxes may be far off by rounding half way; a table that is near needs none of it
    every = [fit for fit in every if fit.family not in table.BOXES or fit.chi_square < laid + RULED_OUT]
    least: dict[int, int] = {}
    if search.problem.rounding.excess > 0:  # what a number more explains in a family may be what rounding does
        for fit in every:
            least[id(fit.family)] = min(fit.n_free, least.get(id(fit.family), fit.n_free))
        every = [fit for fit in every if fit.n_free == least[id(fit.family)]]
    return [fit for fit in every if search.score(fit) < search.score(every[0]) + RULED_OUT]


@one_blas_thread
def nearest(kernel: Estimate | npt.ArrayLike, covariance: npt.ArrayLike | None = None) -> Candidate | None:
    """Return the named filter nearest to a kernel, whether it fits or not; None where it is lost in its errors."""
    if found := _recognised(kernel, covariance, _LEVEL):
        return found[0]
    search = _search(as_problem(kernel, covariance))
    return None if search is None else _candidate(search, _ranked(search, _LEVEL, thorough=True)[0])


def _search(problem: Problem | None) -> Search | None:
    """Return a search, None where the kernel is not known to be other than zero."""
    import scipy.special

    if problem is None:
        return None
    problem = problem.without_constant()
    nothing = float(problem.given @ problem.given)
    return Search(problem) if scipy.special.chdtrc(problem.n, nothing) < _NOTHING else None
