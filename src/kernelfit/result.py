"""The answer: a kernel, how far to trust it, and why."""

import dataclasses
import enum
import functools
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import storage
from .geometry import Convention
from .statistics import convention_from

if TYPE_CHECKING:
    from .statistics import NormalStats

Array = npt.NDArray[np.float64]


class Verdict(enum.Enum):
    """What there is to say of a result; each value is the message, the worst come first."""

    RANK_DEFICIENT = (
        "the image does not determine every tap: of all kernels that fit equally well this is the smallest one. "
        "Ask for a smaller shape, or use an image with more detail"
    )
    NO_SIGNAL = "the target is the same everywhere and holds nothing of the image: check that the right file was read"
    ILL_CONDITIONED = (
        "the image hardly determines some combinations of taps, which carry large errors: "
        "ask for a smaller shape, or use an image with more fine detail"
    )
    NO_REDUNDANCY = (
        "there are no more equations than taps, so the fit is exact whatever the data, and the noise cannot be told: "
        "ask for a smaller shape, or use more pixels"
    )
    NOISE_DOMINATES = (
        "the errors of the taps are as large as the kernel itself: ask for a smaller shape, or use more pixels"
    )
    POOR_FIT = (
        "the best kernel explains less than half of the target: (a) the two images are not aligned, (b) the "
        "kernel is wider "
        "than the shape asked for, (c) the declared boundary or origin is wrong, or (d) the filter is not linear"
    )
    APPROXIMATE = (
        "approximate: the data are not periodic; the exact method (method='auto') gives the kernel without the "
        "error that division by frequency makes at the edges"
    )
    SOLVED = "solved"

    @property
    def ok(self) -> bool:
        """Whether there is nothing to doubt."""
        return self is Verdict.SOLVED


@dataclass(frozen=True)
class Finding:
    """One verdict with its particulars.

    Parameters
    ----------
    verdict : Verdict
        What was found.
    detail : str
        The figures, and the cause where it is known.
    """

    verdict: Verdict
    detail: str

    def __str__(self) -> str:
        """Return the particulars, then the message."""
        return f"{self.detail}; {self.verdict.value}"


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What the data can know of the kernel, frequency by frequency.

    Attributes
    ----------
    frequencies : ndarray, shape (bins,)
        Mean spatial frequency of each ring of frequencies, in cycles per pixel.
    coherence : ndarray, shape (bins,)
        Share of the target's power at that frequency which the kernel explains, from 0 to 1. Where it is low, the
        target holds noise, or something that no kernel of this shape makes of the image.
    passed : ndarray, shape (bins,)
        Mean of ``|X|^2 / (|X|^2 + balance * m * q)``, from 0 to 1: how much of the kernel's spectrum at that
        frequency comes from the data; the penalty fills in the rest.
    determined : float
        Fraction of the band, all frequencies up to Nyquist's, where more comes from the data than from the penalty.
    balance : float
        The balance used; relative to the mean power m of the divisor's spectrum, without dimension.
    """

    frequencies: Array
    coherence: Array
    passed: Array
    determined: float
    balance: float


@dataclass(frozen=True, eq=False)
class KernelFit:
    """A kernel found in a pair of images.

    Attributes
    ----------
    kernel : ndarray, shape (rows, cols)
        The kernel, to be handed to `scipy.signal.convolve2d` (or the operation named in `convention`).
    noise_std : float
        Estimated standard deviation of the noise of one target pixel, ``sqrt(rss / (n_pixels - rank))``; NaN if there
        are no more pixels than taps.
    rank : int
        Number of combinations of taps that the image determines.
    condition : float
        Condition number of the Gram matrix, infinite if the rank is deficient. (In the 1-norm, estimated, where
        Cholesky's factorisation serves; else the ratio of the largest to the smallest eigenvalue.)
    rss : float
        Residual sum of squares.
    r_squared : float
        Share of the target's variance that the kernel explains; NaN for a constant target.
    n_pixels : int
        Number of target pixels used.
    convention : Convention
        How the kernel lies on the image.
    method, method_reason : str
        The engine that read the pixels, and why it was chosen.
    refined : int
        Number of passes over the pixels after the first, made because rounding could have mattered.
    findings : tuple of Finding
        All that is doubtful, the worst first; empty if nothing is.
    factor : ndarray, shape (taps, rank)
        A factor F of the covariance of the taps, ``F F'``.
    spectrum : Spectrum or None
        What the data can know frequency by frequency, from the spectral method; None from the others.
    """

    kernel: Array
    factor: Array = dataclasses.field(repr=False)
    noise_std: float
    rank: int
    condition: float
    rss: float
    r_squared: float
    n_pixels: int
    convention: Convention
    findings: tuple[Finding, ...] = ()
    method: str = "statistics"
    method_reason: str = ""
    refined: int = 0
    spectrum: Spectrum | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst finding, or `Verdict.SOLVED`."""
        return self.findings[0].verdict if self.findings else Verdict.SOLVED

    @functools.cached_property
    def stderr(self) -> Array:
        """Standard error of each tap, of the kernel's shape."""
        variance = np.einsum("ij,ij->i", self.factor, self.factor)
        return np.asarray(np.sqrt(variance).reshape(self.kernel.shape))

    def covariance(self) -> Array:
        """Return the covariance of the taps.

        Returns
        -------
        ndarray, shape (taps, taps)
            ``noise_std^2 G^-1``, in row-major order of the kernel; if the rank is deficient, the pseudo-inverse: the
            part of the kernel that the image does not determine counts as zero.
        """
        return np.asarray(self.factor @ self.factor.T)

    def predict(self, image: npt.ArrayLike) -> Array:
        """Apply the kernel to an image under the fit's own convention.

        Parameters
        ----------
        image : array_like, shape (rows, cols)
            Any image at least as large as the kernel.

        Returns
        -------
        ndarray
            What the target would be; NaN where it depends on pixels beyond the edge and nothing is assumed of those.
        """
        from .forward import predict

        return predict(image, self.kernel, self.convention)

    def residual(self, image: npt.ArrayLike, target: npt.ArrayLike) -> Array:
        """Return the target less the prediction.

        Parameters
        ----------
        image, target : array_like
            A pair, such as the one the kernel was found in.

        Returns
        -------
        ndarray, of the target's shape
            The residual; NaN where nothing is predicted.
        """
        model = self.predict(image)
        result = np.asarray(target)
        if result.shape != model.shape:
            msg = (
                f"got a target of shape {result.shape}, need {model.shape} for this image and the fit's "
                f"{self.convention}"
            )
            raise ValueError(msg)
        return np.asarray(result - model)

    def summary(self) -> str:
        """Return the result in words and figures, a screen long at most."""
        rows, cols = self.kernel.shape[-2:]
        size = math.sqrt(float(np.sum(self.kernel**2)))
        error = math.sqrt(float(np.sum(self.stderr**2)))
        peak = np.unravel_index(int(np.argmax(np.abs(self.kernel))), self.kernel.shape)
        total = float(self.kernel.sum())
        total_error = float(np.linalg.norm(self.factor.sum(axis=0)))
        share = f", expected relative error {error / size:.2g}" if size > 0 and math.isfinite(error) else ""
        lines = [
            f"kernel      {rows} x {cols}, sum {total:.6g} +/- {total_error:.2g}, "
            f"largest tap {self.kernel[peak]:.6g} at {tuple(int(i) for i in peak)}{share}",
            f"convention  {self.convention}",
            f"fit         {self.n_pixels} pixels, rank {self.rank} of {self.kernel.size}, condition "
            f"{self.condition:.2g}",
            f"residual    noise {self.noise_std:.4g} per pixel, R squared {self.r_squared:.8g}, rss {self.rss:.4g}",
            f"method      {self.method}{f' ({self.method_reason})' if self.method_reason else ''}, "
            f"refined {self.refined} time{'' if self.refined == 1 else 's'}",
            f"verdict     {self.verdict.value if not self.findings else self.findings[0]}",
        ]
        lines += [f"            also: {finding}" for finding in self.findings[1:]]
        if self.kernel.ndim == 2 and rows <= 11 and cols <= 11:
            lines += ["", np.array2string(self.kernel, precision=4, suppress_small=True, max_line_width=120)]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the result to an NPZ file, in one step.

        Parameters
        ----------
        path : path-like
            Name of the file, used as it stands.
        overwrite : bool, optional
            Whether an existing file may be replaced; the default is not.

        Raises
        ------
        FileExistsError
            If the file exists and `overwrite` is false.
        """
        header = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("kernel", "factor", "convention", "findings", "spectrum")
        }
        header["convention"] = dataclasses.asdict(self.convention)
        header["findings"] = [[f.verdict.name, f.detail] for f in self.findings]
        if self.spectrum is not None:
            fields = dataclasses.asdict(self.spectrum)
            header["spectrum"] = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        storage.save(path, "KernelFit", header, {"kernel": self.kernel, "factor": self.factor}, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "KernelFit":
        """Read a result written by `save`.

        Parameters
        ----------
        path : path-like
            Name of the file.

        Returns
        -------
        KernelFit
            The result, equal to the bit.

        Raises
        ------
        ValueError
            If the file is not a complete file of a result.
        """
        header, arrays = storage.load(path, "KernelFit")
        for name in ("kernelfit", "kind"):
            del header[name]
        header["convention"] = convention_from(header["convention"])
        header["findings"] = tuple(Finding(Verdict[name], detail) for name, detail in header["findings"])
        spectrum = header.pop("spectrum", None)
        if spectrum is not None:
            arrays_of = {k: np.array(v, dtype=np.float64) for k, v in spectrum.items() if isinstance(v, list)}
            spectrum = Spectrum(**{**spectrum, **arrays_of})
        return cls(kernel=arrays["kernel"], factor=arrays["factor"], spectrum=spectrum, **header)


def assemble(
    stats: "NormalStats",
    taps: Array,
    factor: Array,
    *,
    rank: int,
    condition: float,
    rss: float,
    noise_std: float,
    findings: tuple[Finding, ...],
) -> KernelFit:
    """Put a solver's figures together as a result."""
    shapes = set(stats.terms)
    if len(shapes) == 1:
        rows, cols = stats.terms[0]
        kernel = taps.reshape((rows, cols) if len(stats.terms) == 1 else (len(stats.terms), rows, cols))
    else:
        kernel = taps
    variance = stats.target_energy - stats.target_sum**2 / max(1, stats.n_pixels)
    known = variance > 1e-14 * stats.target_energy
    return KernelFit(
        kernel=kernel,
        factor=factor,
        noise_std=noise_std,
        rank=rank,
        condition=condition,
        rss=rss,
        r_squared=1.0 - rss / variance if known else math.nan,
        n_pixels=stats.n_pixels,
        convention=stats.convention,
        findings=tuple(sorted(findings, key=lambda f: list(Verdict).index(f.verdict))),
    )
