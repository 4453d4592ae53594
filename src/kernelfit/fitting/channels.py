"""From the kernels of groups of problems to one result: those of several channels are laid side by side."""

import dataclasses
import math
from typing import Protocol

import numpy as np

from ..core.estimate import Estimate, sides_of
from ..core.findings import ranked


class Layout(Protocol):
    """How pairs and channels came, and how the kernels of channels are taken together; a `FitPlan` says so."""

    @property
    def channels(self) -> str | None:
        """None for images of one plane."""

    @property
    def channel_axis(self) -> int | None:
        """The axis that holds the channels."""

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""

    @property
    def listed(self) -> bool:
        """Whether the pairs came as lists."""


def join(groups: list[list[Estimate]], task: Layout) -> Estimate:
    """Return one result for the fits of each group's targets; the single fits are its `parts`."""
    fits = [in_shape(fit, task) for group in groups for fit in group]
    if task.channels in (None, "shared"):
        return dataclasses.replace(fits[0], channels=task.channels, channel_axis=task.channel_axis)
    if task.channels == "mixed":
        field = fits[0].convention.field
        sides = sides_of(fits[0])
        sides = sides if field is None else (field.n, *sides)
        kernel = np.stack([fit.kernel.reshape(-1, *sides) for fit in fits])
    else:
        kernel = np.stack([fit.kernel for fit in fits])
    first = fits[0]
    df_resid = [fit.df_resid for fit in fits]
    noisy = sum(n * fit.noise_std**2 for n, fit in zip(df_resid, fits, strict=True))
    findings = [
        dataclasses.replace(f, detail=f"channel {c}: {f.detail}") for c, fit in enumerate(fits) for f in fit.findings
    ]
    solvers = dict.fromkeys(fit.solver for fit in fits)
    background = None
    if first.background is not None:
        found = [fit.background for fit in fits if fit.background is not None]
        background = dataclasses.replace(
            first.background,
            coefficients=np.stack([b.coefficients for b in found], axis=-2),
            stderr=np.stack([b.stderr for b in found], axis=-2),
            channel_axis=task.channel_axis,
        )
    return Estimate(
        kernel=kernel,
        root=None,
        noise_std=math.sqrt(noisy / sum(df_resid)) if sum(df_resid) > 0 else math.nan,
        rank=sum(fit.rank for fit in fits),
        condition=max(fit.condition for fit in fits),
        rss=sum(fit.rss for fit in fits),
        r_squared=min(fit.r_squared for fit in fits),
        n_pixels=sum(fit.n_pixels for fit in fits),
        convention=first.convention,
        findings=ranked(findings),
        method=first.method,
        method_reason=first.method_reason,
        refined=max(fit.refined for fit in fits),
        iterations=sum(fit.iterations for fit in fits),
        tolerance=first.tolerance,
        solver="; ".join(solvers),
        uncertainty=first.uncertainty,
        df_model=sum(fit.df_model for fit in fits),
        parts=tuple(fits),
        channels=task.channels,
        channel_axis=task.channel_axis,
        background=background,
        weighting=first.weighting,
        notes=tuple(dict.fromkeys(note for fit in fits for note in fit.notes)),
    )


def in_shape(fit: Estimate, task: Layout) -> Estimate:
    """Give the background's coefficients, one row for each problem of the group, the axes of pairs and channels."""
    if fit.background is None:
        return fit
    coefficients, stderr = fit.background.coefficients, fit.background.stderr
    shape: tuple[int, ...] = coefficients.shape[-1:]
    shapes = fit.background.shapes
    axis = None
    if task.channels == "shared":
        shapes = shapes[:: len(shapes) // task.n_pairs]
        shape, axis = (len(coefficients) // task.n_pairs, *shape), task.channel_axis
    if task.listed:
        shape = (len(shapes), *shape)
    background = dataclasses.replace(
        fit.background,
        coefficients=coefficients.reshape(shape),
        stderr=stderr.reshape(shape),
        shapes=shapes,
        channel_axis=axis,
    )
    return dataclasses.replace(fit, background=background)
