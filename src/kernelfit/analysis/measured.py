"""A number with its error, as measurements of a kernel have them."""

import math
from typing import NamedTuple

from ..core.findings import Verdict

SYMMETRY = "by symmetry"
NONE = 1e-6  # an error so much smaller than those of the taps is none: the solver left no freedom
DOUBTS = {
    Verdict.RANK_DEFICIENT: "the image leaves part of this kernel open, so that its numbers have no errors",
    Verdict.NOISE_DOMINATES: "the errors of the taps are as large as the kernel: it may be noise that is measured here",
}


class Measured(NamedTuple):
    """A number and its standard error, NaN where there is none; and what fixes the number if the data do not."""

    value: float
    stderr: float = math.nan
    fixed: str = ""

    def __str__(self) -> str:
        """Write the number to the digits that its error leaves."""
        if not math.isfinite(self.value):
            return "not defined"
        if self.fixed:
            return f"{self.value:.4g} {self.fixed}"
        if not (math.isfinite(self.stderr) and self.stderr > 0):
            return f"{self.value:.4g}"
        digits = 1 - math.floor(math.log10(self.stderr))
        if digits > 8 or abs(self.value) >= 1e6 or (self.value != 0 and abs(self.value) < 1e-4):
            return f"{self.value:.6g} +/- {self.stderr:.2g}"
        return f"{self.value:.{max(0, digits)}f} +/- {self.stderr:.{max(0, digits)}f}"
