"""kernelfit: the convolution kernel between an image and what became of it."""

from ._fft import set_fft
from .accumulation import Choice, accumulate, choose_method
from .background import Background
from .boundary import BoundaryCheck, BoundaryRow, check_boundary
from .constrained import Constrained, InBasis, NonNegative
from .find import find_kernel
from .forward import apply_kernel
from .gaussian_process import GaussianProcess
from .geometry import Convention
from .penalties import Penalized
from .restoration import deconvolve
from .result import Finding, KernelFit, Prior, Spectrum, StrengthPath, Verdict
from .select import Comparison, Support, choose_support, compare
from .solve import LeastSquares
from .sparse import Sparse
from .spectra import SpectralStats, accumulate_spectra
from .statistics import NormalStats

__version__ = "0.4.0"

__all__ = [
    "Background",
    "BoundaryCheck",
    "BoundaryRow",
    "Choice",
    "Comparison",
    "Constrained",
    "Convention",
    "Finding",
    "GaussianProcess",
    "InBasis",
    "KernelFit",
    "LeastSquares",
    "NonNegative",
    "NormalStats",
    "Penalized",
    "Prior",
    "Sparse",
    "SpectralStats",
    "Spectrum",
    "StrengthPath",
    "Support",
    "Verdict",
    "accumulate",
    "accumulate_spectra",
    "apply_kernel",
    "check_boundary",
    "choose_method",
    "choose_support",
    "compare",
    "deconvolve",
    "find_kernel",
    "set_fft",
]
