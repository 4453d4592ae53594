"""The answer: a kernel, how far to trust it, and why."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.special

from ..compiled.threads import one_blas_thread
from .background import Background
from .curve import Curve
from .field import Omitted
from .findings import Finding, Verdict, ranked, with_edges
from .geometry import Convention, axis_lag
from .labels import Labels
from .registration import Registration
from .validation import Array, as_number, complex_of, renamed

if TYPE_CHECKING:
    from .normal_equations import NormalEquations


@dataclass(frozen=True, eq=False)
class StrengthPath:
    """How the fit depends on the strength of a penalty, or on the number of taps.

    Parameters
    ----------
    strength : ndarray, shape (n,)
        The strengths, relative and without dimension as the solver defines them; for `Sparse` the number of taps.
    df_model : ndarray, shape (n,)
        Effective degrees of freedom, the trace of the matrix that takes the target to its prediction.
    rss : ndarray, shape (n,)
        Residual sum of squares.
    score : ndarray, shape (n,)
        The criterion at each strength; for those that minimise it the lowest is the best.
    criterion : str
        What the score is.
    """

    strength: Array
    df_model: Array
    rss: Array
    score: Array
    criterion: str

    freedom = renamed("freedom", "df_model")


@dataclass(frozen=True)
class Prior:
    """A Gaussian-process prior on the taps of one term, ``a^2 e(p) e(q) rho(|p - q| / l)``.

    Parameters
    ----------
    family : str
        The correlation rho.
    amplitude : float
        a, in units of the kernel.
    length : float
        l, in pixels.
    radius : float
        r of the envelope, in pixels.
    center : (float, float)
        c, (row, column) in the kernel's own index.
    envelope : {"gaussian", "power", "decay"}
        e(p): ``exp(-|p - c|^2 / (2 r^2))``, ``(1 + |p - c|^2 / (6 r^2))^-3`` or, of the families "tc", "dc" and "ss",
        ``exp(-|p - c| / r)``.
    symmetric : {None, "point", "both", "square"}
        The symmetry about the middle of the support, see `GaussianProcess`.
    scales : tuple of float
        Of volumes: how many times `length` and `radius`, which are those along the columns, are longer along planes and
        along rows. Empty for images and signals.
    """

    family: str
    amplitude: float
    length: float
    radius: float
    center: tuple[float, ...]
    envelope: str = "gaussian"
    symmetric: str | None = None
    scales: tuple[float, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.family}, amplitude {self.amplitude:.3g}, length {self.length:.3g}, radius {self.radius:.3g}, "
            f"centre ({', '.join(f'{at:.2f}' for at in self.center)})"
            f"{'' if self.envelope == 'gaussian' else f', {self.envelope} envelope'}"
            f"{'' if self.symmetric is None else f', symmetric ({self.symmetric})'}"
            + (f", {' x '.join(f'{scale:.3g}' for scale in (*self.scales, 1.0))}" if self.scales else "")
        )


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


def lags_of(conv: Convention, shape: tuple[int, ...]) -> "tuple[npt.NDArray[np.int64], ...]":
    """Return the lags of the taps of a kernel along each of its axes."""
    both = zip(shape[-len(conv.origin) :], conv.origin, strict=True)
    return tuple(np.array([axis_lag(conv, side, origin, p) for p in range(side)]) for side, origin in both)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A kernel found in a pair of images.

    Attributes
    ----------
    kernel : ndarray, shape (rows, cols)
        The kernel, to be handed to `scipy.signal.convolve2d` (or the operation named in `convention`). For several
        channels also (channels, rows, cols) or (target's channels, image's channels, rows, cols).
    noise_std : float
        Estimated standard deviation of the noise of one target pixel, ``sqrt(rss / (n_pixels - rank))``; NaN if there
        are no more pixels than taps. With weights that of a pixel of weight 1: near 1 if they are inverse variances.
    rank : int
        Number of combinations of taps that the image determines.
    condition : float
        Condition number of the Gram matrix, infinite if the rank is deficient. (In the 1-norm, estimated, where
        Cholesky's factorisation serves; else the ratio of the largest to the smallest eigenvalue.)
    rss : float
        Residual sum of squares, weighted if there are weights.
    r_squared : float
        Share of the target's variance that the kernel explains; NaN for a constant target.
    n_pixels : int
        Number of target pixels used, that is of those with a weight.
    convention : Convention
        How the kernel lies on the image.
    method, method_reason : str
        The engine that read the pixels, and why it was chosen.
    refined : int
        Number of passes over the pixels after the first, made because rounding could have mattered.
    findings : tuple of Finding
        All that is doubtful, the worst first; empty if nothing is.
    root : ndarray, shape (taps, rank), or None
        A factor of the covariance, up to a number: fits to the same pixels of an image share it. None for a kernel of
        so many taps that it was found iteratively.
    root_scale : float
        That number: ``root_scale * root`` is the `factor` F, and ``F F'`` the covariance of the taps.
    typical_stderr : float
        About the standard error of every tap where `factor` is None: within a third of the true one.
    iterations : int
        Number of iterations of conjugate gradients, 0 for a direct solution.
    tolerance : float
        Error at which the iterations stopped, in units of the standard error that the noise causes; 0 for a direct
        solution.
    solver : str
        The solver and, if it made a choice, what it chose and why.
    uncertainty : {"sampling", "posterior"}
        What the covariance is: that of the estimate from one sample of the noise to the next (no bias), or that of
        the kernel given the data and the prior (under a penalty or prior, where the first would leave out the bias).
    unsettled : int
        Number of columns of `factor`, the last ones, that stand for what the data leave open of a prior's
        hyperparameters, and for errors of rounding that follow the image.
    errors : {"plain", "sandwich"}
        What noise the covariance is for: white noise, or noise correlated from pixel to pixel as the residual is.
    image_noise : float
        Standard deviation of the noise of an image pixel whose effect was taken off; 0 if none was given.
    rounding : float
        Standard deviation of the errors of a target that was rounded to integers; 0 if it is of no integer type.
    df_model : float
        Effective degrees of freedom of the fit; the number of free taps where there is no penalty.
    strength : float
        Strength of the penalty, relative, as its solver defines it; NaN without one.
    path : StrengthPath or None
        What the strength was chosen from.
    least_squares : tuple of ndarray, or None
        Beside a posterior: the taps of least squares, and a factor of their covariance in units of the noise's
        variance, which are what the data say without the prior. None where there is none, and for several kernels,
        more than 1000 taps, complex numbers, or errors that are not those of white noise.
    priors : tuple of Prior
        The prior of each term, with the hyperparameters that maximise the evidence; empty without one.
    log_evidence : float
        Logarithm of the probability of the target under the prior; NaN without one.
    alternatives : dict of str to float
        Log evidences of the other choices, where there were any.
    spectrum : Spectrum or None
        What the data can know frequency by frequency, from the spectral method; None from the others.
    weighting : str
        How weights were taken into account, and whether exactly; empty if every pixel counted the same.
    found : tuple of str
        What was found of the pair because it was not given, in words; empty where the kernel's shape was given.
    call : tuple of str
        The words of the call that nothing else here tells: its verb, the arrays, which pixels counted, the noise and
        the solver; empty where all of that was left as it is. For `KernelFit.reproduce`.
    notes : tuple of str
        Pixels that were excluded and why, and other things that are not doubtful but good to know.
    weights : ndarray, tuple of ndarray, or None
        The weights finally used, of the target's shape (of several pairs, or channels that share a kernel, a tuple, one
        for each; of kernels for each channel those of `parts`), zero where a pixel is excluded or not used; bool where
        every pixel counts once or not at all. They take as much memory as the target, 8 bytes per pixel where they are
        not bool. None if every pixel counted the same, and where of more than 2^24 pixels saturated ones alone were
        left out, which the target itself tells (`notes` says how many).
    background : Background or None
        The polynomial surface fitted beside the kernel; None without one.
    channels : {None, "shared", "separate", "mixed"}
        How channels were taken together; None for images of one plane.
    channel_axis : int or None
        The axis of image and target that holds them.
    registration : Registration or None
        How the image lies on the target, with errors; None where that was not asked for. The kernel's errors hold what
        the motion leaves open.
    curve : Curve or None
        The curve from the values of the files to light, with errors; None where that was not asked for. The kernel, its
        errors and the noise are those of light.
    labels : Labels or None
        What the arrays that it was found in say of their axes and units; None for plain ones.
    omitted : Omitted or None
        Of a kernel that varies over the field as a polynomial: what the degree leaves out, so far as the residual
        tells; the errors of `KernelFit.at` hold it. None where nothing shows.
    parts : tuple of KernelFit
        With channels "separate" and "mixed" the fit of each target channel, with the figures of its own. This one's are
        then: rank, rss, n_pixels, df_model and iterations the sum, condition and refined the largest, r_squared
        the smallest, noise_std the root mean square; findings those of all.
    """

    kernel: Array
    root: Array | None = dataclasses.field(repr=False)
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
    root_scale: float = 1.0
    typical_stderr: float = math.nan
    iterations: int = 0
    tolerance: float = 0.0
    solver: str = "LeastSquares()"
    uncertainty: str = "sampling"
    unsettled: int = 0
    errors: str = "plain"
    image_noise: float = 0.0
    rounding: float = 0.0
    df_model: float = math.nan
    strength: float = math.nan
    path: StrengthPath | None = dataclasses.field(default=None, repr=False)
    least_squares: tuple[Array, Array] | None = dataclasses.field(default=None, repr=False)
    priors: tuple[Prior, ...] = ()
    log_evidence: float = math.nan
    alternatives: dict[str, float] = dataclasses.field(default_factory=dict)
    spectrum: Spectrum | None = None
    weighting: str = ""
    found: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: "npt.NDArray[Any] | tuple[npt.NDArray[Any], ...] | None" = dataclasses.field(default=None, repr=False)
    background: Background | None = None
    channels: str | None = None
    channel_axis: int | None = None
    registration: Registration | None = None
    curve: Curve | None = None
    labels: Labels | None = dataclasses.field(default=None, repr=False)
    omitted: Omitted | None = dataclasses.field(default=None, repr=False)
    parts: "tuple[Estimate, ...]" = dataclasses.field(default=(), repr=False)

    @property
    def factor(self) -> Array | None:
        """A factor F of the covariance of the taps, ``F F'``; None for a kernel found iteratively."""
        return self.root if self.root is None or self.root_scale == 1.0 else self.root * self.root_scale

    freedom, spare = renamed("freedom", "df_model"), renamed("spare", "df_resid")

    @property
    def prior(self) -> Prior | None:
        """The prior of the first term, None without one."""
        return self.priors[0] if self.priors else None

    @property
    def verdict(self) -> Verdict:
        """The worst finding, or `Verdict.SOLVED`."""
        return self.findings[0].verdict if self.findings else Verdict.SOLVED

    @property
    def df_resid(self) -> int:
        """Degrees of freedom of the residual: pixels less what is determined of the taps and of the background."""
        per_pixel, per_tap = self.convention.parts
        terms = self.background.coefficients.size if self.background else 0
        return per_pixel * (self.n_pixels - terms) - per_tap * self.rank

    @functools.cached_property
    def stderr(self) -> Array:
        """Standard error of each tap, of the kernel's shape; of a complex one those of its two parts."""
        if self.parts:
            return np.stack([part.stderr for part in self.parts]).reshape(self.kernel.shape)
        if self.root is None:
            return np.full(self.kernel.shape, self.typical_stderr * (1 + 1j if self._complex else 1))
        rows = (self.root[i : i + 64] * self.root_scale for i in range(0, len(self.root), 64))  # in the cache, no copy
        return self._shaped(np.sqrt(np.concatenate([np.einsum("ij,ij->i", some, some) for some in rows])))

    @property
    def _complex(self) -> bool:
        return self.kernel.dtype.kind == "c"

    def _shaped(self, values: Array) -> Array:
        """Return numbers along the last axis as kernels; of complex ones the real parts stand before the others."""
        if self._complex:
            real, imaginary = np.split(values, 2, axis=-1)
            values = complex_of(real, imaginary)
        return np.asarray(values.reshape(*values.shape[:-1], *self.kernel.shape))

    @property
    def lags(self) -> "npt.NDArray[np.int64] | tuple[npt.NDArray[np.int64], ...]":
        """How far back each tap looks: of signals an array of samples, of images two, along rows and along columns.

        ``target[t] = sum_p kernel[p] image[stride t + offset - (lags[0][p[0]], lags[1][p[1]])]``, t, p and the
        pixels counted in the arrays as they were given.
        """
        axes = lags_of(self.convention, self.kernel.shape)
        return axes[-1] if self.convention.ndim == 1 else axes

    @one_blas_thread
    def covariance(self) -> Array:
        """Return the covariance of the taps.

        Returns
        -------
        ndarray, shape (taps, taps)
            Of complex taps that of their real parts and then of their imaginary parts, shape (2 taps, 2 taps). It is
            ``noise_std^2 G^-1``, in row-major order of the kernel; if the rank is deficient, the pseudo-inverse: the
            part of the kernel that the image does not determine counts as zero. Where there are `parts`, one
            for each, shape (parts, taps, taps): the noise of one channel counts as independent of that of the others.

        Raises
        ------
        ValueError
            If the kernel was found iteratively, where the covariance is not computed.
        """
        if self.parts:
            return np.stack([part.covariance() for part in self.parts])
        factor = self._covariance_factor()
        return np.asarray(factor @ factor.T)

    def _covariance_factor(self) -> Array:
        """Return `factor`, or say that there is none."""
        if (factor := self.factor) is None:
            raise ValueError(
                f"got a kernel of {self.kernel.size} taps that was found iteratively, without a covariance; "
                "ask for a smaller shape, or for method='fft' if there is memory for it"
            )
        return factor

    def confidence(self, level: float = 0.95) -> tuple[Array, Array]:
        """Return the interval that holds each tap with probability `level`, tap by tap.

        Under a prior or penalty it is the central interval of the posterior; else the confidence interval of Student's
        t with `df_resid` degrees of freedom.

        Parameters
        ----------
        level : float, optional
            Between 0 and 1, default 0.95.

        Returns
        -------
        low, high : ndarray, of the kernel's shape
            ``kernel -+ t stderr``.

        Raises
        ------
        ValueError
            If the level does not lie between 0 and 1.
        """
        if not 0 < as_number(level, "level") < 1:
            raise ValueError(f"got level={level!r}, need a number between 0 and 1 such as 0.95")
        if self.parts:
            both = np.stack([part.confidence(level) for part in self.parts], axis=1)
            return both[0].reshape(self.kernel.shape), both[1].reshape(self.kernel.shape)
        tail = 0.5 + 0.5 * level
        if self.uncertainty == "sampling" and self.df_resid > 0:
            reach = float(scipy.special.stdtrit(self.df_resid, tail))
        else:
            reach = float(scipy.special.ndtri(tail))
        return self.kernel - reach * self.stderr, self.kernel + reach * self.stderr

    @one_blas_thread
    def sample(self, n: int, rng: np.random.Generator | int | None = None) -> Array:
        """Draw kernels from the uncertainty, to push it through whatever is computed next.

        Parameters
        ----------
        n : int
            How many.
        rng : numpy.random.Generator or int, optional
            Generator or seed; the default is a fresh generator.

        Returns
        -------
        ndarray, shape (n, *kernel.shape)
            ``kernel + F g``, g standard normal.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"got n={n!r}, need a whole number of kernels of at least 0")
        if self.parts:
            rng = np.random.default_rng(rng)
            draws = np.stack([part.sample(n, rng) for part in self.parts], axis=1)
            return np.asarray(draws.reshape(n, *self.kernel.shape))
        factor = self._covariance_factor()
        draws = np.random.default_rng(rng).standard_normal((n, factor.shape[1]))
        return np.asarray(self.kernel + self._shaped(draws @ factor.T))


def assemble(stats: "NormalEquations", taps: Array, root: Array, *, rank: int, rss: float, **more: Any) -> Estimate:
    """Put a solver's figures together as a result; `more` holds further fields of it."""
    n, sides = len(stats.supports), stats.supports[0]
    alike = len(set(stats.supports)) == 1
    findings = with_edges(more.get("findings", ()), stats.convention, stats.n_pixels, len(taps))
    return Estimate(
        kernel=taps.reshape(sides if n == 1 else (n, *sides)) if alike else taps,
        root=root,
        rank=rank,
        rss=rss,
        r_squared=1.0 - rss / stats.variance if stats.varies else math.nan,
        n_pixels=stats.n_pixels,
        convention=stats.convention,
        **{"df_model": float(rank), "weighting": stats.weighting, **more, "findings": ranked(findings)},
    )


def require_fit(fit: object) -> None:
    """Refuse anything but a result."""
    if not isinstance(fit, Estimate):
        raise TypeError(f"got fit={fit!r:.60}, need a KernelFit, what find_kernel or stats.solve returns")


def sides_of(fit: Estimate) -> tuple[int, ...]:
    """Return the sides of one kernel, as the code for images has them."""
    return fit.kernel.shape[-3 if fit.convention.ndim == 3 else -2 :]


def require_real(fit: "Estimate | None") -> None:
    """Refuse a complex kernel, or none."""
    if fit is not None and fit.kernel.dtype.kind == "c":
        raise TypeError(
            "got a fit of a complex kernel, need a real one here: take its real or its imaginary part, with the errors "
            "of either, from kernelfit.split_channels(fit); fit.plot() draws both, without the images"
        )


def with_finding(fit: Estimate, finding: Finding | None) -> Estimate:
    """Return a fit with one more finding in its place, the worst first."""
    return fit if finding is None else dataclasses.replace(fit, findings=ranked((*fit.findings, finding)))
