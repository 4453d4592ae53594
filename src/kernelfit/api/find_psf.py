"""A camera's point spread function, finer than its pixels, from a capture of a printed target."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..analysis.psf import PsfMeasurements, measure_psf
from ..analysis.target_search import FOUND, aligned, detected
from ..analysis.target_warp import Warp, homography
from ..compiled.threads import one_blas_thread
from ..core.container_calls import of_any_container
from ..core.findings import Verdict, more
from ..core.geometry import Shape, as_pair
from ..core.model import Execution, as_ends
from ..core.validation import Array, require_finite
from ..data.masking import at_ends
from ..data.observation import as_image
from ..fitting.pipeline import Settings
from ..fitting.printed_target import Scene, found_in, start
from ..solvers.auto import as_solver
from ..solvers.gaussian_process import GaussianProcess
from ..solvers.least_squares import Solver
from .results import KernelFit

#: Pixels of the capture that the kernel takes by default, and pixels for each tap at least.
_SIDE, _REDUNDANT = 5, 2
#: What to do about a capture that is not linear in the light.
_LIGHT = (
    "save the capture proportional to light, as raw data are, and leave out what is clipped (saturated=(low, high))"
)


@dataclass(frozen=True, eq=False)
class TargetRegistration:
    """Where a printed target lies in a capture, and how bright it is there; made by `find_psf`.

    Attributes
    ----------
    corners : ndarray, shape (4, 2)
        (row, column) of the pattern's outer corners in the capture: top left, top right, bottom right, bottom left of
        the pattern.
    corners_stderr : ndarray, shape (4, 2)
        Their standard errors.
    matrix : ndarray, shape (3, 3)
        The homography from (row, column, 1) of the capture to cells of the pattern, but for the displacement.
    displacement : ndarray, shape (terms, 2)
        Coefficients, in pixels, of the monomials of degree 2 and more that move a place before the homography.
    gain, offset : ndarray
        White less black, and black, at each pixel of `window`.
    window : (int, int, int, int)
        First and last rows and columns of the capture that were looked at.
    score : float
        Mean correlation of tiles with what should be seen there, before the kernel was known.
    residual : float
        Standard deviation of what the kernel leaves of a pixel, in units of the capture.
    """

    corners: Array
    corners_stderr: Array
    matrix: Array
    displacement: Array
    gain: Array
    offset: Array
    window: tuple[int, int, int, int]
    score: float
    residual: float


@dataclass(frozen=True, eq=False)
class Mtf:
    """The modulation transfer function along both axes, with errors, beyond the camera's Nyquist frequency 0.5.

    Attributes
    ----------
    frequency : ndarray
        Cycles per pixel of the capture, from 0 to ``oversample / 2``.
    rows, cols : ndarray
        Response to waves that run down and to the right, 1 at frequency 0.
    rows_stderr, cols_stderr : ndarray
        Their standard errors.
    """

    frequency: Array
    rows: Array
    rows_stderr: Array
    cols: Array
    cols_stderr: Array


@dataclass(frozen=True, eq=False)
class PsfFit:
    """A point spread function and the registration that it was found with; made by `find_psf`.

    Attributes
    ----------
    fit : KernelFit
        The kernel, with a stride of `oversample`, between what the capture looks on and the capture in units of white
        less black.
    registration : TargetRegistration
        Where the target lies.
    oversample : int
        Taps to a pixel of the capture along an axis.
    seen : ndarray
        What the window of the capture looks on, `oversample` times finer, NaN beyond the pattern: the image of `fit`.
    target : ndarray
        The window of the capture with black at 0 and white at 1: the target of `fit`.
    """

    fit: KernelFit
    registration: TargetRegistration
    oversample: int
    seen: Array
    target: Array

    @property
    def kernel(self) -> Array:
        """The point spread function: taps of sum 1, whose mass lies on the middle one."""
        return np.asarray(self.fit.kernel / self.fit.kernel.sum())

    @property
    def stderr(self) -> Array:
        """Standard error of each tap of `kernel`, the sum being taken as exact."""
        return np.asarray(self.fit.stderr / abs(self.fit.kernel.sum()))

    def measure(self) -> PsfMeasurements:
        """Return widths, shape, encircled energy and MTF50, in taps: `oversample` of them to a pixel of the capture."""
        return cast(PsfMeasurements, measure_psf(self.fit))

    @property
    def mtf(self) -> Mtf:
        """The transfer function along both axes."""
        taps, factor = self.fit.kernel, self.fit.factor
        frequency = np.linspace(0, self.oversample / 2, 8 * self.oversample + 1)
        found = []
        for axis in (0, 1):
            place = np.arange(taps.shape[axis]) - (taps.shape[axis] - 1) // 2
            wave = np.exp(-2j * np.pi * np.outer(frequency, place) / self.oversample)
            whole = np.repeat(wave, taps.shape[1], axis=1) if axis == 0 else np.tile(wave, (1, taps.shape[0]))
            response, total = whole @ taps.ravel(), float(taps.sum())
            size = np.abs(response)
            slope = np.real(np.conj(response)[:, None] * whole) / np.maximum(size, 1e-300)[:, None]
            gradient = slope / total - (size / total**2)[:, None]
            error = np.full(len(size), np.nan) if factor is None else np.linalg.norm(gradient @ factor, axis=1)
            found += [size / abs(total), error]
        return Mtf(frequency, *found)

    def __str__(self) -> str:
        r, mtf, s = self.registration, self.mtf, self.oversample
        at = [int(np.argmin(np.abs(mtf.frequency - f))) for f in (0.25, 0.5, 0.75, 1.0) if f <= s / 2]
        shown = [
            f"{name}  " + ", ".join(f"{mtf.frequency[i]:.2f}: {values[i]:.3f} +/- {errors[i]:.3f}" for i in at)
            for name, values, errors in (
                ("MTF down   ", mtf.rows, mtf.rows_stderr),
                ("MTF across ", mtf.cols, mtf.cols_stderr),
            )
        ]
        width = self.measure()
        along, across = (
            one._replace(value=one.value / s, stderr=one.stderr / s) for one in (width.fwhm_along, width.fwhm_across)
        )
        corners = "; ".join(f"{row:.2f}, {col:.2f}" for row, col in r.corners)
        light = np.nanmedian(r.gain)
        return "\n".join(
            [
                f"kernel       {self.fit.kernel.shape[0]} x {self.fit.kernel.shape[1]} taps, {s} to a pixel, "
                f"expected relative error {np.linalg.norm(self.fit.stderr) / np.linalg.norm(self.fit.kernel):.2g}",
                f"FWHM         {along} along, {across} across, pixels of the capture",
                *(f"{line}" for line in shown),
                "             at cycles per pixel of the capture, whose Nyquist frequency is 0.5",
                f"target       corners at {corners} (row, column), known to {np.nanmax(r.corners_stderr):.2g} pixels",
                f"light        white less black {np.nanmin(r.gain):.4g} to {np.nanmax(r.gain):.4g}",
                f"residual     {r.residual:.3g}, {100 * r.residual / light:.2g} % of white less black, "
                f"{self.fit.n_pixels} pixels",
                f"verdict      {self.fit.verdict.value}",
                *([] if self.fit.verdict.ok else [f"more         {more([self.fit.verdict])}"]),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return kernel, registration and transfer function as plain types for JSON."""
        arrays = {name: np.where(np.isfinite(v), v, 0.0).tolist() for name, v in dataclasses.asdict(self.mtf).items()}
        r = self.registration
        return {
            "oversample": self.oversample,
            "kernel": self.kernel.tolist(),
            "stderr": np.where(np.isfinite(self.stderr), self.stderr, 0.0).tolist(),
            "mtf": arrays,
            "corners": r.corners.tolist(),
            "corners_stderr": r.corners_stderr.tolist(),
            "matrix": r.matrix.tolist(),
            "displacement": r.displacement.tolist(),
            "score": r.score,
            "residual": r.residual,
            "verdict": {"name": self.fit.verdict.name, "ok": self.fit.verdict.ok, "text": self.fit.verdict.value},
        }


@of_any_container
@one_blas_thread
def find_psf(
    capture: npt.ArrayLike,
    pattern: npt.ArrayLike,
    oversample: int = 4,
    *,
    corners: npt.ArrayLike | None = None,
    markers: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    shape: int | Shape | None = None,
    solver: Solver | str | None = None,
    distortion: int = 3,
    illumination: int = 2,
    mask: npt.ArrayLike | None = None,
    saturated: str | tuple[float | None, float | None] | None = "auto",
    workers: int | None = None,
) -> PsfFit:
    """Find a camera's point spread function, finer than its pixels, from a capture of a printed target.

    ``capture[t] = gain(t) sum_p k[p] seen[s t - p] + offset(t)``: `seen` is the pattern as the capture looks on it, on
    a grid s = `oversample` times finer, and k the kernel of lens and pixels on that grid, a kernel of stride s.
    Registration, light and kernel are found in turn; the capture is never resampled, so that its noise stays white.

    Parameters
    ----------
    capture : array_like, shape (rows, cols)
        One plane of a photograph of the target, proportional to light (raw, without a tone curve).
    pattern : array_like, shape (rows, cols)
        What was printed, a value for each square cell: noise of black and white, the finer the better, from a third of
        a pixel of the capture to two pixels a cell.
    oversample : int, optional
        Taps to a pixel along each axis, default 4.
    corners : array_like, shape (4, 2), optional
        (row, column) in the capture of the outer corners of the pattern, in the order top left, top right, bottom
        right, bottom left of the pattern, right to a twentieth of its side. By default the target is looked for: the
        largest part of fine texture, turned by any quarter.
    markers : (array_like, array_like), optional
        Instead of corners the cells (row, column) of at least four marks of the pattern, fractions or beyond the
        pattern's edge if need be, and their places in the capture.
    shape : int or (int, int), optional
        Taps of the kernel, a square; odd; the default is ``2 * (5 * oversample // 2) + 1``, five pixels.
    solver : solver or str, optional
        What makes the kernel; the default is ``GaussianProcess("matern52", "gaussian", None)``. `NonNegative()` takes
        no prior but the sign, and leaves more noise.
    distortion : int, optional
        Degree of a polynomial displacement beside the homography, for lenses and bent paper, default 3; 0 for none.
    illumination : int, optional
        Degree of the polynomials that gain and offset are over the target, default 2.
    mask : array_like of bool, optional
        True where a pixel of the capture is to be left out.
    saturated : "auto", (low, high) or None, optional
        Pixels to leave out: by default those at the ends of an integer type's range.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    PsfFit
        The kernel with its errors, the transfer function beyond the Nyquist frequency, and the registration.

    Raises
    ------
    TypeError
        If a dtype is not real.
    ValueError
        If the target is not found, or the pixels on it are too few for the taps.

    See Also
    --------
    find_kernel : for a pair of images of which one is given on the other's pixels.

    Notes
    -----
    A shift of the kernel and one of the target are the same. The kernel's mass, taps above a twentieth of the largest,
    is put on its middle. The kernel holds the integration over a pixel of the camera as well as the blur of the lens.
    Cells are taken to be squares without ink that spreads.

    References
    ----------
    M. Delbracio, P. Muse, A. Almansa, J.-M. Morel, "The non-parametric sub-pixel local point spread function estimation
    is a well posed problem", Int. J. Comput. Vis. 96 (2012) 175, doi:10.1007/s11263-011-0460-0.

    Examples
    --------
    >>> import numpy as np, scipy.ndimage, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> pattern = rng.integers(0, 2, (96, 96))
    >>> fine = np.pad(np.kron(pattern, np.ones((2, 2))), 24, constant_values=1)  # two taps to a cell, two cells a pixel
    >>> capture = 100 * scipy.ndimage.gaussian_filter(fine, 2.0)[::4, ::4] + rng.normal(0, 0.3, (60, 60))
    >>> corners = np.array([(-0.5, -0.5), (-0.5, 191.5), (191.5, 191.5), (191.5, -0.5)]) / 4 + 6
    >>> found = kernelfit.find_psf(capture, pattern, corners=corners, shape=17)
    >>> bool(abs(found.measure().fwhm_along.value / 4 - 2.355 * 0.5) < 0.05)  # pixels of the capture
    True
    """
    photograph = as_image(capture, "capture", alone=True)
    printed = np.asarray(as_image(pattern, "pattern", alone=True), dtype=np.float64)
    values = np.asarray(photograph, dtype=np.float64)
    s, side = _taps(oversample, shape)
    for degree, name in ((distortion, "distortion"), (illumination, "illumination")):
        if isinstance(degree, bool) or not isinstance(degree, int) or not 0 <= degree <= 5:
            raise ValueError(f"got {name}={degree!r}, need a degree of 0 to 5")
    if not np.isfinite(printed).all() or np.ptp(printed) == 0:
        raise ValueError("got a pattern that is one value, or not finite, need black and white cells")
    printed = (printed - printed.min()) / np.ptp(printed)
    good = np.ones(values.shape, dtype=bool)
    ends = as_ends(saturated, np.dtype(photograph.dtype))
    hit = None if ends is None else at_ends(np.asarray(photograph), ends)
    good &= True if hit is None else ~hit
    if mask is not None:
        left_out = np.asarray(mask, dtype=bool)
        if left_out.shape != values.shape:
            raise ValueError(f"got a mask of shape {left_out.shape}, need the capture's {values.shape}")
        good &= ~left_out
    require_finite(values, "capture", "leave them out with mask=", ~good)
    values = np.where(np.isfinite(values), values, np.nanmedian(values) if np.isfinite(values).any() else 0.0)
    warp, score = _found(values, printed, corners, markers)
    scene = start(values, printed, good, warp, s, (distortion, illumination))
    count = int(good[scene.window[0] : scene.window[1], scene.window[2] : scene.window[3]].sum())
    if count < _REDUNDANT * side**2:
        raise ValueError(
            f"got a target of {count} pixels for a kernel of {side}x{side} taps, need {_REDUNDANT} for each; come "
            "closer, or ask for a smaller shape or oversample"
        )
    chosen = GaussianProcess("matern52", "gaussian", None) if solver is None else as_solver(solver)
    settings = Settings(solver=chosen, execution=Execution(workers=workers))
    scene, estimate = found_in(scene, side, settings)
    findings = [
        dataclasses.replace(one, remedy=_LIGHT) if one.verdict is Verdict.NONLINEAR else one
        for one in estimate.findings
    ]
    estimate = dataclasses.replace(estimate, findings=tuple(findings))
    target = (scene.part - scene.light.offset) / scene.light.gain
    return PsfFit(KernelFit.of(estimate), _registration(scene, score, estimate.noise_std), s, scene.seen(), target)


def _taps(oversample: object, shape: object) -> tuple[int, int]:
    """Return the taps to a pixel, and those of the kernel along an axis."""
    if isinstance(oversample, bool) or not isinstance(oversample, int | np.integer) or not 1 <= oversample <= 16:
        raise ValueError(f"got oversample={oversample!r}, need a whole number from 1 to 16")
    s = int(oversample)
    rows, cols = (2 * (_SIDE * s // 2) + 1,) * 2 if shape is None else as_pair(shape, "shape")
    if rows != cols or rows < 3 or rows % 2 == 0:
        raise ValueError(f"got shape={shape!r}, need an odd side of at least 3 taps, the same along both axes")
    return s, rows


def _found(
    capture: Array, pattern: Array, corners: npt.ArrayLike | None, markers: tuple[npt.ArrayLike, npt.ArrayLike] | None
) -> tuple[Warp, float]:
    """Return where the target lies, or say that it is not found."""
    if corners is not None and markers is not None:
        raise ValueError("got corners= and markers=, need one or the other")
    if corners is None and markers is None:
        warp, score = detected(capture, pattern)
        remedy = "give corners= (row, column) of the pattern in the capture"
    else:
        given = np.asarray(corners if markers is None else _corners_of(markers, pattern.shape), dtype=np.float64)
        if given.shape != (4, 2) or not np.isfinite(given).all():
            raise ValueError(f"got corners of shape {given.shape}, need four pairs of (row, column)")
        warp, score = aligned(capture, pattern, given)
        order = "top left, top right, bottom right, bottom left"
        remedy = f"check their order ({order}) and whether the pattern is mirrored"
    if score < FOUND:
        raise ValueError(
            f"got a capture in which the pattern is not found (tiles agree to {score:.2f}, need {FOUND}); {remedy}"
        )
    return warp, score


def _corners_of(markers: tuple[npt.ArrayLike, npt.ArrayLike], shape: tuple[int, ...]) -> Array:
    """Return the pattern's corners in the capture, given some of its cells there."""
    cells, places = (np.asarray(one, dtype=np.float64) for one in markers)
    if cells.ndim != 2 or cells.shape != places.shape or cells.shape[1:] != (2,) or len(cells) < 4:
        raise ValueError(
            f"got markers of shapes {cells.shape} and {places.shape}, need as many cells as places, at least four of "
            "(row, column)"
        )
    rows, cols = (n - 0.5 for n in shape)
    ends = np.array([[-0.5, -0.5, 1], [-0.5, cols, 1], [rows, cols, 1], [rows, -0.5, 1]])
    moved = ends @ homography(cells, places).T
    return np.asarray(moved[:, :2] / moved[:, 2:])


def _registration(scene: Scene, score: float, noise_std: float) -> TargetRegistration:
    """Return where the target lies, with errors."""
    warp, rows, cols = scene.warp, *(n - 0.5 for n in scene.pattern.shape)
    cells = np.array([[-0.5, -0.5], [-0.5, cols], [rows, cols], [rows, -0.5]])
    at = warp.corners.copy()
    for _ in range(20):  # Newton's steps to where the displacement and the homography have the corners
        seen, step = np.stack(warp(at[:, 0], at[:, 1]), axis=1), 1e-4
        slopes = np.stack(
            [(np.stack(warp(at[:, 0] + a, at[:, 1] + b), axis=1) - seen) / step for a, b in ((step, 0.0), (0.0, step))],
            axis=2,
        )
        at = at + np.linalg.solve(slopes, (cells - seen)[..., None])[..., 0]
    moves = np.array(warp.displacements(at[:, 0], at[:, 1]))  # parameter, axis, corner
    variance = np.einsum("pak,pq,qak->ka", moves, scene.covariance, moves)
    return TargetRegistration(
        corners=at,
        corners_stderr=np.sqrt(np.maximum(variance, 0.0)),
        matrix=warp.matrix,
        displacement=warp.coefficients,
        gain=scene.light.gain,
        offset=scene.light.offset,
        window=scene.window,
        score=score,
        residual=noise_std * float(np.median(scene.light.gain)),
    )
