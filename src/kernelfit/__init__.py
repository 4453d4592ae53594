"""kernelfit: the convolution kernel between an image and what became of it.

The public names, nothing else. A room is imported when one of its names is first asked for (PEP 562), so that importing
the package costs next to nothing. A new name goes into the imports for the type checker and into the table below them.
No room may have the name of something public in another room.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._fft import set_fft as set_fft
    from .accumulation import Choice as Choice
    from .accumulation import accumulate as accumulate
    from .accumulation import choose_method as choose_method
    from .background import Background as Background
    from .blocks import accumulate_spectra as accumulate_spectra
    from .boundary import BoundaryCheck as BoundaryCheck
    from .boundary import BoundaryRow as BoundaryRow
    from .boundary import check_boundary as check_boundary
    from .constrained import Constrained as Constrained
    from .constrained import InBasis as InBasis
    from .constrained import NonNegative as NonNegative
    from .find import find_kernel as find_kernel
    from .forward import apply_kernel as apply_kernel
    from .gaussian_process import GaussianProcess as GaussianProcess
    from .geometry import Convention as Convention
    from .maps import KernelMap as KernelMap
    from .maps import kernel_map as kernel_map
    from .noise import NoiseCheck as NoiseCheck
    from .noise import check_noise as check_noise
    from .noise import sandwich_errors as sandwich_errors
    from .parts import split_channels as split_channels
    from .penalties import Penalized as Penalized
    from .psf import Measured as Measured
    from .psf import PsfMeasurements as PsfMeasurements
    from .psf import measure_psf as measure_psf
    from .restoration import deconvolve as deconvolve
    from .result import Finding as Finding
    from .result import KernelFit as KernelFit
    from .result import Prior as Prior
    from .result import Spectrum as Spectrum
    from .result import StrengthPath as StrengthPath
    from .result import Verdict as Verdict
    from .select import Comparison as Comparison
    from .select import Support as Support
    from .select import choose_support as choose_support
    from .select import compare as compare
    from .significance import Difference as Difference
    from .significance import compare_kernels as compare_kernels
    from .solve import LeastSquares as LeastSquares
    from .sparse import Sparse as Sparse
    from .spectra import SpectralStats as SpectralStats
    from .statistics import NormalStats as NormalStats
    from .stream import accumulate_stream as accumulate_stream

__version__ = "0.10.0"

_ROOMS = {
    "_fft": ("set_fft",),
    "accumulation": ("Choice", "accumulate", "choose_method"),
    "background": ("Background",),
    "blocks": ("accumulate_spectra",),
    "boundary": ("BoundaryCheck", "BoundaryRow", "check_boundary"),
    "constrained": ("Constrained", "InBasis", "NonNegative"),
    "find": ("find_kernel",),
    "forward": ("apply_kernel",),
    "gaussian_process": ("GaussianProcess",),
    "geometry": ("Convention",),
    "maps": ("KernelMap", "kernel_map"),
    "noise": ("NoiseCheck", "check_noise", "sandwich_errors"),
    "parts": ("split_channels",),
    "penalties": ("Penalized",),
    "psf": ("Measured", "PsfMeasurements", "measure_psf"),
    "restoration": ("deconvolve",),
    "result": ("Finding", "KernelFit", "Prior", "Spectrum", "StrengthPath", "Verdict"),
    "select": ("Comparison", "Support", "choose_support", "compare"),
    "significance": ("Difference", "compare_kernels"),
    "solve": ("LeastSquares",),
    "sparse": ("Sparse",),
    "spectra": ("SpectralStats",),
    "statistics": ("NormalStats",),
    "stream": ("accumulate_stream",),
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
