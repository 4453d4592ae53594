"""kernelfit: the convolution kernel between an image and what became of it."""

from ._fft import set_fft
from .accumulation import Choice, accumulate, choose_method
from .find import find_kernel
from .forward import apply_kernel
from .geometry import Convention
from .restoration import deconvolve
from .result import Finding, KernelFit, Spectrum, Verdict
from .solve import LeastSquares
from .spectra import SpectralStats, accumulate_spectra
from .statistics import NormalStats

__version__ = "0.1.0"

__all__ = [
    "Choice",
    "Convention",
    "Finding",
    "KernelFit",
    "LeastSquares",
    "NormalStats",
    "SpectralStats",
    "Spectrum",
    "Verdict",
    "accumulate",
    "accumulate_spectra",
    "apply_kernel",
    "choose_method",
    "deconvolve",
    "find_kernel",
    "set_fft",
]
