"""Pictures of a kernel that varies over the field: the kernels on a grid, and maps of their flux, width and shape."""

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.field import kernel_at, measurements, places, sum_map
from ..core.estimate import Estimate, require_real
from .panels import BLUE, new_axes, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
_GRID = 5  # kernels along each axis


@picture("; each kernel stands at its place, all on one scale")
def kernel_grid(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw the kernels at the places of a grid that reaches from edge to edge of the image, or signal."""
    require_real(fit)
    ax = new_axes(ax)
    if fit.convention.ndim == 1:
        for place in places(fit, (1, _GRID))[1]:
            taps = kernel_at(fit, 0.0, place).kernel[0]
            ax.plot(np.arange(len(taps)) - fit.convention.origin[1], taps, label=f"{place:.0f}")
        ax.legend(frameon=False, fontsize=8, title="sample")
        ax.set(xlabel="lag, samples", ylabel="tap", title=f"kernels of {len(taps)} taps over the signal")
        return ax
    down, across = places(fit, _GRID)
    kernels = np.array([[kernel_at(fit, r, c).kernel for c in across] for r in down])
    rows, cols = kernels.shape[-2:]
    whole = np.full((len(down) * (rows + 1) - 1, len(across) * (cols + 1) - 1), np.nan)
    for i, j in np.ndindex(len(down), len(across)):
        whole[i * (rows + 1) : i * (rows + 1) + rows, j * (cols + 1) : j * (cols + 1) + cols] = kernels[i, j]
    high = float(np.nanmax(np.abs(whole))) or 1.0
    shown = ax.imshow(whole, cmap="RdBu_r", vmin=-high, vmax=high, interpolation="nearest")
    ax.figure.colorbar(shown, ax=ax, shrink=0.82, pad=0.02).set_label("tap")
    ax.set_yticks([i * (rows + 1) + rows // 2 for i in range(len(down))], [f"{r:.0f}" for r in down])
    ax.set_xticks([j * (cols + 1) + cols // 2 for j in range(len(across))], [f"{c:.0f}" for c in across])
    ax.set(xlabel="column", ylabel="row", title=f"kernels of {rows} x {cols} over the field")
    return ax


@picture("")
def flux_map(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw the sum of the kernel at each pixel of the image: by which factor light there gets brighter."""
    ax = new_axes(ax)
    sums = sum_map(fit)
    if fit.convention.ndim == 1:
        ax.plot(sums[0], color=BLUE)
        ax.set(xlabel="sample", ylabel="sum of the taps", title=f"from {sums.min():.4g} to {sums.max():.4g}")
        return ax
    step = max(1, max(sums.shape) // 200)
    shown = ax.imshow(sums[::step, ::step], cmap="viridis", extent=_extent(sums.shape))
    ax.figure.colorbar(shown, ax=ax, shrink=0.82, pad=0.02).set_label("sum of the taps")
    ax.set(xlabel="column", ylabel="row", title=f"flux, from {sums.min():.4g} to {sums.max():.4g}")
    return ax


@picture("; blank where the kernel has no width")
def width_map(fit: Estimate, ax: "Axes | None" = None) -> "Axes":
    """Draw the mean full width at half maximum, with whiskers along the long axis, the longer the less round."""
    ax = new_axes(ax)
    rows, cols = fit.convention.field.shape if fit.convention.field is not None else (1, 1)
    down, across = places(fit)
    found = measurements(fit)
    width, bare = np.array(
        [[[one.fwhm_along.value * one.fwhm_across.value, one.ellipticity.value] for one in line] for line in found]
    ).transpose(2, 0, 1)
    width = np.sqrt(width)
    angle = np.radians([[one.angle.value for one in line] for line in found])
    shown = ax.imshow(width, cmap="viridis", extent=_extent((rows, cols)), interpolation="bilinear")
    ax.figure.colorbar(shown, ax=ax, shrink=0.82, pad=0.02).set_label("FWHM (pixels)")
    length = np.nan_to_num(bare)
    ax.quiver(
        *np.meshgrid(across, down), length * np.cos(angle), length * np.sin(angle), color="white", pivot="mid",
        headwidth=0, headlength=0, headaxislength=0, scale=max(float(length.max()), 1e-6) * max(len(down), len(across)),
        width=0.006, edgecolor=BLUE,
    )  # fmt: skip
    told = f"{np.nanmin(width):.3g} to {np.nanmax(width):.3g} pixels" if np.isfinite(width).any() else "not defined"
    ax.set(xlabel="column", ylabel="row", title=f"width {told}; ellipticity up to {float(length.max()):.2g}")
    return ax


def _extent(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    return -0.5, shape[-1] - 0.5, shape[-2] - 0.5, -0.5
