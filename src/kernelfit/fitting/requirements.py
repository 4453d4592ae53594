"""What goes with what: features of a call, and the pairs of them that exclude each other, each with its reason."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..core.model import Execution, Noise
from ..core.variation import AUTO
from ..data.plan import FitPlan
from ..solvers.auto import Auto
from ..solvers.constrained import Constrained, NonNegative
from ..solvers.gaussian_process import GaussianProcess
from ..solvers.least_squares import LeastSquares, Solver
from ..solvers.sparse import Sparse


@dataclass(frozen=True)
class Rule:
    """Features that exclude each other, why, and what to do."""

    features: frozenset[str]
    reason: str
    remedy: str


_REAL_SOLVERS = (NonNegative, Constrained, Sparse)


def _rule(first: str, second: str, reason: str, remedy: str) -> Rule:
    return Rule(frozenset({first, second}), reason, remedy)


#: Most taps of a signal's kernel whose prior is found by evidence.
MOST_TAPS = 2000
#: Most taps of a volume's kernel whose Gram matrix is formed.
MOST_TAPS_OF_VOLUMES = 2**14
_EVERY_PIXEL = "a division by frequency needs every pixel, each counting alike"
_NO_PIXEL = "a division by frequency never sees a residual"
_EXACT = "need solver=LeastSquares()"
_PIXELS = "need find_kernel, which has the pixels"
_AGAIN = "need a list of pairs, or a function that opens the stream anew"
_PARTS = "need the real and the imaginary part, each by itself"
_COMPLEX = (
    ("photon noise", "counts are not complex", "need noise='constant', or weights="),
    ("saturated", "complex numbers have no largest one", "need a mask of what is clipped"),
    ("solver of real kernels", "it holds taps to what real numbers can be", "need LeastSquares() or Penalized()"),
)
#: All that is refused, in the order in which it is looked for.
RULES = (
    _rule("weights", "photon noise", "both say how noisy each pixel is", "need one or the other"),
    _rule(
        "sandwich errors",
        "robust",
        "its criterion holds back part of the noise that is to be looked at",
        "need the weights of a robust fit given to another one, as weights=fit.weights",
    ),
    *(_rule("Wiener", name, _EVERY_PIXEL, _EXACT) for name in ("selection", "photon noise", "robust")),
    *(_rule("Wiener", name, _NO_PIXEL, _EXACT) for name in ("image noise", "sandwich errors")),
    _rule(
        "Wiener",
        "surface",
        "a constant is all of it at frequency zero, a surface of a higher degree has a part in every frequency",
        "need background=0, or solver=LeastSquares()",
    ),
    _rule(
        "ConjugateGradient",
        "image noise",
        "how much of it may be taken off is an eigenvalue of the Gram matrix, which conjugate gradients never form",
        _EXACT,
    ),
    _rule(
        "ConjugateGradient",
        "sandwich errors",
        "they are made of the inverse Gram matrix, which conjugate gradients never form",
        _EXACT,
    ),
    *(
        _rule(name, other, "only an iteration has one", "leave it out")
        for name, other in (("tolerance", "Wiener"), ("tolerance", "given engine"))
    ),
    *(
        _rule("smoothness", name, "both are penalties", "need one or the other")
        for name in ("another solver", "ConjugateGradient", "Wiener")
    ),
    *(
        _rule("smoothness", name, "it joins tiles whose weights are known, for white noise", "leave one of them out")
        for name in ("photon noise", "robust", "image noise", "sandwich errors")
    ),
    *(
        _rule("constant flux", name, "it takes a constraint on the sums of the kernels", _EXACT)
        for name in ("another solver", "ConjugateGradient", "Wiener")
    ),
    *(
        _rule("vast kernel", name, "its Gram matrix would take more than 2 GiB", "need ConjugateGradient()")
        for name in ("another solver", "Wiener", "given engine", "image noise", "sandwich errors", "statistics alone")
    ),
    _rule(
        "long response",
        "prior",
        "its evidence takes the cube of the taps, minutes from there on",
        "need LeastSquares() or, where the signal leaves bands open, ConjugateGradient('identity', 1e-6)",
    ),
    *(
        _rule("automatic variation", name, "its degree is chosen from the pixels before the fit", "need a degree")
        for name in ("statistics alone", "Dask")
    ),
    *(_rule("complex numbers", name, reason, remedy) for name, reason, remedy in _COMPLEX),
    _rule("complex numbers", "automatic variation", "its evidence has a prior of each part by itself", "need a degree"),
    Rule(
        frozenset({"complex numbers", "variation", "prior"}),
        "the evidence would find a prior of each part by itself, which a change of phase changes",
        "need LeastSquares() or Penalized()",
    ),
    *(
        _rule("register", name, "a motion is found from the residual of pixels in memory", _PIXELS)
        for name in ("statistics alone", "Dask", "tiles")
    ),
    *(
        _rule("curve", name, "a curve is found from the residual of pixels in memory", _PIXELS)
        for name in ("statistics alone", "Dask", "tiles")
    ),
    _rule("curve", "automatic variation", "its degree is chosen from the pixels before the curve", "need a degree"),
    _rule("curve", "Wiener", _NO_PIXEL, _EXACT),
    _rule("curve", "ConjugateGradient", "the errors of a curve take the inverse Gram matrix", _EXACT),
    _rule("curve", "image noise", "a curve makes it differ from pixel to pixel", "leave it out"),
    _rule("curve", "sandwich errors", "the joint errors of kernel and curve are for white noise", "leave it out"),
    _rule("curve", "volume", "curves are known for images and signals", "leave it out"),
    _rule("curve", "complex numbers", "complex numbers have no curve", _PARTS),
    _rule(
        "register", "fill", "such an edge stays while the image moves, which tells the shift", "need another boundary"
    ),
    _rule("register", "variation", "a kernel that moves over the field is a motion", "need one or the other"),
    _rule("register", "Wiener", _NO_PIXEL, _EXACT),
    _rule("register", "ConjugateGradient", "the errors of a motion take the inverse Gram matrix", _EXACT),
    _rule("register", "image noise", "noise that is read between the pixels is not white any more", "leave it out"),
    _rule("register", "sandwich errors", "the joint errors of kernel and motion are for white noise", "leave it out"),
    _rule("register", "complex numbers", "a motion is read from real pixels", _PARTS),
    _rule("register", "volume", "motions are known for images", "leave it out"),
    _rule("register", "signals", "a motion takes two dimensions", "leave it out; lags= hold a delay"),
    _rule("complex numbers", "smoothness", "its penalty is on the differences of real kernels", "leave it out"),
    _rule("tiles", "variation", "each tile has a kernel of its own", "need find_kernel for one that varies"),
    _rule("variation", "volume", "its functions are of images and signals", "need kernel_map, a kernel for each part"),
    _rule("statistics alone", "sandwich errors", "they come of the residual, which sums do not hold", _PIXELS),
    _rule("statistics alone", "ConjugateGradient", "conjugate gradients never form these sums", _PIXELS),
    _rule("statistics alone", "Wiener", "a division by frequency has other sums", "need accumulate_spectra"),
    _rule("statistics alone", "tolerance", "only an iteration has one, and sums are exact", "leave it out"),
    *(
        Rule(frozenset({"statistics alone", "image noise", name}), "sums know it for pixels that count alike", _PIXELS)
        for name in ("uneven weights", "background", "mixed channels", "complex numbers")
    ),
    Rule(
        frozenset({"stream", "complex numbers", "robust"}),
        "a block of it holds one part of each number, and outliers are judged by their modulus",
        "need find_kernel or accumulate",
    ),
    _rule(
        "real image of a complex target",
        "image noise",
        "it is the same in both parts of the target, whose noise then is not circular",
        _PARTS,
    ),
    Rule(
        frozenset({"stream", "volume", "image noise"}),
        "two planes of the target share noise of the image, and come one after the other",
        "need accumulate, or find_kernel with lists",
    ),
    *(
        _rule("statistics of blocks", name, "it takes a second reading, for which find_kernel is there", _PIXELS)
        for name in ("photon noise", "robust", "image noise")
    ),
    *(
        _rule(
            "checkpoint", name, "the caller reads such pixels over and over", "need accumulate_stream, or leave it out"
        )
        for name in ("photon noise", "robust")
    ),
    *(
        _rule("checkpoint", name, "it has no sums over blocks that could be kept", "leave it out")
        for name in ("Wiener", "ConjugateGradient")
    ),
    *(
        _rule("one-shot stream", name, "weights from the residual need the pixels again", _AGAIN)
        for name in ("photon noise", "robust")
    ),
)
#: What takes the pixels more than once, whatever they hold.
_AGAIN_AND_AGAIN = {"selection", "weights", "photon noise", "robust", "sandwich errors", "background", "variation",
                    "stride", "ConjugateGradient", "Wiener"}  # fmt: skip
#: How a feature is told in messages.
_WORDS = {
    "weights": "weights=",
    "photon noise": "noise=",
    "sandwich errors": "errors='sandwich'",
    "robust": "robust=",
    "image noise": "image_noise=",
    "selection": "pixels that do not count alike",
    "background": "background=",
    "surface": "background= of 1 or more",
    "stride": "stride=",
    "mixed channels": "channels='mixed'",
    "variation": "variation=",
    "volume": "a kernel of three dimensions",
    "vast kernel": f"a volume's kernel of more than {MOST_TAPS_OF_VOLUMES} taps",
    "prior": "a Gaussian-process prior",
    "long response": f"a signal's kernel of more than {MOST_TAPS} taps",
    "automatic variation": "variation='auto'",
    "Dask": "Dask",
    "checkpoint": "checkpoint= of a fit on Dask",
    "constant flux": "a variation of constant flux",
    "register": "register=",
    "curve": "curve=",
    "fill": "boundary='fill'",
    "signals": "signals",
    "tiles": "tiles=",
    "complex numbers": "complex images",
    "real image of a complex target": "real images of complex targets",
    "saturated": "saturated=",
    "solver of real kernels": "a solver of real kernels",
    "tolerance": "tolerance=",
    "statistics alone": "statistics alone",
    "statistics of blocks": "statistics of blocks alone",
    "stream": "a stream",
    "one-shot stream": "an iterator of pairs, which is read once",
    "given engine": "a given method that does not iterate",
    "Wiener": "Wiener()",
    "ConjugateGradient": "ConjugateGradient()",
    "another solver": "a solver other than LeastSquares()",
    "smoothness": "smoothness=",
    "uneven weights": "weights that differ",
}


def features_of(plan: FitPlan, noise: Noise, solver: Solver, execution: Execution, *more: str) -> dict[str, str]:
    """Return the features of a call, those of `more` among them, each with how the call spells it."""
    model, selects = plan.model, plan.selects
    photons = bool(noise.pixel_variance.slope)
    name = {"spectra": "Wiener", "operator": "ConjugateGradient"}.get(solver.needs, "another solver")
    present = {
        "weights": plan.selection.weights is not None,
        "photon noise": photons,
        "sandwich errors": noise.covariance == "sandwich",
        "robust": noise.loss is not None,
        "image noise": noise.image_std > 0,
        "selection": selects is not None,
        "background": model.background is not None,
        "surface": bool(model.background),
        "stride": model.strided,
        "variation": model.variation is not None,
        "automatic variation": model.variation == AUTO,
        "register": model.register is not None,
        "curve": model.curve is not None,
        "fill": model.boundary == "fill",
        "signals": model.ndim == 1,
        "constant flux": getattr(model.variation, "flux", "free") == "constant",
        "mixed channels": plan.channels == "mixed",
        "tolerance": execution.tolerance is not None,
        "given engine": execution.engine != "auto" and selects is None and not noise.reweighted,
        "volume": bool(plan.n_planes),
        "vast kernel": bool(plan.n_planes)
        and any(len(one.sources) * one.geometry.n_taps > MOST_TAPS_OF_VOLUMES for one in plan.groups[0][:1]),
        "prior": isinstance(solver, GaussianProcess | Auto),
        "long response": model.ndim == 1
        and any(one.geometry.n_taps > MOST_TAPS for some in plan.groups for one in some[:1]),
        name: not isinstance(solver, LeastSquares),
        "complex numbers": plan.numbers != "real",
        "real image of a complex target": plan.numbers != "real"
        and any(getattr(s.array, "blank", False) for some in plan.groups for one in some for s in one.sources),
        "saturated": not (plan.selection.saturated is None or isinstance(plan.selection.saturated, str)),
        "solver of real kernels": isinstance(solver, _REAL_SOLVERS) or getattr(solver, "non_negative", False),
    }
    spelled = {**_WORDS, "selection": selects or "", "another solver": f"solver={solver!s}"}
    spelled["solver of real kernels"] = spelled["another solver"]
    spelled["prior"] = "solver='auto'" if isinstance(solver, Auto) else spelled["another solver"]
    present |= dict.fromkeys(more, True)
    return {feature: spelled[feature] for feature, there in present.items() if there}


def rereads(features: Iterable[str]) -> bool:
    """Say whether a call goes over the pixels more than once, whatever they hold."""
    return not _AGAIN_AND_AGAIN.isdisjoint(features)


def refused(features: Iterable[str]) -> Rule | None:
    """Return the first rule that forbids these features together."""
    there = set(features)
    return next((rule for rule in RULES if rule.features <= there), None)


def require(features: dict[str, str]) -> None:
    """Refuse features that exclude each other, with the reason."""
    rule = refused(features)
    if rule is not None:
        first, *others = (text for name, text in features.items() if name in rule.features)
        raise ValueError(f"got {first} with {' and '.join(others)}: {rule.reason}; {rule.remedy}")


def why_gram(features: dict[str, str]) -> str | None:
    """Say what conjugate gradients cannot do, None if they can."""
    if "another solver" in features:
        return "the solver"
    there = {*features, "ConjugateGradient"}
    rule = next((r for r in RULES if "ConjugateGradient" in r.features and r.features <= there), None)
    return None if rule is None else _WORDS[next(iter(rule.features - {"ConjugateGradient"}))]


def table() -> str:
    """Return the rules as a table in Markdown, those of one reason in one row."""
    alike: dict[tuple[str, str], list[frozenset[str]]] = {}
    for rule in RULES:
        alike.setdefault((rule.reason, rule.remedy), []).append(rule.features)
    rows = ["| this | does not go with | because | what to do |", "|---|---|---|---|"]
    for (reason, remedy), sets in alike.items():
        alone = {max(sets[0], key=list(_WORDS).index)}
        first = frozenset.intersection(*sets) if len(sets) > 1 else alone
        others = [name for features in sets for name in sorted(features - first)]
        cells = (" with ".join(_WORDS[name] for name in sorted(first)), ", ".join(_WORDS[name] for name in others))
        text = " | ".join((*cells, reason, remedy.replace("need ", "use ")))
        rows.append("| " + re.sub(r"[a-z_]+=[^ ,;]*|[A-Z][A-Za-z]+[(][)]", r"`\g<0>`", text) + " |")
    return "\n".join(rows)
