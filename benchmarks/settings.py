"""Which settings can be used together: every pair of them through every door, on a small scene.

    python -m benchmarks.settings                   how many pairs work, and what is refused with which words
    python -m benchmarks.settings --oracle          the same, and every answer against dense least squares
    python -m benchmarks.settings find map          some of the doors

The doors: find (`find_kernel`), stream (`accumulate_stream` and its `solve`), map (`kernel_map`) and dask
(`kernelfit.scale.find_kernel`). The oracle is `tests/dense_fit.py`, which knows nothing of kernelfit. Hyperparameters,
strengths and supports are those that the fit reports. Weights that come from the residual are found once more, to
0.02 standard errors; those that the fit reports must give its kernel exactly.
"""

import argparse
import dataclasses
import itertools
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.signal
from numpy.typing import NDArray

import kernelfit as kf

SHAPE = (3, 5)
TILES = (2, 2)
#: Largest relative differences: of what is exact, and of what is iterated (or so many standard errors).
EXACT, ITERATED, PART = 1e-7, 1e-6, 0.01
#: Of conjugate gradients, in standard errors; whose norm in the Gram matrix the preconditioner tells to 10 %.
CG = 1.25 * PART
#: Of errors under a prior, whose root leaves out what is as small as rounding beside the largest term; and of those
# beside the image's noise, where the oracle leaves out products of two of its pixels.
ROOT, SQUARED = 4e-6, 1e-6
#: Kernels so many times as rough as their penalty supposes have larger errors.
ROUGHER = 2.0
#: Standard errors by which a kernel may differ from that at which reweighting ends.
SETTLED = 0.02

rng = np.random.default_rng(4)
KERNEL = rng.random(SHAPE)


def pair_of(*shape: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return an image, the last axis its channels if there are three, and what the kernel and noise make of it."""
    image = rng.random(shape)
    planes = image[..., None] if image.ndim == 2 else image
    made = [scipy.signal.convolve2d(planes[..., c], KERNEL, mode="same") for c in range(planes.shape[-1])]
    return image, np.stack(made, axis=-1).reshape(shape) + 0.01 * rng.standard_normal(shape)


SIZES = [(40, 57), (37, 61)]
PLAIN, COLOUR = [pair_of(*size) for size in SIZES], [pair_of(*size, 2) for size in SIZES]
MASKS, WEIGHTS = [rng.random(size) < 0.05 for size in SIZES], [rng.random(size) + 0.5 for size in SIZES]
SETTINGS: dict[str, dict[str, Any]] = {
    "boundary": {"boundary": "fill"},
    "correlation": {"operation": "correlation"},
    "origin": {"origin": (0, 1)},
    "stride": {"stride": 2},
    "background": {"background": 1},
    "mask": {"mask": MASKS},
    "image_mask": {"image_mask": MASKS},
    "weights": {"weights": WEIGHTS},
    "nan": {"nan": "mask"},
    "saturated": {"saturated": (None, float(np.quantile(PLAIN[0][1], 0.99)))},
    "poisson": {"noise": (50.0, 1.0)},
    "robust": {"robust": "huber"},
    "image_noise": {"image_noise": 0.001},
    "sandwich": {"errors": "sandwich"},
    "cg": {"method": "cg"},
    "wiener": {"method": "wiener"},
    "separate": {"channel_axis": -1, "channels": "separate"},
    "shared": {"channel_axis": -1},
    "mixed": {"channel_axis": -1, "channels": "mixed"},
    "pairs": {"pairs": True},
    "nonneg": {"solver": kf.NonNegative()},
    "gp": {"solver": kf.GaussianProcess()},
    "auto": {"solver": "auto"},
    "penalty": {"solver": kf.Penalized("gradient", 1e-3)},
    "sparse": {"solver": kf.Sparse()},
}


def together(x: str, y: str) -> bool:
    """Say whether two settings are of different keywords."""
    return x == y or not SETTINGS[x].keys() & SETTINGS[y].keys()


def scene_of(x: str, y: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return image, target and keywords; lists of both for several pairs."""
    keywords = SETTINGS[x] | SETTINGS[y]
    several = keywords.pop("pairs", False)
    scenes = COLOUR if "channel_axis" in keywords else PLAIN
    images, targets = [image for image, _ in scenes], [target.copy() for _, target in scenes]
    step = keywords.get("stride", 1)
    targets = [target[::step, ::step] for target in targets]
    for name in {"mask", "weights"} & keywords.keys():
        keywords[name] = [array[::step, ::step] for array in keywords[name]]
    if "nan" in keywords:
        targets[0][5, 6] = np.nan
    if several:
        return images, targets, keywords
    for name in {"mask", "weights", "image_mask"} & keywords.keys():
        keywords[name] = keywords[name][0]
    return images[0], targets[0], keywords


# ---- the doors ------------------------------------------------------------------------------------------------------


def find(image: Any, target: Any, keywords: dict[str, Any]) -> Any:
    """Through `find_kernel`."""
    return kf.find_kernel(image, target, SHAPE, **keywords)


def stream(image: Any, target: Any, keywords: dict[str, Any]) -> Any:
    """Through `accumulate_stream`."""
    others = {name: value for name, value in keywords.items() if name != "solver"}
    pairs = list(zip(image, target, strict=True)) if isinstance(image, list) else [(image, target)]
    again = keywords.keys() & {"noise", "robust"}  # weights from the residual: the stream is read more than once
    stats = kf.accumulate_stream(pairs if again else iter(pairs), SHAPE, **others)
    return stats.solve(keywords["solver"]) if "solver" in keywords else stats.solve()


def tiles(image: Any, target: Any, keywords: dict[str, Any]) -> Any:
    """Through `kernel_map`."""
    return kf.kernel_map(image, target, SHAPE, TILES, **keywords)


def dask(image: Any, target: Any, keywords: dict[str, Any]) -> Any:
    """Through `kernelfit.scale.find_kernel`."""
    import dask.array

    import kernelfit.scale

    def lazy(value: Any) -> Any:
        return [lazy(one) for one in value] if isinstance(value, list) else dask.array.from_array(value, chunks=24)

    return kernelfit.scale.find_kernel(lazy(image), lazy(target), SHAPE, **keywords)


DOORS = {"find": find, "stream": stream, "map": tiles, "dask": dask}


# ---- the oracle -----------------------------------------------------------------------------------------------------


def oracle() -> Any:
    """Return the module of dense least squares."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import dense_fit

    return dense_fit


class NoOracle(Exception):
    """Why an answer cannot be compared."""


#: What was compared, the relative difference, and the largest that is allowed.
Difference = tuple[str, float, float]


def apart(ours: Any, theirs: Any) -> float:
    """Return the relative difference of two arrays."""
    ours, theirs = (np.asarray(a, dtype=np.float64).ravel() for a in (ours, theirs))
    if ours.shape != theirs.shape:
        return np.inf
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-300))


def differences(dense: Any, found: Any, image: Any, target: Any, keywords: dict[str, Any]) -> Iterator[Difference]:
    """Yield the differences between an answer and the dense ones."""
    if keywords.get("method") == "wiener":
        raise NoOracle("wiener is another estimator")
    several = isinstance(image, list)
    names = ("boundary", "operation", "origin", "background", "nan", "saturated", "channel_axis", "channels")
    settings = {name: keywords[name] for name in names if name in keywords}
    for name in {"mask", "image_mask", "weights"} & keywords.keys():
        settings[name] = keywords[name] if several else [keywords[name]]
    step = keywords.get("stride", 1)
    images, targets = (image, target) if several else ([image], [target])
    systems = dense.systems(dense.Scene(images, targets, SHAPE, stride=(step, step), **settings))
    if isinstance(found, kf.KernelMap):
        apiece = len(systems) > 1 or found.channels == "mixed"  # a kernel for each channel of the target
        strength = getattr(keywords.get("solver"), "strength", None)
        given = {"strength": strength, "image_noise": keywords.get("image_noise", 0.0)}
        # The common kernel is that of another door, which has the oracle to itself.
        yield "common kernel", apart(found.common, find(image, target, keywords).kernel), EXACT
        for at in np.ndindex(found.boxes.shape[:2]):
            for c, system in enumerate(systems):
                here = (*at, c) if apiece else at
                tile = SimpleNamespace(
                    kernel=found.kernels[here], stderr=found.stderr[here], noise_std=found.noise_std[here], **given
                )
                yield from of_one(dense, tile, system.box(*map(int, found.boxes[at])), keywords)
        return
    for fit, system in zip(found.parts or (found,), systems, strict=True):
        yield from of_one(dense, fit, system, keywords)


def of_one(dense: Any, fit: Any, system: Any, keywords: dict[str, Any]) -> Iterator[Difference]:
    """Yield the differences of one kernel."""
    if keywords.get("image_noise") and (keywords.get("noise") or keywords.get("robust")):
        raise NoOracle("weights from the residual beside image noise")
    iterated = keywords.get("method") == "cg" or getattr(fit, "weighting", "").startswith("iterate")
    noise, robust = keywords.get("noise"), keywords.get("robust")
    weights = getattr(fit, "weights", None)
    weights = [weights] if isinstance(weights, np.ndarray) else weights
    if hasattr(fit, "n_pixels"):
        yield "pixels", abs(fit.n_pixels - len(system.values)), 0.0
    own = system
    if weights is not None:
        own = dataclasses.replace(system, weights=system.at(weights))
        if noise is None and robust is None:
            yield "weights", apart(own.weights, system.weights), EXACT
        own = own.part(own.weights > 0)
    matrix, values = dense.reduced(own)
    least = dense.least_squares(matrix, values)
    error = np.linalg.norm(dense.noise_of(matrix, values, least, len(values)) * dense.spread(matrix))
    size = np.linalg.norm(fit.kernel)
    if noise is None and robust is None or weights is not None:
        limit = max(ITERATED, PART * error / size) if iterated else EXACT
        yield from of_weights(dense, fit, own, keywords, limit, whole=not iterated)
    if noise is not None or robust is not None:
        settled = dense.reweighted(system, noise, robust)
        _, difference, _ = next(of_weights(dense, fit, settled, keywords, 0.0, whole=False))
        # Conjugate gradients' kernel is compared in standard errors.
        yield "kernel, reweighted", difference, SETTLED * (1.0 if keywords.get("method") == "cg" else error / size)


def of_weights(
    dense: Any, fit: Any, system: Any, keywords: dict[str, Any], limit: float, *, whole: bool
) -> Iterator[Difference]:
    """Yield the differences of one kernel at given weights, first of the kernel; of the errors if the `whole` is."""
    pixels = dense.reduced(system)
    image_noise = getattr(fit, "image_noise", 0.0)
    matrix, values = dense.without_image_noise(system, image_noise**2) if image_noise else pixels
    solver = chosen(fit, keywords.get("solver"))
    plain = keywords.get("errors", "plain") == "plain"
    rows, deviation = None, None
    free, own = float(matrix.shape[1]), np.ones(matrix.shape[1], dtype=bool)
    if solver == "LeastSquares":
        taps = dense.least_squares(matrix, values)
    elif solver == "Penalized":
        rows = dense.penalty_rows(matrix, system.shapes, "gradient", fit.strength)
        taps = dense.penalized(matrix, values, rows)
        free = dense.freedom(matrix, rows)
    elif solver in ("NonNegative", "Sparse"):
        own = fit.kernel.ravel() != 0
        taps = dense.non_negative(matrix, values) if solver == "NonNegative" else dense.sparse(matrix, values, own)
        free = float(own.sum())
    else:
        if not getattr(fit, "priors", ()):
            raise NoOracle(f"{solver}: hyperparameters are not reported")
        blocks = [dense.prior_covariance(*both) for both in zip(system.shapes, fit.priors, strict=True)]
        taps, covariance = dense.posterior(matrix, values, scipy.linalg.block_diag(*blocks), fit.noise_std)
        deviation = np.sqrt(np.diag(covariance))
        if solver == "GaussianProcess without negative taps":
            if image_noise or not plain:
                raise NoOracle(f"{solver}: the posterior's covariance is not reported")
            taps = dense.most_probable(taps, fit.covariance())
    background = getattr(fit, "background", None)
    surface = dense.background(system, taps)
    if keywords.get("method") == "cg":  # which stops by the norm of the kernel's error in the Gram matrix
        noise_std = dense.noise_of(*pixels, taps, len(pixels[1]))
        error = np.linalg.norm(matrix @ (fit.kernel.ravel() - taps)) / (noise_std * np.sqrt(len(taps)))
        yield "kernel, by conjugate gradients", error, CG
        if background is not None:
            error = np.linalg.norm(background.coefficients.ravel() - surface)
            own_error = np.linalg.norm(dense.background_errors(system, noise_std))
            yield "background, by conjugate gradients", error / own_error, PART
    else:
        yield "kernel" if limit == EXACT else "kernel, iterated", apart(fit.kernel, taps), limit
        if background is not None:
            yield "background", apart(background.coefficients, surface), limit
    if not whole or not plain:
        return
    if deviation is not None:
        if not image_noise:  # what the uncertainty of the hyperparameters adds stands in the last columns
            settled = fit.factor[:, : fit.factor.shape[1] - fit.unsettled]
            yield "stderr under a prior", apart(np.linalg.norm(settled, axis=1), deviation), ROOT
        return
    rss = dense.squares(*pixels, taps)
    noise_std = float(np.sqrt(rss / (dense.spare(system) - free)))
    if keywords.get("robust") is None:
        yield "noise_std", apart(fit.noise_std, noise_std), EXACT
    else:  # which is larger by what the criterion costs
        noise_std = fit.noise_std
    if image_noise:
        if solver == "LeastSquares":
            inverse = np.linalg.inv(matrix.T @ matrix)
            stderr = noise_std * np.sqrt(np.diag(inverse @ pixels[0].T @ pixels[0] @ inverse))
            yield "stderr beside the image's noise", apart(fit.stderr, stderr), SQUARED
        return
    variances = dense.left_open(matrix, own)
    variances[own] += dense.spread(matrix[:, own], rows) ** 2
    if rows is not None:
        variances += dense.rougher(matrix, rows, taps, noise_std, ROUGHER)
    stderr = noise_std * np.sqrt(variances)
    yield "stderr", apart(fit.stderr, stderr), EXACT
    if background is not None and solver == "LeastSquares":
        errors = dense.background_errors(system, noise_std)
        yield "background's stderr", apart(background.stderr, errors), EXACT


def chosen(fit: Any, solver: Any) -> str:
    """Return which solver made a kernel, as the fit says."""
    if solver is None:
        return "LeastSquares"
    said = getattr(fit, "solver", "")
    if solver != "auto":
        name = type(solver).__name__
        return "LeastSquares" if name == "GaussianProcess" and "least squares" in said else name
    found = re.match(r"auto: (\w+)", said)
    if found is None:
        raise NoOracle("auto: what it chose is not reported")
    return f"{found[1]} without negative taps" if "no negative taps" in said else found[1]


# ---- the table ------------------------------------------------------------------------------------------------------


def reason_of(error: Exception) -> str:
    """Return the words of an error, without the values that differ from pair to pair."""
    text = " ".join(str(error).split())
    text = re.sub(r"solver=(\w+\([^)]*\)|'auto')", "solver=...", text)
    text = re.sub(r"^got \S+( with method='\w+', which knows no weights)", r"got ...=\1", text)
    return f"{type(error).__name__}: {text}"


def in_words(pairs: list[tuple[str, str]]) -> str:
    """Return pairs of settings, grouped by the one that most of them have."""
    left, groups = list(pairs), []
    while left:
        counts = Counter(name for pair in left for name in set(pair))
        most = max(counts, key=lambda name: (counts[name], (name, name) in left))
        own = [pair for pair in left if most in pair]
        left = [pair for pair in left if most not in pair]
        others = [y if x == most else x for x, y in own]
        every = [name for name in SETTINGS if together(most, name)]
        but = [name for name in every if name not in others]
        words = " alone" if others == [most] else f" with {', '.join(name for name in others if name != most)}"
        if len(but) < len(others):
            words = " with everything" + (f" but {', '.join(but)}" if but else "")
        groups.append(f"**{most}**{words}")
    return "; ".join(groups)


def main() -> int:
    """Print the tables; return 1 if an answer differs from the oracle's or a call crashes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("doors", nargs="*", metavar="door", help=f"some of {', '.join(DOORS)}, by default all")
    parser.add_argument("--oracle", action="store_true", help="compare every answer with dense least squares")
    asked = parser.parse_args()
    if unknown := set(asked.doors) - DOORS.keys():
        parser.error(f"got {', '.join(sorted(unknown))}, need some of {', '.join(DOORS)}")
    dense = oracle() if asked.oracle else None
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    every = [(x, y) for x, y in itertools.combinations_with_replacement(SETTINGS, 2) if together(x, y)]
    refused: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    crashed: list[str] = []
    wrong: list[tuple[str, ...]] = []
    beyond: dict[tuple[str, str], list[str]] = defaultdict(list)
    largest: dict[str, tuple[float, float, str]] = {}
    total = compared = n_differences = 0
    for door in asked.doors or DOORS:
        works = 0
        for x, y in every:
            where = f"{door}: {x} + {y}" if x != y else f"{door}: {x}"
            image, target, keywords = scene_of(x, y)
            try:
                found = DOORS[door](image, target, dict(keywords))
            except (ValueError, TypeError, NotImplementedError) as error:
                refused[door, reason_of(error)].append((x, y))
                continue
            except Exception as error:
                crashed.append(f"{where}: {reason_of(error)}")
                continue
            works += 1
            if dense is None:
                continue
            try:
                for name, difference, limit in differences(dense, found, image, target, keywords):
                    n_differences += 1
                    if not difference <= limit:
                        wrong.append((where, name, f"{difference:.2e}", f"{limit:.1e}"))
                    share = difference / limit if limit else difference
                    if share >= largest.get(name, (-1.0, 0.0, ""))[0]:
                        largest[name] = share, difference, where
                compared += 1
            except NoOracle as why:
                beyond[door, str(why)].append((x, y))
        print(f"{door}: {works} of {len(every)} pairs work", flush=True)
        total += works
    print(f"all: {total} of {len(every) * len(asked.doors or DOORS)} pairs work, {len(crashed)} crash")
    for line in crashed:
        print("  ", line)
    print("\n| door | pairs | refused with | settings |\n|---|---:|---|---|")
    for (door, why), pairs in sorted(refused.items(), key=lambda item: (list(DOORS).index(item[0][0]), -len(item[1]))):
        print(f"| {door} | {len(pairs)} | {why} | {in_words(pairs)} |")
    if dense is not None:
        print(f"\noracle: {compared} of {total} answers compared, {n_differences} numbers and arrays in them")
        for (door, why), pairs in beyond.items():
            print(f"  {door}: {len(pairs)} without an oracle, {why}: {in_words(pairs)}")
        print("\n| quantity | largest relative difference | share of the limit | where |\n|---|---:|---:|---|")
        for name, (share, difference, where) in largest.items():
            print(f"| {name} | {difference:.1e} | {share:.2g} | {where} |")
        print(f"\n{len(wrong)} differ by more than they may")
        if wrong:
            print("\n| answer | quantity | relative difference | limit |\n|---|---|---:|---:|")
            for row in wrong:
                print(f"| {' | '.join(row)} |")
    print(f"\n{time.perf_counter() - begin:.0f} s")
    return 1 if wrong or crashed else 0


if __name__ == "__main__":
    sys.exit(main())
