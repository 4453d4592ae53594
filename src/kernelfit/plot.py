"""Pictures of a kernel and of how well it is known (extra "plot"), by their public names."""

from .plotting.field import flux_map, kernel_grid, width_map
from .plotting.overview import overview, residual, residual_autocorrelation, residual_histogram
from .plotting.panels import cuts, error, frequency_response, kernel, kernel_and_error, spectrum, strength_path
from .plotting.volumes import maximum_projections, orthogonal_cuts

__all__ = [
    "cuts",
    "error",
    "flux_map",
    "frequency_response",
    "kernel",
    "kernel_and_error",
    "kernel_grid",
    "maximum_projections",
    "orthogonal_cuts",
    "overview",
    "residual",
    "residual_autocorrelation",
    "residual_histogram",
    "spectrum",
    "strength_path",
    "width_map",
]
