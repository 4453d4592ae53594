"""Every public call with random valid and invalid arguments: only the documented errors, no warning, no wrong kernel.

    python -m benchmarks.fuzz_calls --n 5000 --seed 1

prints the number of calls and what was found, and exits with 1 if there is anything. Every call follows from its seed.
A call may raise ``TypeError`` or ``ValueError`` that say what they got and what they need, before anything else
happens. What comes back is held against dense least squares where these are the answer.
"""

import argparse
import contextlib
import io
import math
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

import kernelfit as kf
from kernelfit.plotting import text as pages

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import naive

SECONDS = 30  # of CPU that one call may take
#: Words of Python or NumPy that say nothing to the caller.
RAW = re.compile(
    r"not supported between|unsupported operand|object is not|has no attribute|could not broadcast|"
    r"not subscriptable|unexpected keyword|positional argument|index \S+ is out of bounds|math domain|zero-size array|"
    r"must be real number|"
    r"cannot convert|invalid literal|inhomogeneous|truth value|unhashable|setting an array element|not iterable"
)
#: Values that some argument may have and most may not.
HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2, 3, 7, 10**30, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf, "", "foo", "auto",
    b"x", [], {}, (), (1,), (1, 2), (0, 0), (-1, 2), (1, 2, 3), (math.nan, 1), [[]], {3, 5}, object(), 1j,
    np.float32(2), np.int64(3), np.array(2), np.array([1, 2]), np.array([[True, False]]), [None, None],
    "wrap", lambda *a: None,
]  # fmt: skip
PLAIN: dict[str, list[Any]] = {
    "mode": [None, "same", "valid", "full"],
    "boundary": [None, "fill", "wrap", "symm", "mirror", "nearest"],
    "fillvalue": [0.0, 2, -3.5],
    "origin": [None, 0, (1, 1), (0, 2)],
    "operation": ["convolution", "correlation"],
    "stride": [1, 2, (1, 3)],
    "offset": [0, (0, 1), 1],
    "channel_axis": [None, -1, 0],
    "channels": ["shared", "separate", "mixed"],
    "background": [None, 0, 1, 2],
    "nan": ["error", "mask"],
    "saturated": ["auto", None, (None, 3.0), (-1.0, 250)],
    "noise": [None, "poisson", (2.0, 1.0), (0.1, 0.5)],
    "robust": [None, "huber", "tukey", "clip"],
    "image_noise": [0.0, 0.01, 0.1],
    "errors": ["plain", "sandwich"],
    "method": ["auto", "direct", "fft", "cg", "wiener"],
    "balance": ["auto", 0.0, 1e-3],
    "detrend": ["auto", "mean", None],
    "taper": ["auto", 0.0, 0.3],
    "workers": [None, 1, 2],
    "tolerance": [None, 1e-3],
    "solver": [
        None, "auto", kf.LeastSquares(), kf.Penalized(), kf.Penalized("gradient", 1e-3), kf.NonNegative(), kf.Sparse(),
        kf.Constrained(total=1.0), kf.Constrained(symmetric="point"), kf.GaussianProcess(), kf.ConjugateGradient(),
        kf.Wiener(),
    ],
}  # fmt: skip


SPOILT = ["nan", "inf", "huge", "tiny", "mean", "constant", "zero", "complex", "text", "object", "empty", "line",
          "deep", "none", "number", "ragged"]  # fmt: skip
LAID = ("mode", "fillvalue", "origin", "operation", "stride", "offset", "channel_axis")


class Random:
    """Choices that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def of(self, options: Sequence[Any]) -> Any:
        """Return one of some values."""
        return options[int(self.rng.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        """Return a whole number, the ends included."""
        return int(self.rng.integers(low, high + 1))


def array(choose: Any, shape: tuple[int, ...], spoil: bool = True) -> Any:
    """Return pixels of a shape in one of many forms, sometimes ones that are no pixels."""
    rng = np.random.default_rng(choose.number(0, 2**31))
    values = rng.normal(size=shape) * 30 + 100
    form = choose.of(["f8"] * 6 + ["f4", ">f8", "u1", "i2", "bool", "strided", "fortran", "list", "masked"])
    if spoil and choose.number(0, 5) == 0:
        form = choose.of(SPOILT)
    with np.errstate(all="ignore"):
        made: dict[str, Callable[[], Any]] = {
            "bool": lambda: values > 100,
            "strided": lambda: np.repeat(values, 2, axis=-1)[..., ::2],
            "fortran": lambda: np.asfortranarray(values),
            "list": values.tolist,
            "masked": lambda: np.ma.masked_array(values, rng.random(shape) < 0.1),
            "nan": lambda: np.where(rng.random(shape) < 0.05, np.nan, values),
            "inf": lambda: np.where(rng.random(shape) < 0.05, np.inf, values),
            "huge": lambda: values * 1e160,
            "tiny": lambda: values * 1e-170,
            "mean": lambda: values + 1e9,
            "constant": lambda: np.full(shape, 7.0),
            "zero": lambda: np.zeros(shape),
            "complex": lambda: values + 1j,
            "text": lambda: values.astype(str),
            "object": lambda: values.astype(object),
            "empty": lambda: values[:0],
            "line": lambda: values.ravel()[: shape[-1]],
            "deep": lambda: values[..., None],
            "none": lambda: None,
            "number": lambda: 3.0,
            "ragged": lambda: [[1, 2], [3]],
        }
        return made[form]() if form in made else values.astype(form)


def keywords(choose: Any, names: Sequence[str], hostile: bool) -> dict[str, Any]:
    """Return some keywords, each with a value that it may have, or one of them with one that it may not."""
    n = choose.of([0, 0, 1, 1, 1, 2, 2, 3])
    found = {name: choose.of(PLAIN[name]) for name in (choose.of(names) for _ in range(n))}
    if hostile and found and choose.number(0, 2) == 0:
        found[choose.of(sorted(found))] = choose.of(HOSTILE)
    return found


def scene(choose: Any, words: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return an image, a target that fits it more often than not, and a shape."""
    size = choose.number(1, 22), choose.number(1, 26)
    shape = choose.number(1, 4), choose.number(1, 5)
    axis = words.get("channel_axis")
    planes = (3,) if isinstance(axis, int) and axis in (-1, 0) else ()

    def stacked(plane: tuple[int, int]) -> tuple[int, ...]:
        return planes + plane if planes and axis == 0 else plane + planes

    image = array(choose, stacked(size))
    target: Any = None
    if choose.number(0, 9):
        laid = {name: words[name] for name in LAID if name in words}
        kernel = np.random.default_rng(choose.number(0, 9)).random(shape)
        with contextlib.suppress(Exception):
            laid["mode"] = laid.get("mode") or choose.of(["same", "valid", "full"])
            target = kf.apply_kernel(image, kernel, boundary=words.get("boundary") or "symm", **laid)
            target = target + choose.of([0.0, 0.1, 1.0]) * np.random.default_rng(1).normal(size=target.shape)
            target = choose.of([target, target, target, np.rint(np.clip(target, 0, 255)).astype(np.uint8)])
    if target is None:
        target = array(choose, stacked(tuple(max(1, n + choose.number(-3, 3)) for n in size)))
    if choose.number(0, 3) == 0:
        with contextlib.suppress(Exception):
            mask = np.random.default_rng(2).random(np.shape(target)) < choose.of([0.0, 0.1, 0.6, 1.0])
            words[choose.of(["mask", "mask", "weights"])] = choose.of([mask, mask, mask.astype(float), ~mask * 2.0])
    return image, target, choose.of([shape] * 8 + [max(shape), choose.of(HOSTILE)])


FIND = sorted(PLAIN)
SUMS = [n for n in FIND if n not in ("solver", "noise", "robust", "image_noise", "errors", "tolerance", "balance")]


def a_fit(choose: Any) -> tuple[Any, Any, kf.KernelFit]:
    """Return a pair and its fit."""
    rng = np.random.default_rng(choose.number(0, 99))
    image = rng.normal(size=(choose.number(9, 20), choose.number(9, 22))) + 5
    target = kf.apply_kernel(image, rng.random((2, 3)), boundary="symm") + 0.05 * rng.normal(size=image.shape)
    words = choose.of([{}, {"background": 0}, {"boundary": "symm"}, {"solver": kf.Sparse()}, {"method": "cg"},
                       {"method": "wiener"}, {"noise": (0.1, 0.1)}, {"errors": "sandwich"}])  # fmt: skip
    return image, target, kf.find_kernel(image, target, (3, 4), **words)


def some(choose: Any, right: Any) -> Any:
    """Return the right argument, or seldom another one."""
    return choose.of(HOSTILE) if choose.number(0, 7) == 0 else right


Call = tuple[Callable[[], Any], Callable[[Any], str]]


def nothing(_: Any) -> str:
    """Find nothing wrong."""
    return ""


def find(choose: Any) -> Call:
    """Call find_kernel."""
    words = keywords(choose, FIND, hostile=True)
    image, target, shape = scene(choose, words)
    if choose.number(0, 9) == 0:
        image, target = [image, image], [target, target]
    return lambda: kf.find_kernel(image, target, shape, **words), lambda fit: wrong(fit, image, target, words)


def sums(choose: Any) -> Call:
    """Call accumulate, and solve."""
    words = keywords(choose, SUMS, hostile=True)
    image, target, shape = scene(choose, words)
    solver = some(choose, choose.of(PLAIN["solver"]))

    def call() -> Any:
        stats = kf.accumulate(image, target, shape, **words)
        return (stats + stats).solve(solver)

    return call, nothing


def stream(choose: Any) -> Call:
    """Call accumulate_stream, and solve."""
    words = keywords(choose, SUMS, hostile=True)
    image, target, shape = scene(choose, words)
    words.pop("weights", None)
    given = [(image, target)] if words.pop("mask", None) is None else [(image, target, None)]
    block = some(choose, choose.of([None, 7, (5, 9)]))
    return lambda: kf.accumulate_stream(some(choose, given), shape, block=block, **words).solve(), nothing


def tiles(choose: Any) -> Call:
    """Call kernel_map."""
    words = keywords(choose, FIND, hostile=True)
    image, target, shape = scene(choose, words)
    grid, more = some(choose, choose.of([1, 2, (1, 3)])), {}
    if choose.number(0, 2) == 0:
        more = {"overlap": some(choose, 2)} if choose.number(0, 1) else {"smoothness": some(choose, 0.1)}
    return lambda: kf.kernel_map(image, target, shape, grid, **more, **words), nothing


def spectra(choose: Any) -> Call:
    """Call accumulate_spectra, and solve."""
    names = ["mode", "boundary", "fillvalue", "origin", "operation", "detrend", "taper", "workers"]
    words = keywords(choose, names, hostile=True)
    image, target, shape = scene(choose, {**words})
    return lambda: kf.accumulate_spectra(image, target, shape, **words).solve(some(choose, "auto")), nothing


def apply(choose: Any) -> Call:
    """Call apply_kernel; its oracle is a dense matrix."""
    names = ["mode", "boundary", "fillvalue", "origin", "operation", "stride", "offset", "workers"]
    words = {"boundary": "fill", **keywords(choose, names, hostile=True)}
    image = array(choose, (choose.number(1, 12), choose.number(1, 14)))
    kernel = array(choose, (choose.number(1, 4), choose.number(1, 5)))

    def check(made: Any) -> str:
        with contextlib.suppress(TypeError, ValueError), np.errstate(all="ignore"):
            kind = np.result_type(np.float64, *(np.asarray(x).dtype for x in (image, kernel)))
            a, k = (np.asarray(x, dtype=kind) for x in (image, kernel))
            if not (np.isfinite(a).all() and np.isfinite(k).all()) or isinstance(image, np.ma.MaskedArray):
                return ""
            laid = {n: v for n, v in words.items() if n != "workers"}
            if laid.get("mode", "same") != "same":
                laid["origin"] = None  # that of the shapes
            elif isinstance(laid.get("origin"), int | np.integer):
                laid["origin"] = (int(laid["origin"]),) * 2
            matrix, used = dense(a, k.shape, **{"mode": "same", **laid})
            expected = (matrix @ k.ravel()).reshape(np.shape(made)) if used.all() else np.asarray(made)
            size = float(max(np.abs(a).max(), abs(laid.get("fillvalue", 0.0))) * np.abs(k).max() * k.size)
            if not np.isfinite(size):
                return ""
            if not np.abs(expected - made).max(initial=0.0) <= 1e-10 * size:
                return f"off by {np.abs(expected - made).max():.3g} of {size:.3g}"
        return ""

    return lambda: kf.apply_kernel(image, kernel, **words), check


def restore(choose: Any) -> Call:
    """Call deconvolve."""
    target = array(choose, (choose.number(1, 20), choose.number(1, 22)))
    kernel = array(choose, (choose.number(1, 3), choose.number(1, 4)))
    words = keywords(choose, ["boundary", "nan", "origin", "operation", "workers", "balance"], hostile=True)
    if choose.number(0, 1):
        words["edges"] = some(choose, choose.of(["auto", "fade", "solve"]))
    return lambda: kf.deconvolve(target, kernel, **words), nothing


def questions(choose: Any) -> Call:
    """Questions put to a fit, by its methods and by the verbs that take one."""
    image, target, fit = a_fit(choose)
    i, t, f = some(choose, image), some(choose, target), some(choose, fit)
    stats = kf.accumulate(image, target, (3, 4))
    s = some(choose, stats)
    level = some(choose, 0.9)
    calls: list[Callable[[], Any]] = [
        lambda: kf.check_noise(i, t, f),
        lambda: kf.sandwich_errors(i, t, f),
        lambda: kf.check_boundary(i, t, f),
        lambda: kf.measure_psf(f).rows(),
        lambda: kf.compare_kernels(f, some(choose, fit)),
        lambda: kf.compare(s, some(choose, [kf.LeastSquares(), "auto"])),
        lambda: kf.choose_support(s, level=level),
        lambda: kf.choose_method(some(choose, (100, 120)), some(choose, (5, 7)), some(choose, 1)),
        lambda: fit.confidence(level),
        lambda: fit.sample(level if choose.number(0, 1) else 3, 0),
        lambda: fit.predict(i),
        lambda: fit.residual(i, t),
        lambda: (str(fit), repr(fit), fit.covariance()),
        lambda: stats.crop(some(choose, (2, 3)), some(choose, (0, 0))).solve(),
        lambda: (stats + stats).solve(some(choose, None)),
        lambda: kf.Constrained(total=some(choose, 1.0), symmetric=some(choose, None)).solve(stats),
        lambda: kf.Penalized(some(choose, "identity"), some(choose, 0.1)).solve(stats),
        lambda: kf.Sparse(some(choose, "bic"), some(choose, 3)).solve(stats),
        lambda: kf.GaussianProcess(some(choose, "auto")).solve(stats),
        lambda: kf.InBasis(some(choose, np.ones((1, 3, 4)))).solve(stats),
        lambda: kf.NonNegative(total=some(choose, 1.0)).solve(stats),
        lambda: kf.Wiener(some(choose, "auto")).solve(s),
    ]
    return choose.of(calls), nothing


JOINT: dict[str, list[Any]] = {
    "register": ["shift", "affine", "homography"],
    "curve": ["gamma", "srgb", "monotone"],
    "curve_side": ["both", "image", "target"],
    "variation": [1, 2, "spline"],
    "lags": [(0, 3), ((-1, 1), (0, 2)), (-2, 2)],
    "real": [True, False],
}


def joint(choose: Any) -> Call:
    """Call find_kernel for a motion, a curve or a kernel that varies, or for lags."""
    words = keywords(choose, ["boundary", "background", "channel_axis", "nan", "saturated", "robust", "solver"], True)
    for name in choose.of([("register",), ("curve",), ("variation",), ("lags",), ("real",), tuple(JOINT)[:3]]):
        words[name] = some(choose, choose.of(JOINT[name]))
    image, target, shape = scene(choose, words)
    if (
        choose.number(0, 3) and isinstance(image, np.ndarray) and image.ndim == 2
    ):  # larger, or nothing of this is ever begun
        rng = np.random.default_rng(choose.number(0, 99))
        image = scipy.ndimage.gaussian_filter(rng.random((choose.number(30, 70), choose.number(30, 60))), 0.8) * 90 + 5
        target = kf.apply_kernel(image, rng.random((2, 3)), boundary="symm") + 0.05 * rng.normal(size=image.shape)
        words.pop("mask", None), words.pop("weights", None)
    return lambda: kf.find_kernel(image, target, shape, **words), nothing


def elsewhere(choose: Any) -> Call:
    """Call the find_kernel of `kernelfit.scale`, on Dask arrays if there is Dask."""
    words = keywords(choose, [n for n in FIND if n != "workers"], hostile=True)
    image, target, shape = scene(choose, words)
    with contextlib.suppress(Exception):
        import dask.array as da

        if choose.number(0, 1):
            image, target = (da.from_array(np.asarray(one), chunks=choose.of([7, 11, 30])) for one in (image, target))
    block = some(choose, choose.of([None, 9]))
    return lambda: kf.scale.find_kernel(image, target, some(choose, shape), block=block, **words), nothing


def later(choose: Any) -> Call:
    """Audits, differences, point-spread functions, and what a kernel is called and how it is written."""
    image, target, fit = a_fit(choose)
    i, t, f = some(choose, image), some(choose, target), some(choose, fit)
    kernel = choose.of([fit.kernel, array(choose, (choose.number(1, 5), choose.number(1, 6))), fit])
    stamp = np.multiply.outer(np.hanning(13), np.hanning(11))
    tools = ["scipy", "opencv", "torch", "imagemagick", "ffmpeg", "gimp", "imagej", "latex"]
    words = keywords(choose, ["background", "mode", "nan", "saturated", "stride"], hostile=True)
    calls: list[Callable[[], Any]] = [
        lambda: str(kf.audit(i, t, some(choose, kernel), **words)),
        lambda: str(kf.subtract(i, t, some(choose, choose.of([None, 3, (3, 4)])), which=some(choose, "auto"))),
        lambda: kf.subtract(i, t, 3, decorrelate=some(choose, True), clip=some(choose, 4.0)),
        lambda: kf.match_psf(some(choose, stamp), some(choose, stamp**2), which=some(choose, "source")),
        lambda: kf.match_psf(array(choose, (9, 11)), array(choose, (9, 11)), strength=some(choose, 1e-3)),
        lambda: kf.find_psf(i, some(choose, target > 5), oversample=some(choose, 1), shape=some(choose, 3)),
        lambda: str(kf.recognise(some(choose, kernel), level=some(choose, 0.001))),
        lambda: kf.separable(some(choose, kernel), some(choose, choose.of([None, 1, 2]))),
        lambda: f.export(some(choose, choose.of(tools))) if isinstance(f, kf.KernelFit) else None,
        lambda: kf.split_channels(f, some(choose, None)),
        lambda: fit.as_integers(),
        lambda: fit.recognise(),
        lambda: (fit.reproduce(), fit.summary(), fit.polished()),
        lambda: pages.explain(choose.of(["misaligned", "prepare", "stride", "tap", "", "foo", "SOLVED"])),
    ]
    return choose.of(calls), nothing


VERBS: dict[str, Callable[[Any], Call]] = {
    "find_kernel": find, "joint": joint, "elsewhere": elsewhere, "later": later, "accumulate": sums,
    "accumulate_stream": stream, "kernel_map": tiles, "accumulate_spectra": spectra, "apply_kernel": apply,
    "deconvolve": restore, "questions": questions,
}  # fmt: skip


def dense(image: Any, shape: Any, **laid: Any) -> tuple[Any, Any]:
    """Return the dense design of an image of real or complex numbers, and which pixels have equations."""
    matrix, used = naive.design_dense(image.real, shape, **laid)
    if image.dtype.kind == "c":
        matrix = matrix + 1j * naive.design_dense(image.imag, shape, **{**laid, "fillvalue": 0.0})[0]
    return matrix, used


def wrong(fit: Any, image: Any, target: Any, words: dict[str, Any]) -> str:
    """Say what is wrong with a fit of one pair, where dense least squares are the answer."""
    if not fit.verdict.ok and not fit.findings:
        return "a verdict without a finding"
    finite = np.isfinite(fit.kernel).all()
    if not finite:
        return "a kernel that is not finite"
    plain = {"mode", "boundary", "fillvalue", "origin", "operation", "stride", "offset", "background", "workers",
             "mask", "weights", "nan", "saturated", "method", "errors"}  # fmt: skip
    if set(words) - plain or isinstance(image, list) or fit.method in ("wiener", "cg"):
        return ""
    if isinstance(image, np.ma.MaskedArray) or isinstance(target, np.ma.MaskedArray):
        return ""
    kind = np.complex128 if any(np.asarray(x).dtype.kind == "c" for x in (image, target)) else np.float64
    a, y = (np.asarray(x, dtype=kind) for x in (image, target))
    conv = fit.convention
    laid = {n: getattr(conv, n) for n in ("mode", "boundary", "fillvalue", "operation", "stride", "offset")}
    origin = conv.origin if conv.mode == "same" else None
    with np.errstate(all="ignore"):
        matrix, used = dense(a, fit.kernel.shape, origin=origin, **laid)
        weights = np.ones(y.shape) if fit.weights is None else np.asarray(fit.weights, dtype=np.float64)
        root, values = np.sqrt(weights[used]), y[used]
    keep = root > 0
    matrix, values, root = matrix[keep], values[keep], root[keep]
    if fit.background is not None:
        degree, terms = fit.background.degree, fit.background.coefficients.size
        surfaces = [kf.Background(degree, c, c, (y.shape,)).image()[used][keep] for c in np.eye(terms)]
        matrix = np.hstack([matrix, np.stack(surfaces, axis=1)])
    if not (np.isfinite(matrix).all() and np.isfinite(values).all()):
        return "a fit of pixels that are not finite"
    matrix, values = matrix * root[:, None], values * root
    scale = np.abs(matrix).max(initial=0.0), np.abs(values).max(initial=0.0)
    if min(scale) == 0 or len(values) <= matrix.shape[1]:
        return ""
    matrix, values = matrix / scale[0], values / scale[1]
    found = fit.kernel.ravel()
    if fit.background is not None:
        found = np.concatenate([found, fit.background.coefficients.ravel()])
    found = found * (scale[0] / scale[1])
    singular = np.linalg.svd(matrix, compute_uv=False)
    if singular[-1] < 1e-5 * singular[0]:
        return ""
    expected = np.linalg.lstsq(matrix, values, rcond=None)[0]
    away = float(np.abs(found - expected).max())
    size = float(np.abs(expected).max()) + 1.0
    return (
        f"off by {away:.3g} of {size:.3g} ({fit.verdict.name})"
        if away > 1e-7 * size * singular[0] / singular[-1]
        else ""
    )


def case(verb: str, choose: Any) -> str:
    """Make one call; return what is wrong with it, empty if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("error")
        call, check = VERBS[verb](choose)
        try:
            found = call()
        except (TypeError, ValueError) as error:
            text = str(error)
            if not text or (RAW.search(text) and not ("got" in text and "need" in text)):
                return f"{type(error).__name__}: {text[:150]} {_place(error)}"
            found = None
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:150]} {_place(error)}"
        else:
            if complaint := check(found):
                return complaint
    printed = out.getvalue() + err.getvalue()
    return f"printed {printed[:100]!r}" if printed else ""


def _place(error: BaseException) -> str:
    """Return where an error came from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    own = [f for f in traceback.extract_tb(error.__traceback__) if "kernelfit" in f.filename]
    frame = own[-1] if own else last
    return f"at {Path(frame.filename).name}:{frame.lineno}"


def run(n: int, seed: int, only: str = "", seconds: float = math.inf) -> tuple[int, list[str]]:
    """Try n calls, or as many as a time allows; return how many, and a line for each that is wrong."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    kf.warm_up()  # what is compiled when first used is no call's
    if timed := hasattr(signal, "SIGPROF"):
        before = signal.signal(signal.SIGPROF, stop)
    names, found, start, count = [name for name in VERBS if only in name], [], time.process_time(), 0
    for i in range(seed, seed + n):
        if time.process_time() - start > seconds:
            break
        if timed:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
        name = names[i % len(names)]
        complaint = case(name, Random(i))
        count += 1
        if complaint:
            found.append(f"{name} seed {i}: {complaint}")
            print(found[-1], flush=True)
    if timed:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return count, found


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the verb's name")
    parser.add_argument("--seconds", type=float, default=math.inf, help="CPU time after which no call is begun")
    args = parser.parse_args()
    start = time.process_time()
    count, found = run(args.n, args.seed, args.only, args.seconds)
    kinds = Counter(re.sub(r"seed \d+: |[\d.]+", "", line)[:90] for line in found)
    print(f"{count} calls from seed {args.seed}, {time.process_time() - start:.0f} s of CPU: {len(found)} findings, "
          f"{len(kinds)} kinds")  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
