"""A kernel that varies over the field, looked at: the kernel at one place, and maps of its numbers."""

import dataclasses
import math
from typing import cast

import numpy as np

from ..core.dimensions import in_samples, lifted, lowered
from ..core.estimate import Estimate
from ..core.field import Field
from ..core.geometry import Shape, as_pair
from ..core.validation import Array, as_number
from .psf import PsfMeasurements, measure_psf

_PLACES = 9  # along the longer side of a map of widths


def kernel_at(fit: Estimate, row: float, col: float | None = None) -> Estimate:
    """Return the kernel at a place, ``k = sum_j phi_j k_j`` with covariance ``B C B'``; `fit` if it does not vary."""
    # Of signals, as their user has them, the one number is the sample.
    field, signals = fit.convention.field, len(fit.convention.origin) == 1
    if signals != (col is None):
        raise TypeError(f"got the place ({row!r:.60}, {col!r:.60}), need a row and a column, of signals one sample")
    if field is None:
        return fit
    if col is None:
        as_number(row, "sample")
    try:
        return _at(fit, row, col) if col is not None else lowered(_at(lifted(fit), 0, row))
    except (TypeError, ValueError) as error:
        error.args = tuple(map(in_samples, error.args)) if signals else error.args
        raise


def _at(fit: Estimate, row: float, col: float) -> Estimate:
    """Return the kernel at a place; what the functions leave out, where that is known, is in its errors as well."""
    field = fit.convention.field
    assert field is not None
    values = field.at(row, col)
    n, (*lead, many, rows, cols) = len(values), fit.kernel.shape
    each = (*lead, many // n, n, rows, cols) if many > n else fit.kernel.shape  # of one target of mixed channels
    kernel = np.einsum("...frc,f->...rc", fit.kernel.reshape(each), values)
    factor = fit.factor
    if factor is not None:
        parts = factor.reshape(-1, n, rows * cols, factor.shape[1])
        factor = np.einsum("sftr,f->str", parts, values).reshape(-1, factor.shape[1])
    more = 0
    if factor is not None and fit.omitted is not None:
        beyond = fit.omitted.factor(row, col, field.shape)
        factor, more = np.hstack([factor, beyond]), beyond.shape[1]
    return dataclasses.replace(
        fit,
        kernel=kernel,
        root=factor,
        root_scale=1.0,
        typical_stderr=fit.typical_stderr * float(np.linalg.norm(values)),
        unsettled=fit.unsettled + more,
        omitted=None,
        priors=(),
        convention=dataclasses.replace(fit.convention, field=None),
        parts=tuple(_at(part, row, col) for part in fit.parts),
    )


def places(fit: Estimate, grid: object = None) -> tuple[Array, Array]:
    """Return rows and columns of a grid of places from edge to edge, by default nine along the longer side."""
    rows, cols = _field_of(fit).shape
    if grid is None:
        step = max(rows, cols) / _PLACES
        counts: Shape = (max(1, round(rows / step)), max(1, round(cols / step)))
    else:
        counts = as_pair(grid, "grid")
    if min(counts) < 1:
        raise ValueError(f"got grid={grid!r}, need at least one place along each axis")
    ends = zip(counts, (rows, cols), strict=True)
    down, across = (np.linspace(0, n - 1, k) if k > 1 else np.array([0.5 * (n - 1)]) for k, n in ends)
    return down, across


def sum_map(fit: Estimate) -> Array:
    """Return the sum of the kernel at each pixel of the image: by how much light there gets brighter."""
    field = _field_of(fit)
    if len(fit.convention.origin) == 1:
        return np.asarray(sum_map(lifted(fit))[..., 0, :])
    sums = fit.kernel.sum(axis=(-2, -1))
    rows, cols = (np.arange(n, dtype=np.float64) for n in field.shape)
    return field.surface(sums, rows, cols)


def measurements(fit: Estimate, grid: object = None) -> list[list[PsfMeasurements]]:
    """Return what `measure_psf` says, without errors, at each place of a grid."""
    if fit.convention.ndim == 1:
        raise ValueError("got a kernel of signals, which has no width of two axes; look at fit.at(sample)")
    if fit.kernel.ndim != 3:
        raise ValueError(
            "got the kernels of several channels, need those of one: measure a part of it, such as fit.parts[0]"
        )
    down, across = places(fit, grid)

    def at(row: float, col: float) -> PsfMeasurements:
        return cast(PsfMeasurements, measure_psf(dataclasses.replace(kernel_at(fit, row, col), root=None)))

    return [[at(r, c) for c in across] for r in down]


def width_map(fit: Estimate, grid: object = None) -> Array:
    """Return the mean full width at half maximum at each place of a grid; NaN where there is none."""
    return np.array(
        [[math.sqrt(one.fwhm_along.value * one.fwhm_across.value) for one in line] for line in measurements(fit, grid)]
    )


def middle(fit: Estimate) -> Estimate:
    """Return the kernel at the middle of the image."""
    field = fit.convention.field
    return (
        fit if field is None else kernel_at(fit, *(0.5 * (n - 1) for n in field.shape[-len(fit.convention.origin) :]))
    )


def _field_of(fit: Estimate) -> Field:
    if fit.convention.field is None:
        raise ValueError(
            "got a kernel that is the same everywhere, need one that varies over the image; find it with variation=2"
        )
    return fit.convention.field
