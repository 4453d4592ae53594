"""The difference of two exposures of one field."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.containers import Opened, open_container
from ..core.findings import Finding, Verdict, told
from ..core.model import Execution, Model
from ..core.validation import Array, as_number, known
from ..data.exposure import Exposure
from ..fitting import subtraction
from ..solvers.auto import as_solver
from ..solvers.least_squares import LeastSquares, Solver
from ..solvers.robust import robust_std
from .discover import code_of
from .keywords import same
from .results import KernelFit, fields_of


@dataclass(frozen=True, eq=False)
class DifferenceImage:
    """The difference of two exposures, with its noise.

    Attributes
    ----------
    image : ndarray, shape (rows, cols)
        The science image less the reference, one of them convolved, and less the background: what got brighter is
        positive. In units of the exposure that was not convolved. NaN where `mask` is True.
    variance : ndarray, shape (rows, cols)
        The variance of each pixel of `image` for the noise of both exposures, and for the share `misfit` of the light
        of a star that is not predicted; that of new sources is not in it.
    mask : ndarray of bool, shape (rows, cols)
        True where a pixel is bad, or the kernel reaches a bad pixel or beyond the edge.
    rejected : ndarray of bool, shape (rows, cols)
        True where a pixel was left out of the fit as an outlier and is good as far as is known: cosmic rays, stars that
        vary, and all that is new.
    fit : KernelFit
        The kernel and the background between the two, with errors and findings.
    which : {"reference", "science"}
        The exposure that was convolved.
    decorrelation : ndarray or None
        The kernel that the difference was convolved with so that its noise is white, of sum 1; where `fit` varies over
        the field, its coefficients. None without. The point spread function of `image` is that of the exposure that was
        not convolved, convolved with this kernel.
    noise_std : (float, float)
        Standard deviation of the noise of a pixel of the science image and of the reference, in most of them.
    misfit : float
        Share of the light by which most stars differ from their prediction by more than noise: what a kernel of the
        model cannot make, as of a higher degree, and the kernel's own error. 0 where noise explains all.
    findings : tuple of Finding
        All that is doubtful, the worst first; that the noise is correlated is not, being known.
    container : (Opened or None, str)
        What the science image came in, and the unit of `image`; see `as_science`.
    """

    image: Array = dataclasses.field(repr=False)
    variance: Array = dataclasses.field(repr=False)
    rejected: npt.NDArray[np.bool_] = dataclasses.field(repr=False)
    fit: KernelFit
    which: str
    decorrelation: Array | None = dataclasses.field(repr=False)
    noise_std: tuple[float, float]
    misfit: float = 0.0
    findings: tuple[Finding, ...] = ()
    container: "tuple[Opened | None, str]" = dataclasses.field(default=(None, ""), repr=False)

    def as_science(self) -> Any:
        """Return the difference in a container like that of the science image.

        Returns
        -------
        CCDData, NDData, DataArray or ndarray
            Of astropy's with the header and the WCS of the science image, with mask, variance and unit; of xarray's
            with its coordinates; `image` itself where that was a plain array.
        """
        like, unit = self.container
        if like is None:
            return self.image
        found = like.filled(self.image, [(0, 1), (0, 1)], unit, None)
        if hasattr(found, "uncertainty"):
            found.uncertainty = sys.modules["astropy.nddata"].VarianceUncertainty(self.variance)
        return found

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True where a pixel is bad, or the kernel reaches a bad pixel or beyond the edge."""
        return np.asarray(np.isnan(self.image))

    @property
    def significance(self) -> Array:
        """The difference in units of its standard deviation; NaN where `mask` is True."""
        return np.asarray(self.image / np.sqrt(self.variance))

    @property
    def verdict(self) -> Verdict:
        """The worst finding, or `Verdict.SOLVED`."""
        return self.findings[0].verdict if self.findings else Verdict.SOLVED

    @property
    def factor(self) -> float:
        """Light of the exposure that was convolved in the other one: the kernel's sum, in the middle of the field."""
        return float(self.fit.at(*(0.5 * (n - 1) for n in self.image.shape)).kernel.sum())

    @property
    def scatter(self) -> float:
        """Standard deviation of most pixels of `significance`: 1 where the variance is right."""
        return robust_std(self.significance[~self.mask & ~self.rejected])

    def summary(self) -> str:
        """Return the result in words and figures."""
        mask, n = self.mask, self.image.size
        science, reference = self.noise_std
        rows, cols = self.fit.kernel.shape[-2:]
        background, decorrelation = self.fit.background, self.decorrelation
        white = "none" if decorrelation is None else " x ".join(map(str, decorrelation.shape[-2:]))
        lines = [
            f"convolved   the {self.which}, kernel {rows} x {cols}, {self.fit.convention}",
            f"factor      {self.factor:.6g} (light of the {self.which} in the other)",
            f"background  {'none' if background is None else f'polynomial of degree {background.degree}'}",
            f"noise       {science:.4g} of the science image, {reference:.4g} of the reference, per pixel",
            f"decorrelation {white}",
            f"misfit      {100 * self.misfit:.2g} % of a star's light",
            f"masked      {np.count_nonzero(mask)} of {n} pixels; {np.count_nonzero(self.rejected)} more are outliers",
            f"scatter     {self.scatter:.4g} times what the variance says",
            *told(self.findings),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


@one_blas_thread
def subtract(
    science: npt.ArrayLike | Exposure,
    reference: npt.ArrayLike | Exposure,
    shape: int | tuple[int, int] | None = None,
    *,
    which: str = "auto",
    variation: Any = None,
    background: int | None = 1,
    boundary: str | None = None,
    origin: int | tuple[int, int] | None = None,
    clip: float | None = 4.0,
    solver: Solver | str | None = None,
    decorrelate: bool = False,
    execution: Execution | None = None,
) -> DifferenceImage:
    """Subtract a reference from a science image of the same field, after blurring the sharper one to the other.

    ``difference = science - sum_p k[p] reference[t - (p - origin)] - background[t]``, or with the science image
    convolved ``sum_p k[p] science[t - (p - origin)] + background[t] - reference``. Kernel and background are found
    together by `find_kernel`'s pipeline, each pixel weighted by the inverse of the variance of the difference, and
    outliers are left out. The variance is ``v_y[t] + sum_p k[p]^2 v_x[t - (p - origin)]``, and near stars that are
    predicted worse than noise allows the square of that share of their light.

    Parameters
    ----------
    science, reference : array_like of shape (rows, cols), or Exposure
        The two images, which lie on each other to within the kernel. An `Exposure` says what noise an image has, and
        which pixels are bad; of arrays the noise is estimated from the difference, masked ones bring their mask.
    shape : int or (int, int), optional
        Rows and columns of the kernel. By default three times the width at half maximum of a first kernel, and room
        for its shift, 31 at most.
    which : {"auto", "science", "reference"}, optional
        The exposure that is convolved; "auto" takes the sharper one, whose kernel makes less of the noise.
    variation : int, Polynomial, Spline, Basis or None, optional
        How the kernel varies over the field, see `Model`. Default None.
    background : int or None, optional
        Degree of the polynomial surface between the two, default 1.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lies beyond the edge of the image that is convolved. The default None assumes nothing, and masks pixels
        that depend on it.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel; the default is the middle.
    clip : float or None, optional
        Pixels whose difference is more than so many standard deviations, 2 % of the light of a star allowed, do not
        count in the fit; which ones is judged again after each fit, until hardly any change. Default 4; None keeps all.
    solver : solver or "auto", optional
        What makes a kernel of the pixels, see `find_kernel`. Default least squares; "auto" has less noise in the
        kernel.
    decorrelate : bool, optional
        Whether the difference is convolved with the kernel that makes its noise white, default False. Its spectrum is
        ``sqrt((s_y^2 + s_x^2 K(0)^2) / (s_y^2 + s_x^2 |K|^2))``, s the standard deviations of the two exposures.
    execution : Execution, optional
        How to run.

    Returns
    -------
    DifferenceImage
        The image with its variance and mask, the fit, and which of the two was convolved.

    Raises
    ------
    TypeError
        If an image is not of real numbers, or a keyword is of the wrong type.
    ValueError
        If the two have different shapes or not two dimensions, the good pixels are too few for the taps, or a keyword's
        value is unknown.

    References
    ----------
    C. Alard and R. Lupton, "A Method for Optimal Image Subtraction", ApJ 503 (1998) 325, doi:10.1086/305984.
    D. Reiss and R. Lupton, "Implementation of Image Difference Decorrelation", LSST DMTN-021 (2016), section 2.1.

    Examples
    --------
    >>> import numpy as np, scipy.ndimage, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> sky = 9.0 * (rng.random((90, 100)) > 0.98)
    >>> reference = scipy.ndimage.gaussian_filter(sky, 1.0) + 0.01 * rng.standard_normal(sky.shape)
    >>> sky[40, 60] += 5.0  # a new star
    >>> science = scipy.ndimage.gaussian_filter(sky, 1.5) + 3.0 + 0.01 * rng.standard_normal(sky.shape)
    >>> difference = kernelfit.subtract(science, reference, 9)
    >>> difference.which, [int(i) for i in np.unravel_index(np.nanargmax(difference.significance), sky.shape)]
    ('reference', [40, 60])
    """
    opened = [open_container(value, name) for value, name in ((science, "science"), (reference, "reference"))]
    both = Exposure.of(science, "science"), Exposure.of(reference, "reference")
    shapes = tuple(one.mask.shape for one in both)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"got a science image of shape {shapes[0]} and a reference of shape {shapes[1]}, need the same; bring them "
            "to the same pixels first"
        )
    if which is None or known(which, subtraction.WHICH, "which") is None:
        raise ValueError("got which=None, need 'auto', 'science' or 'reference'")
    if isinstance(variation, str):
        raise ValueError(
            f"got variation={variation!r}, need a degree, a Polynomial or a Spline: outliers are told by it"
        )
    if clip is not None and not as_number(clip, "clip") > 0:
        raise ValueError(f"got clip={clip!r}, need a number of standard deviations above 0, or None")
    if not isinstance(decorrelate, bool | np.bool_):
        raise TypeError(f"got decorrelate={decorrelate!r}, need True or False")
    if execution is not None and not isinstance(execution, Execution):
        raise TypeError(f"got execution={execution!r:.60}, need a kernelfit.Execution")
    for name, one in zip(("science image", "reference"), both, strict=True):
        good = one.pixels[np.isfinite(one.pixels)]
        if good.size and good.min() == good.max():
            raise ValueError(
                f"got a {name} of one value, {good[0]:.6g}, need light that varies, of which a kernel can tell"
            )
    run = execution or Execution()
    if shape is None:
        shape = subtraction.shape_of(*both, which, background, run)
    model = Model(
        shape, mode="same", boundary=boundary, origin=origin, background=background, variation=variation, ndim=2
    )
    solves = LeastSquares() if solver is None else as_solver(solver)
    made = subtraction.subtracted(*both, model, which, clip, solves, run, bool(decorrelate))
    given = {"shape": shape, "which": made.which, "variation": variation, "background": background}
    given |= {"boundary": boundary, "origin": origin, "clip": clip, "solver": solver}
    usual: Any = {"variation": None, "background": 1, "boundary": None, "origin": None, "clip": 4.0, "solver": None}
    words = [
        f"{name}={code_of(v) or name}" for name, v in given.items() if name not in usual or not same(v, usual[name])
    ]
    fit = dataclasses.replace(KernelFit.of(made.fit), call=(f"subtract(science, reference, {', '.join(words)}).fit",))
    kept = opened[made.which == "science"]  # the one that was not convolved says the unit
    container = opened[0], "" if kept is None else kept.unit
    return DifferenceImage(**{**fields_of(made), "fit": fit, "container": container})
