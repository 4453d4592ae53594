"""Two kernels compared: their difference, and whether it is more than their errors explain."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core import geometry
from ..core.dimensions import of_any_dimension
from ..core.estimate import Estimate, require_real
from ..core.findings import Verdict
from ..core.validation import Array, complex_of, renamed
from ..data.observation import NUMBERS, REAL, as_array

#: Supports of more taps than this are tested tap by tap: the covariance of all would cost too much.
_MOST_TAPS = 2500


@dataclass(frozen=True, eq=False)
class Difference:
    """The first of two kernels less the second; made by `compare_kernels`.

    Attributes
    ----------
    difference : ndarray, shape (rows, cols), of volumes (planes, rows, cols)
        On the smallest support that holds both, laid origin on origin, as a convolution.
    stderr : ndarray, of the same shape
        Standard error of each tap of it; NaN where neither kernel has errors. Of complex kernels both are complex, the
        error that of the real and of the imaginary part.
    origin : (int, int)
        The tap of it over the output pixel.
    relative : float
        Norm of the difference over that of the first kernel.
    largest : (int, int)
        The tap that differs most, in units of its error if there is one.
    chi2 : float
        ``d' C^-1 d`` with C the sum of the two covariances, over the combinations of taps that have an error (see the
        notes); NaN without errors.
    dof : int
        Their number.
    p_value : float
        The probability of a `chi2` as large by chance if the two kernels were the same; NaN without errors.
    exact : bool
        Whether one of the two has no errors, and so counts as exact.

    Notes
    -----
    Where a choice holds a tap (a zero of `Sparse`, a prior, the shape) or a combination of taps (their sum), its error
    says nothing of the data. It is then taken to be the largest error of all, if the two kernels differ there.
    """

    difference: npt.NDArray[Any]
    stderr: npt.NDArray[Any]
    origin: tuple[int, ...]
    relative: float
    largest: tuple[int, ...]
    chi2: float
    dof: int
    p_value: float
    exact: bool = False

    freedom = renamed("freedom", "dof")

    def _lowered(self) -> "Difference":
        tables = {"difference": self.difference[0], "stderr": self.stderr[0]}
        return dataclasses.replace(self, **tables, origin=self.origin[1:], largest=self.largest[1:])

    @property
    def differ(self) -> bool:
        """Whether they differ: by more than chance at the level 0.001, or by more than rounding without errors."""
        if math.isnan(self.p_value):
            return self.relative > 1e-9
        return self.p_value < 1e-3

    def __str__(self) -> str:
        value, error = self.difference[self.largest], float(np.abs(self.stderr[self.largest]))
        place = self.largest if len(self.largest) > 1 else f"lag {self.largest[0] - self.origin[0]}"
        lines = [f"difference   {self.relative:.3g} of the first kernel's norm"]
        if math.isnan(self.p_value):
            lines += [
                f"largest      {value:.4g} at {place}",
                "verdict      " + ("they differ by more than rounding" if self.differ else "the same kernel"),
                "             neither has errors, so whether noise explains it cannot be told (save fits as .npz)",
            ]
            return "\n".join(lines[:3] if not self.differ else lines)
        most = float(np.abs(self.stderr).max())
        sigma = f"{abs(value) / error:.1f} times its error" if error > 0 else "where there is no error at all"
        if held(np.abs(self.stderr))[self.largest] and most > 0:
            sigma = f"{abs(value) / most:.1f} times the largest error, being held there by a choice, not by the pixels"
        lines += [
            f"largest      {value:.4g} at {place}, {sigma}",
            f"chi squared  {self.chi2:.4g} for {self.dof} degrees of freedom, p = {self.p_value:.2g}",
            "verdict      "
            + (
                "they differ: noise alone would hardly do that"
                if self.differ
                else "no difference that the noise could not have made"
            ),
        ]
        if self.exact:
            what = "only one has errors: the other counts as exact, which a kernel found of noisy images is not (save"
            lines.append(f"             {what} fits as .npz)")
        return "\n".join(lines)


@of_any_dimension
@one_blas_thread
def compare_kernels(
    first: Estimate | npt.ArrayLike,
    second: Estimate | npt.ArrayLike,
    *,
    stderr: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
) -> Difference:
    """Compare two kernels tap by tap, and all taps at once.

    Parameters
    ----------
    first, second : KernelFit or array_like, shape (rows, cols), or (planes, rows, cols) for volumes
        The kernels. Fits are laid origin on origin, those of ``operation="correlation"`` turned by 180 degrees first;
        arrays are convolution kernels with SciPy signal's centre. Beyond its support a kernel is zero, without error.
        The noise of the two is taken to be independent: two fits of the same pair are more alike than that.
    stderr : (array_like or None, array_like or None), optional
        Standard errors of the taps of kernels that are arrays, if there are any; taken as independent. Of complex
        taps those of their real and imaginary parts, as complex numbers, or one number for both.

    Returns
    -------
    Difference
        The difference with its significance; ``print`` it for a few lines.

    Raises
    ------
    ValueError
        If a kernel is not one of images or volumes or not finite, or errors do not have the kernel's shape.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((60, 70))
    >>> pairs = [0.5 * image + rng.normal(0, 0.01, image.shape) for _ in range(2)]
    >>> a, b = (kernelfit.find_kernel(image, target, (1, 3)) for target in pairs)
    >>> kernelfit.compare_kernels(a, b).differ
    False
    >>> kernelfit.compare_kernels(a, [[0.0, 0.51, 0.0]]).differ
    True
    """
    one, other = (laid_out(kernel, error, 3, NUMBERS) for kernel, error in zip((first, second), stderr, strict=True))
    parts = any(np.iscomplexobj(laid[0]) for laid in (one, other))
    if parts:
        one, other = _by_parts(*one), _by_parts(*other)
    if one[0].ndim != other[0].ndim:
        raise ValueError(f"got kernels of {one[0].ndim} and of {other[0].ndim} dimensions, need as many in both")
    origin = tuple(max(a, b) for a, b in zip(one[1], other[1], strict=True))
    shape = tuple(o + max(one[0].shape[i] - one[1][i], other[0].shape[i] - other[1][i]) for i, o in enumerate(origin))
    places = [
        np.ix_(*(o - at + np.arange(n) for o, at, n in zip(origin, start, taps.shape, strict=True)))
        for taps, start, _ in (one, other)
    ]
    difference, variance = np.zeros(shape), np.zeros(shape)
    factors: list[Array] = []
    given = sum(factor is not None for _, _, factor in (one, other))
    known = given > 0
    for (taps, _, factor), place, sign in zip((one, other), places, (1.0, -1.0), strict=True):
        difference[place] += sign * taps
        if factor is not None:
            variance[place] += np.einsum("ij,ij->i", factor, factor).reshape(taps.shape)
            whole = np.zeros((*shape, factor.shape[1]))
            whole[place] = factor.reshape(*taps.shape, -1)
            factors.append(whole.reshape(difference.size, -1))
    error = np.sqrt(variance) if known else np.full(shape, math.nan)
    size = float(np.linalg.norm(one[0]))
    norm = float(np.linalg.norm(difference))
    relative = norm / size if size > 0 else (math.inf if norm > 0 else 0.0)
    chi2, dof, p_value = math.nan, 0, math.nan
    score = np.abs(difference)
    if known:
        fits = [kernel for kernel in (first, second) if isinstance(kernel, Estimate)]
        open_ended = any(finding.verdict is Verdict.RANK_DEFICIENT for fit in fits for finding in fit.findings)
        chi2, dof, p_value = _test(difference, error, factors, math.inf if open_ended else max(size, norm))
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(held(error), error.max(), error)
            score = np.where(spread > 0, score / spread, np.where(score > 1e-12 * size, math.inf, 0.0))
    largest = tuple(int(at) for at in np.unravel_index(int(np.argmax(score)), shape))
    test = chi2, dof, p_value
    if parts:
        difference, error, origin, largest = complex_of(*difference), complex_of(*error), origin[1:], largest[1:]
    return Difference(difference, error, origin, relative, largest, *test, exact=given == 1)


def _by_parts(
    taps: npt.NDArray[Any], origin: tuple[int, ...], factor: Array | None
) -> tuple[Array, tuple[int, ...], Array | None]:
    """Return a kernel's two parts as a real kernel of one axis more; the imaginary part of a real one is exact."""
    if factor is not None and taps.dtype.kind != "c":
        factor = np.concatenate([factor, np.zeros_like(factor)])
    return np.stack([taps.real, taps.imag]), (0, *origin), factor


def laid_out(
    kernel: Estimate | npt.ArrayLike, stderr: npt.ArrayLike | None, most: int = 2, kinds: str = REAL
) -> tuple[npt.NDArray[Any], tuple[int, ...], Array | None]:
    """Return a kernel as a convolution, its origin, and a covariance factor (of real, then imaginary parts)."""
    fit = kernel if isinstance(kernel, Estimate) else None
    if kinds == REAL:
        require_real(fit)
    taps = np.asarray(fit.kernel if fit is not None else as_array(kernel, "kernel", kinds))
    taps = taps.astype(np.complex128 if taps.dtype.kind == "c" else np.float64)
    several = fit is not None and fit.convention.ndim != 3
    if taps.ndim not in (2, most) or (taps.ndim == 3 and several) or 0 in taps.shape:
        msg = f"got a kernel of shape {taps.shape}, need rows and columns; compare one plane of it at a time"
        raise ValueError(msg)
    if not np.isfinite(taps).all():
        raise ValueError("got a kernel with NaN or infinite taps, need finite ones")
    shape, both = taps.shape, taps.dtype.kind == "c"
    factor = None if fit is None else fit.factor
    given = stderr if fit is None else None if factor is not None else fit.stderr
    if given is not None:
        errors = np.asarray(given)
        if errors.shape != taps.shape:
            raise ValueError(f"got errors of shape {errors.shape}, need the kernel's {taps.shape}")
        if both:  # one number for both parts, or those of each
            errors = np.stack([errors.real, errors.imag if errors.dtype.kind == "c" else errors])
        factor = np.diag(errors.ravel().astype(np.float64)) if np.isfinite(errors).all() else None
    if fit is None:
        return taps, geometry.default_origin(shape), factor
    origin: tuple[int, ...] = fit.convention.origin
    if fit.convention.operation == "correlation":
        origin = tuple(side - 1 - at for side, at in zip(shape, origin, strict=True))
        turned = None if factor is None else factor.reshape(1 + both, taps.size, -1)[:, ::-1].reshape(factor.shape)
        return np.flip(taps), origin, turned
    return taps, origin, factor


def _test(difference: Array, error: Array, factors: list[Array], size: float) -> tuple[float, int, float]:
    """Return chi squared, its degrees of freedom and its p-value; differences of 1e-9 `size` are those of rounding."""
    import scipy.linalg
    import scipy.special

    d, most = difference.ravel(), float(error.max())
    own = ~held(error).ravel()
    if d.size > _MOST_TAPS:
        chi2, dof, rest = float(np.sum((d[own] / error.ravel()[own]) ** 2)), int(own.sum()), d[~own]
    else:
        values, vectors = scipy.linalg.eigh(sum(factor[own] @ factor[own].T for factor in factors))
        some = values > 1e-12 * values.max(initial=0.0)
        along = vectors.T @ d[own]
        chi2, dof = float(np.sum(along[some] ** 2 / values[some])), int(some.sum())
        rest = np.concatenate([d[~own], along[~some]])
    rest = rest[np.abs(rest) > 1e-9 * size]
    if rest.size:
        chi2 = chi2 + float(np.sum((rest / most) ** 2)) if most > 0 else math.inf
        dof += rest.size
    return chi2, dof, float(scipy.special.chdtrc(dof, chi2)) if dof else 1.0


def held(error: Array) -> npt.NDArray[np.bool_]:
    """Return which taps are held by a choice, of a shape, a prior or zeros: the pixels make the errors of all alike."""
    return np.asarray(error <= 1e-3 * error.max())
