"""A number with its error, and a table of such, as measurements of a kernel have them."""

import dataclasses
import math
from typing import Any, NamedTuple

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


class Measurements:
    """A record of numbers with their errors, and of notes."""

    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, Measured, str]]:
        """Return the numbers as rows of a table: what each is, the number, and its unit."""
        raise NotImplementedError

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _, _ in rows) + 1
        lines = [
            f"{name:{width}s}{number}{' ' + unit if unit and math.isfinite(number.value) else ''}".rstrip()
            for name, number, unit in rows
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, object]:
        """Return the numbers as plain types for JSON, with value and stderr of each, None where there is none."""

        def plain(value: object) -> object:
            if isinstance(value, Measured):
                known = zip(("value", "stderr"), value[:2], strict=True)
                return {k: v if math.isfinite(v) else None for k, v in known}
            if isinstance(value, dict):
                return {f"{k:g}": plain(v) for k, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        record: Any = self
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(record)}
