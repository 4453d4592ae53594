"""What rounding to whole numbers does to a curve: a bias, and errors that are not those of white noise.

The rounded target is off by a function of the prediction, which what noise there is makes smooth (B. Widrow, I. Kollar,
"Quantization Noise", Cambridge 2008, section 16): known, and taken off. The error e of the rounded image, of variance
1/12, is spread by the kernel, so that the residual is correlated, and uneven where the curve is steep: sums of the
slope over cells tell. (That errors of the image bias the taps towards zero is a hundredth of a standard error here.)
An image that was whole numbers before, under another curve, has the same error in all pixels of one value, which counts
for as much as the residual shows of it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.validation import Array
from . import joint
from .curve import Light
from .registration_columns import Columns, made_of
from .registration_round import Round, Search

#: Draws of the errors of whole values, the largest exponent under which they were whole before, and how many standard
#: errors their share has to be to be believed.
_DRAWS, _BEFORE, _SEEN = 16, 2.5, 3.0
#: Cells along each axis, at least; waves of the error of the target.
_CELLS, _WAVES = 12, 3


def of_rounding(search: Search, one: Round) -> tuple[Array, Array] | None:
    """Return what is to be added to J'W r, and its variance, in units of the noise; None where no value is whole."""
    light, columns = search.light, one.columns
    if light is None or columns is None or not len(one.place.theta) or not any(light.whole):
        return None
    bias, variance = _of_values(search, one, light, columns)
    return bias, variance + _scatter(search, one, columns)


def _every(search: Search, one: Round) -> Iterator[tuple[joint.Seen, float, Array]]:
    """Yield what is seen of each target, its noise, and how its taps follow the parameters, (taps, parameters)."""
    for g, (group, estimates, shares) in enumerate(zip(one.plan.groups, one.groups, one.shares, strict=True)):
        for t, (estimate, share) in enumerate(zip(estimates, shares, strict=True)):
            follows, noise = joint.following(share, estimate), joint.noise_of(estimate)
            for i, observation in enumerate(group):
                alone = dataclasses.replace(observation, targets=observation.targets[t : t + 1])
                yield joint.Seen.of(alone, estimate, (g, i), search.settings.execution.threads), noise, follows


def _scatter(search: Search, one: Round, columns: Columns) -> Array:
    """Return the variance of J'W r from its sums over cells, the taps taken off the columns."""
    total = np.zeros((columns.count, columns.count))
    for seen, noise, follows in _every(search, one):
        sources = [reader.array for reader in seen.observation.sources]
        flat = []
        for column, taps in zip(columns(seen), follows.T, strict=True):
            made = dataclasses.replace(seen, kernels=taps.reshape(seen.kernels.shape)).made(sources)
            flat.append(made if column is None else made + column[:, :])
        rows, cols = (slice(0, n) for n in seen.model.shape)
        for values, surface in zip(flat, joint.surfaces_of(seen, flat), strict=True):
            values -= seen.observation.columns.surface(surface, rows, cols) if len(surface) else 0.0
        left = _left(seen) * seen.weighed(rows) / noise**2
        cells = np.array([_cells(values * left, seen.kernels.shape[1:]) for values in flat])
        total += cells @ cells.T
    return total


def _left(seen: joint.Seen) -> Array:
    """Return the residual, zero where a pixel does not count."""
    weights = seen.weighed(slice(0, len(seen.model)))
    return np.asarray(np.where(weights > 0, seen.rest[:, :] - seen.surface(), 0.0))


def _cells(values: Array, sides: tuple[int, ...]) -> Array:
    """Return sums over cells as large as the kernel, or smaller so that there are many."""
    steps = [max(1, min(side, n // _CELLS)) for side, n in zip(sides, values.shape, strict=True)]
    sums = np.add.reduceat(values, np.arange(0, values.shape[0], steps[0]), axis=0)
    return np.asarray(np.add.reduceat(sums, np.arange(0, values.shape[1], steps[1]), axis=1).ravel())


def _of_values(search: Search, one: Round, light: Light, columns: Columns) -> tuple[Array, Array]:
    """Return the bias that the rounding of the target makes, negative, and the variance that errors of values make."""
    theta, n = one.place.theta, columns.count
    rng, values, drawn = np.random.default_rng(0), np.arange(256.0), []
    for _ in range(_DRAWS if light.whole[0] and light.scale[0] <= values[-1] else 0):
        before = 255 * (values / 255) ** (_BEFORE ** rng.uniform(-1, 1))
        errors = light.slopes(values, theta) * (before - np.rint(before))
        scenes = [scene.lit(_read(errors)) for scene in search.scenes]
        places = zip(scenes, one.place.matrices, strict=True)
        drawn.append(search.changed([np.ma.getdata(scene.at(matrix)) for scene, matrix in places]))

    def every(seen: joint.Seen) -> list[Any]:
        own = _of_target(seen, light, theta) if light.whole[1] else np.zeros_like(seen.model)
        return [*columns(seen), own, *(made_of(plan, seen) for plan in drawn)]

    shares = joint.shares_of(one.plan, one.groups, every, search.settings.execution.threads)
    table, told = joint.precision(shares, one.groups)
    bias, told = -table[:n, n], told - table[:, n]
    if not drawn:
        return bias, np.zeros((n, n))
    across, among, told = table[:n, n + 1 :], table[n + 1 :, n + 1 :], told[n + 1 :]
    size = np.diag(among)
    expected = (np.sum(among**2) - np.sum(size**2)) / (_DRAWS * (_DRAWS - 1))  # of the squares of the residual's own
    share, error = (float(np.mean(v)) / max(float(expected), 1e-300) for v in (told**2 - size, size))
    if not share > _SEEN * error * np.sqrt(2 / _DRAWS):
        return bias, np.zeros((n, n))
    return bias, np.asarray(min(share, 1.0) * (across @ across.T) / _DRAWS)


def _read(table: Array) -> Callable[[Array], Array]:
    """Return what reads a table at values from 0 to its end."""
    return lambda values: np.asarray(np.interp(values, np.arange(len(table)), table))


def _of_target(seen: joint.Seen, light: Light, theta: Array) -> Array:
    """Return by how much light of a rounded target is off on average, its noise being what the residual leaves."""
    model = seen.model + seen.surface()
    values, slope = light.shown(model, theta)
    weights = seen.weighed(slice(0, len(model)))
    level, coarse = (float(np.sum(weights * v**2)) / float(np.sum(weights)) for v in (_left(seen), slope))
    return slope * error_of_rounding(values, max(level - coarse / 12, 0.0) / np.maximum(slope, 1e-6) ** 2)


def error_of_rounding(values: Array, variance: Array) -> Array:
    """Return the mean of ``rint(v + n) - v`` over noise n of a variance."""
    total = np.zeros_like(values)
    for k in range(1, _WAVES + 1):
        wave = np.sin(2 * np.pi * k * values) * np.exp(-2 * (np.pi * k) ** 2 * variance)
        total += (-1) ** k / (np.pi * k) * wave
    return total
