"""kernelfit: the convolution kernel between an image and what became of it.

The public names, nothing else. A room is imported when one of its names is first asked for (PEP 562), so that importing
the package costs next to nothing. A new name goes into the imports for the type checker and into the table below them.
No room may have the name of something public in another room.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checks.boundary import BoundaryCheck as BoundaryCheck
    from .checks.boundary import BoundaryRow as BoundaryRow
    from .checks.boundary import check_boundary as check_boundary
    from .checks.noise import NoiseCheck as NoiseCheck
    from .checks.noise import check_noise as check_noise
    from .checks.noise import sandwich_errors as sandwich_errors
    from .checks.parts import split_channels as split_channels
    from .checks.psf import Measured as Measured
    from .checks.psf import PsfMeasurements as PsfMeasurements
    from .checks.psf import measure_psf as measure_psf
    from .checks.significance import Difference as Difference
    from .checks.significance import compare_kernels as compare_kernels
    from .exact._fft import set_fft as set_fft
    from .exact.accumulation import accumulate as accumulate
    from .exact.background import Background as Background
    from .exact.choice import Choice as Choice
    from .exact.choice import choose_method as choose_method
    from .exact.maps import KernelMap as KernelMap
    from .exact.maps import kernel_map as kernel_map
    from .exact.stream import accumulate_stream as accumulate_stream
    from .find import find_kernel as find_kernel
    from .forward import apply_kernel as apply_kernel
    from .geometry import Convention as Convention
    from .result import KernelFit as KernelFit
    from .result import Prior as Prior
    from .result import Spectrum as Spectrum
    from .result import StrengthPath as StrengthPath
    from .solvers.constrained import Constrained as Constrained
    from .solvers.constrained import InBasis as InBasis
    from .solvers.constrained import NonNegative as NonNegative
    from .solvers.gaussian_process import GaussianProcess as GaussianProcess
    from .solvers.penalties import Penalized as Penalized
    from .solvers.select import Comparison as Comparison
    from .solvers.select import Support as Support
    from .solvers.select import choose_support as choose_support
    from .solvers.select import compare as compare
    from .solvers.solve import LeastSquares as LeastSquares
    from .solvers.sparse import Sparse as Sparse
    from .spectral.blocks import accumulate_spectra as accumulate_spectra
    from .spectral.restoration import deconvolve as deconvolve
    from .spectral.spectra import SpectralStats as SpectralStats
    from .statistics import NormalStats as NormalStats
    from .verdict import Finding as Finding
    from .verdict import Verdict as Verdict

__version__ = "0.13.0"

_ROOMS = {
    "exact._fft": ("set_fft",),
    "exact.accumulation": ("accumulate",),
    "exact.background": ("Background",),
    "exact.choice": ("Choice", "choose_method"),
    "spectral.blocks": ("accumulate_spectra",),
    "checks.boundary": ("BoundaryCheck", "BoundaryRow", "check_boundary"),
    "solvers.constrained": ("Constrained", "InBasis", "NonNegative"),
    "find": ("find_kernel",),
    "forward": ("apply_kernel",),
    "solvers.gaussian_process": ("GaussianProcess",),
    "geometry": ("Convention",),
    "exact.maps": ("KernelMap", "kernel_map"),
    "checks.noise": ("NoiseCheck", "check_noise", "sandwich_errors"),
    "checks.parts": ("split_channels",),
    "solvers.penalties": ("Penalized",),
    "checks.psf": ("Measured", "PsfMeasurements", "measure_psf"),
    "spectral.restoration": ("deconvolve",),
    "result": ("KernelFit", "Prior", "Spectrum", "StrengthPath"),
    "verdict": ("Finding", "Verdict"),
    "solvers.select": ("Comparison", "Support", "choose_support", "compare"),
    "checks.significance": ("Difference", "compare_kernels"),
    "solvers.solve": ("LeastSquares",),
    "solvers.sparse": ("Sparse",),
    "spectral.spectra": ("SpectralStats",),
    "statistics": ("NormalStats",),
    "exact.stream": ("accumulate_stream",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = ("io", "plot", "report", "scale")  # reached as kernelfit.plot and so on, without an import of their own

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the room of a public name, once."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__, *_MODULES})
