"""Flat keywords and the value objects they are fields of: one table for every public verb."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypedDict, TypeVar

from ..compiled.threads import Progress
from ..core.dimensions import SIGNAL
from ..core.model import ENGINES, Execution, Model, Noise, Selection
from ..core.normal_equations import NormalEquations
from ..core.validation import known
from ..core.variation import Variation
from ..solvers.auto import as_solver
from ..solvers.conjugate_gradient import ConjugateGradient
from ..solvers.least_squares import LeastSquares, Solver
from ..solvers.wiener import Wiener
from .statistics import NormalStats

P = ParamSpec("P")
R = TypeVar("R")


class Keywords(TypedDict, total=False):
    """The flat keywords, for type checkers."""

    mode: str | None
    boundary: str | None
    fillvalue: float
    origin: int | tuple[int, ...] | None
    lags: Any
    operation: str
    stride: int | tuple[int, ...]
    offset: int | tuple[int, ...]
    channel_axis: int | None
    channels: str
    background: int | None
    real: bool
    variation: int | str | Variation | None
    register: str | None
    curve: str | None
    curve_side: str
    mask: Any
    image_mask: Any
    weights: Any
    nan: str
    saturated: str | tuple[float | None, float | None] | None
    noise: str | tuple[float, float] | Noise
    robust: str | None
    image_noise: float
    errors: str
    method: str
    balance: float | str
    detrend: str | None
    taper: float | str
    workers: int | None
    tolerance: float | None
    progress: Progress | None


#: Keyword -> the object it is a field of, and the field's name there where that is another.
FIELDS: dict[str, tuple[type, str]] = {
    **{name: (Model, name) for name in ("mode", "boundary", "fillvalue", "origin", "lags")},
    **{name: (Model, name) for name in ("operation", "stride", "offset")},
    **{name: (Model, name) for name in ("channel_axis", "channels", "background", "real", "variation", "register")},
    **{name: (Model, name) for name in ("curve", "curve_side")},
    **{name: (Selection, name) for name in ("mask", "image_mask", "weights", "nan", "saturated")},
    "noise": (Noise, "variance"),
    "robust": (Noise, "loss"),
    "image_noise": (Noise, "image_std"),
    "errors": (Noise, "covariance"),
    "method": (Execution, "engine"),
    **{name: (Wiener, name) for name in ("balance", "detrend", "taper")},
    **{name: (Execution, name) for name in ("workers", "tolerance", "progress")},
}
#: Engines that are solvers under another name.
_SOLVERS = {"cg": ConjugateGradient, "wiener": Wiener}


@dataclass(frozen=True, eq=False)
class Call:
    """What a verb was called with, each value in the object that it belongs to."""

    model: Model
    selection: Selection
    noise: Noise
    solver: Solver
    execution: Execution


class _Adapted:
    """A solver of somebody else's, who gets statistics with the public methods."""

    def __init__(self, solver: Any) -> None:
        self.solver = solver
        self.needs = getattr(solver, "needs", LeastSquares.needs)

    def solve(self, stats: Any) -> Any:
        return self.solver.solve(NormalStats.of(stats) if isinstance(stats, NormalEquations) else stats)

    def __repr__(self) -> str:
        return repr(self.solver)


def default(name: str) -> Any:
    """Return the default of a keyword: that of the field."""
    owner, field = FIELDS[name]
    return next(f.default for f in dataclasses.fields(owner) if f.name == field)


def same(value: object, other: object) -> bool:
    """Say whether a value is that of a default, whatever it is."""
    return type(value) is type(other) and value == other


def call_of(
    shape: object,
    keywords: Mapping[str, Any],
    *,
    verb: str,
    selection: Selection | None = None,
    execution: Execution | None = None,
    solver: object = None,
) -> Call:
    """Sort keywords into their objects; refuse unknown ones, and those of an object that is given whole."""
    if unknown := [name for name in keywords if name not in FIELDS]:
        raise TypeError(f"{verb}() got an unexpected keyword argument {unknown[0]!r}")
    shape = None if shape is SIGNAL else shape
    whole: dict[type, tuple[str, Any]] = {}
    objects: tuple[tuple[type, str, Any], ...] = (
        (Model, "a Model as shape", shape if isinstance(shape, Model) else None),
        (Selection, "selection=", selection),
        (Noise, "a Noise as noise", keywords.get("noise") if isinstance(keywords.get("noise"), Noise) else None),
        (Execution, "execution=", execution),
    )
    for kind, name, value in objects:
        if value is None:
            continue
        if not isinstance(value, kind):
            raise TypeError(f"got {name}{value!r:.60}, need a kernelfit.{kind.__name__}")
        whole[kind] = name, value
    given: dict[type, dict[str, Any]] = {Model: {}, Selection: {}, Noise: {}, Execution: {}, Wiener: {}}
    for name, value in keywords.items():
        owner, field = FIELDS[name]
        if isinstance(value, Noise) and name == "noise":
            continue
        if owner in whole:
            raise TypeError(f"got {name}= beside {whole[owner][0]}, which has that field; need one or the other")
        given[owner][field] = value
    engine = given[Execution].get("engine", "auto")
    chosen: Any = None if solver is None else as_solver(solver)  # type: ignore[arg-type]
    known(engine, (*ENGINES, *_SOLVERS), "method")
    if engine in _SOLVERS:
        if chosen is not None:
            msg = (
                f"got method={engine!r} with solver={solver!r}, need one or the other: method={engine!r} is a short "
                f"way to write solver={_SOLVERS[engine].__name__}()"
            )
            raise ValueError(msg)
        chosen = Wiener(**given[Wiener]) if engine == "wiener" else ConjugateGradient()
        given[Execution]["engine"] = "auto"
    elif used := [name for name in given[Wiener] if not same(given[Wiener][name], default(name))]:
        raise ValueError(f"got {used[0]}= without a division by frequency; need method='wiener', or a solver=Wiener()")
    if chosen is not None and not type(chosen).__module__.startswith(__name__.partition(".")[0] + "."):
        chosen = _Adapted(chosen)

    def made(owner: type, *first: object) -> Any:
        return whole[owner][1] if owner in whole else owner(*first, **given[owner])

    solves = LeastSquares() if chosen is None else chosen
    return Call(made(Model, shape), made(Selection), made(Noise), solves, made(Execution))


def takes_keywords(*without: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Show the flat keywords in the signature and the docstring of a verb that takes them as ``**keywords``.

    `without` names those that the verb has no use for.
    """

    def decorate(verb: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(verb)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in without:
                if name in kwargs and not same(kwargs.pop(name), default(name)):
                    msg = f"got {name}=, for which {verb.__module__.rpartition('.')[2]}.{verb.__name__} has no use; "
                    raise TypeError(msg + "leave it out")
            return verb(*args, **kwargs)

        names = [name for name in FIELDS if name not in without]
        signature = inspect.signature(verb)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        flat = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default(name)) for name in names]
        called.__signature__ = signature.replace(parameters=[*own, *flat])  # type: ignore[attr-defined]
        if verb.__doc__ is not None:  # python -OO has none
            called.__doc__ = _documented(verb.__doc__, names)
        return called

    return decorate


def _documented(text: str, names: list[str]) -> str:
    """Return a docstring with the entries of keywords, as their objects have them, after its parameters."""
    text = inspect.cleandoc(text)
    entries = []
    for owner in (Model, Selection, Noise, Execution, Wiener):
        found = _entries(owner)
        for name in names:
            if FIELDS[name][0] is owner:
                heading, body = found[FIELDS[name][1]]
                entries.append(f"{name} : {heading.partition(' : ')[2]}\n{body}")
    section = "Other Parameters\n----------------\n" + "\n".join(entries) + "\n"
    before, heading, after = text.partition("\nReturns\n-------\n")
    return f"{before}\n{section}{heading}{after}" if heading else f"{text}\n\n{section}"


def _entries(owner: type) -> dict[str, tuple[str, str]]:
    """Return the parameters of a class as its docstring tells them: heading and body of each."""
    text = inspect.cleandoc(owner.__doc__ or "")
    match = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n---|\Z)", text, re.S | re.M)
    entries: dict[str, tuple[str, str]] = {}
    for heading, body in re.findall(r"^(\w+ : .*)\n((?:    .*\n?|\n)*)", match[1] if match else "", re.M):
        entries[heading.partition(" : ")[0]] = heading, body.rstrip()
    return entries
