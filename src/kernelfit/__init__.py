"""kernelfit: the convolution kernel between an image and what became of it.

The public names, nothing else. A room is imported when one of its names is first asked for (PEP 562), so that importing
the package costs next to nothing. A new name goes into the imports for the type checker and into the table below them.
No room may have the name of something public in another room.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.audit_record import Audit as Audit
    from .analysis.audit_record import AuditStep as AuditStep
    from .analysis.channel_split import split_channels as split_channels
    from .analysis.comparison import Difference as Difference
    from .analysis.comparison import compare_kernels as compare_kernels
    from .analysis.integers import IntegerKernel as IntegerKernel
    from .analysis.measured import Measured as Measured
    from .analysis.psf import PsfMeasurements as PsfMeasurements
    from .analysis.psf import measure_psf as measure_psf
    from .analysis.psf_volume import VolumePsfMeasurements as VolumePsfMeasurements
    from .analysis.recognition import Candidate as Candidate
    from .analysis.recognition import Parameter as Parameter
    from .analysis.recognition import recognise as recognise
    from .analysis.selection import Comparison as Comparison
    from .analysis.selection import compare as compare
    from .analysis.separation import Separation as Separation
    from .analysis.separation import separable as separable
    from .analysis.support import Support as Support
    from .analysis.support import choose_support as choose_support
    from .api.accumulate import accumulate as accumulate
    from .api.accumulate import accumulate_spectra as accumulate_spectra
    from .api.accumulate import accumulate_stream as accumulate_stream
    from .api.audit import audit as audit
    from .api.check_boundary import check_boundary as check_boundary
    from .api.check_noise import check_noise as check_noise
    from .api.check_noise import sandwich_errors as sandwich_errors
    from .api.find import find_kernel as find_kernel
    from .api.find_psf import Mtf as Mtf
    from .api.find_psf import PsfFit as PsfFit
    from .api.find_psf import TargetRegistration as TargetRegistration
    from .api.find_psf import find_psf as find_psf
    from .api.kernel_map import KernelMap as KernelMap
    from .api.kernel_map import kernel_map as kernel_map
    from .api.match_psf import match_psf as match_psf
    from .api.results import KernelFit as KernelFit
    from .api.statistics import ChannelStats as ChannelStats
    from .api.statistics import NormalStats as NormalStats
    from .api.statistics import SpectralStats as SpectralStats
    from .api.subtract import DifferenceImage as DifferenceImage
    from .api.subtract import subtract as subtract
    from .api.warm_up import warm_up as warm_up
    from .compiled.fft import set_fft as set_fft
    from .core.background import Background as Background
    from .core.curve import Curve as Curve
    from .core.estimate import Prior as Prior
    from .core.estimate import Spectrum as Spectrum
    from .core.estimate import StrengthPath as StrengthPath
    from .core.field import Basis as Basis
    from .core.findings import Finding as Finding
    from .core.findings import Verdict as Verdict
    from .core.geometry import Convention as Convention
    from .core.model import Execution as Execution
    from .core.model import Model as Model
    from .core.model import Noise as Noise
    from .core.model import Selection as Selection
    from .core.registration import Registration as Registration
    from .core.variation import Polynomial as Polynomial
    from .core.variation import Spline as Spline
    from .data.exposure import Exposure as Exposure
    from .diagnostics.boundary import BoundaryCheck as BoundaryCheck
    from .diagnostics.boundary import BoundaryRow as BoundaryRow
    from .diagnostics.whiteness import NoiseCheck as NoiseCheck
    from .engines.cost_model import Choice as Choice
    from .engines.cost_model import choose_method as choose_method
    from .engines.forward import apply_kernel as apply_kernel
    from .restoration.deconvolution import deconvolve as deconvolve
    from .solvers.conjugate_gradient import ConjugateGradient as ConjugateGradient
    from .solvers.constrained import Constrained as Constrained
    from .solvers.constrained import InBasis as InBasis
    from .solvers.constrained import NonNegative as NonNegative
    from .solvers.gaussian_process import GaussianProcess as GaussianProcess
    from .solvers.least_squares import LeastSquares as LeastSquares
    from .solvers.penalties import Penalized as Penalized
    from .solvers.sparse import Sparse as Sparse
    from .solvers.wiener import Wiener as Wiener

__version__ = "0.25.0"

_ROOMS = {
    "analysis.audit_record": ("Audit", "AuditStep"),
    "analysis.channel_split": ("split_channels",),
    "analysis.comparison": ("Difference", "compare_kernels"),
    "analysis.integers": ("IntegerKernel",),
    "analysis.measured": ("Measured",),
    "analysis.psf": ("PsfMeasurements", "measure_psf"),
    "analysis.psf_volume": ("VolumePsfMeasurements",),
    "analysis.recognition": ("Candidate", "Parameter", "recognise"),
    "analysis.selection": ("Comparison", "compare"),
    "analysis.separation": ("Separation", "separable"),
    "analysis.support": ("Support", "choose_support"),
    "api.accumulate": ("accumulate", "accumulate_spectra", "accumulate_stream"),
    "api.audit": ("audit",),
    "api.check_boundary": ("check_boundary",),
    "api.check_noise": ("check_noise", "sandwich_errors"),
    "api.find": ("find_kernel",),
    "api.find_psf": ("Mtf", "PsfFit", "TargetRegistration", "find_psf"),
    "api.kernel_map": ("KernelMap", "kernel_map"),
    "api.match_psf": ("match_psf",),
    "api.results": ("KernelFit",),
    "api.statistics": ("ChannelStats", "NormalStats", "SpectralStats"),
    "api.subtract": ("DifferenceImage", "subtract"),
    "api.warm_up": ("warm_up",),
    "compiled.fft": ("set_fft",),
    "core.background": ("Background",),
    "core.estimate": ("Prior", "Spectrum", "StrengthPath"),
    "core.findings": ("Finding", "Verdict"),
    "core.geometry": ("Convention",),
    "core.model": ("Execution", "Model", "Noise", "Selection"),
    "core.curve": ("Curve",),
    "core.registration": ("Registration",),
    "core.field": ("Basis",),
    "core.variation": ("Polynomial", "Spline"),
    "data.exposure": ("Exposure",),
    "diagnostics.boundary": ("BoundaryCheck", "BoundaryRow"),
    "diagnostics.whiteness": ("NoiseCheck",),
    "engines.cost_model": ("Choice", "choose_method"),
    "engines.forward": ("apply_kernel",),
    "restoration.deconvolution": ("deconvolve",),
    "solvers.conjugate_gradient": ("ConjugateGradient",),
    "solvers.constrained": ("Constrained", "InBasis", "NonNegative"),
    "solvers.gaussian_process": ("GaussianProcess",),
    "solvers.least_squares": ("LeastSquares",),
    "solvers.penalties": ("Penalized",),
    "solvers.sparse": ("Sparse",),
    "solvers.wiener": ("Wiener",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = ("io", "plot", "report", "scale", "sklearn")  # as kernelfit.plot, without an import of their own

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the room of a public name, once."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__, *_MODULES})
