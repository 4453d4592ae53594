"""A kernel for each tile of a grid: the record and its verb."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special

from ..compiled.blas import one_blas_thread
from ..compiled.threads import Progress
from ..core import geometry, validation
from ..core.findings import Finding, Verdict
from ..core.geometry import Convention, Shape
from ..core.model import Model, Selection
from ..core.normal_equations import NormalEquations
from ..core.validation import as_number, as_workers, require_progress
from ..data import masking
from ..data.masked_blocks import MaskedBlocks
from ..data.masking import PlaneSelection
from ..data.observation import as_observation
from ..engines.cost_model import engine_of
from ..fitting.tile_map import _MOST, Array, _Reading, _smoothed, _Tile, _tiles
from ..solvers import auto, least_squares


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Kernels of the tiles of a grid.

    Parameters
    ----------
    kernels : ndarray, shape (rows, cols, kernel_rows, kernel_cols)
        The kernel of each tile.
    stderr : ndarray, of the same shape
        The standard error of each tap.
    noise_std : ndarray, shape (rows, cols)
        Estimated standard deviation of the noise of a target pixel in each tile.
    boxes : ndarray of int, shape (rows, cols, 4)
        First row, first column, rows and columns of each tile's pixels in the target.
    findings : tuple of tuple of tuple of Finding
        For each row and column of the grid all that is doubtful about the tile, the worst first.
    convention : Convention
        How the kernels lie on the image.
    smoothness : float
        Strength of the penalty across neighbouring tiles; 0 without one.
    common : ndarray, shape (kernel_rows, kernel_cols)
        The one kernel for all tiles together.
    variation : float
        How much the residual sum of squares rises if all tiles share that kernel, in units of what noise alone would
        raise it: the F-statistic, about 1 if the kernel is the same everywhere. NaN for overlapping tiles.
    p_value : float
        The probability of a variation at least as large if the kernel is the same everywhere.
    """

    kernels: Array
    stderr: Array
    noise_std: Array
    boxes: npt.NDArray[np.int64]
    findings: tuple[tuple[tuple[Finding, ...], ...], ...]
    convention: Convention
    smoothness: float
    common: Array
    variation: float
    p_value: float

    @property
    def verdicts(self) -> npt.NDArray[np.object_]:
        """The worst verdict of each tile, shape (rows, cols)."""
        out = np.empty(self.noise_std.shape, dtype=object)
        for at, _ in np.ndenumerate(out):
            found = self.findings[at[0]][at[1]]
            out[at] = found[0].verdict if found else Verdict.SOLVED
        return out

    @property
    def centers(self) -> Array:
        """Row and column of the middle of each tile in the target, shape (rows, cols, 2)."""
        return np.asarray(self.boxes[..., :2] + (self.boxes[..., 2:] - 1) / 2)

    def summary(self) -> str:
        """Return the result in words and figures, a screen long at most."""
        rows, cols, kernel_rows, kernel_cols = self.kernels.shape
        sums = self.kernels.sum(axis=(2, 3))
        y, x = np.mgrid[:kernel_rows, :kernel_cols]
        with np.errstate(all="ignore"):
            centroids = [(self.kernels * axis).sum(axis=(2, 3)) / sums for axis in (y, x)]
        low, high = self.boxes[..., 2:].min(axis=(0, 1)), self.boxes[..., 2:].max(axis=(0, 1))
        counts = Counter(self.verdicts.ravel().tolist())
        size = math.sqrt(float(np.mean(self.kernels**2)))
        error = math.sqrt(float(np.mean(self.stderr**2)))
        same = f"F = {self.variation:.4g}, p = {self.p_value:.2g}" if math.isfinite(self.variation) else "not tested"
        lines = [
            f"map         {rows} x {cols} tiles of {_span(low[0], high[0])} x {_span(low[1], high[1])} pixels, kernels "
            f"{kernel_rows} x {kernel_cols}",
            f"convention  {self.convention}",
            f"kernels     sum {sums.min():.6g} to {sums.max():.6g}, centroid row {centroids[0].min():.4g} to "
            f"{centroids[0].max():.4g}, column {centroids[1].min():.4g} to {centroids[1].max():.4g}",
            f"errors      root mean square {error:.3g} per tap, of taps of {size:.3g}",
            f"noise       {self.noise_std.min():.4g} to {self.noise_std.max():.4g} per pixel",
            f"variation   {same} against one kernel for all tiles",
            *([f"smoothness  {self.smoothness:g}"] if self.smoothness else []),
        ]
        for verdict in Verdict:
            if verdict in counts:
                lines.append(f"verdict     {counts[verdict]} of {rows * cols} tiles: {verdict.value}")
        return "\n".join(lines)


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


@one_blas_thread
def kernel_map(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape,
    tiles: int | Shape,
    *,
    overlap: int | Shape = 0,
    smoothness: float = 0.0,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    mask: "npt.ArrayLike | None" = None,
    image_mask: "npt.ArrayLike | None" = None,
    weights: "npt.ArrayLike | None" = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = None,
    method: str = "auto",
    solver: "least_squares.Solver | str | None" = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> KernelMap:
    """Find a kernel for each tile of a grid, to see how it varies over the field.

    The target pixels that are used are cut into ``rows x cols`` tiles of nearly the same size, each of which reads the
    image around it as far as the kernel reaches. The kernel k_i of tile i minimises
    ``sum_i |y_i - A_i k_i|^2 + smoothness * g * sum_(i, j) |k_i - k_j|^2``
    with the second sum over tiles that share a side, and g the mean of the diagonals of the Gram matrices ``A_i'A_i``.

    Parameters
    ----------
    image, target : array_like
        As in `find_kernel`.
    shape : int or (int, int)
        Rows and columns of each kernel.
    tiles : int or (int, int)
        Rows and columns of the grid.
    overlap : int or (int, int), optional
        Pixels by which each tile extends beyond its place in the grid, on each side; default 0. Neighbouring
        kernels then share pixels, and their errors are not independent.
    smoothness : float, optional
        Strength of the penalty on the difference of neighbouring kernels, relative to the data, default 0: none. At 1
        a difference costs about as much as the same misfit at every pixel of a tile.
    mode, boundary, fillvalue, origin, operation
        As in `find_kernel`.
    mask, image_mask, weights, nan, saturated : optional
        Which target pixels count, and how much, as in `accumulate_stream`. A tile that they leave too few pixels says
        so by its verdict.
    method : {"auto", "direct", "fft"}, optional
        The engine.
    solver : solver or "auto", optional
        What makes a kernel of each tile's statistics, as in `find_kernel`; not together with a penalty across tiles.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.
    progress : callable, optional
        Called as ``progress("reading tiles", done, total)``.

    Returns
    -------
    KernelMap
        Kernels, errors and findings for each tile; ``print(result.summary())``.

    Raises
    ------
    TypeError, ValueError
        As `find_kernel`, and if a tile would have fewer pixels than the kernel has taps, whether they count or not.

    Notes
    -----
    With a penalty the errors are those of the posterior, sigma the same for all tiles: the part that a tile's own data
    and its neighbours' kernels leave open is exact, what the uncertainty of the neighbours adds is estimated from 256
    draws of all kernels, to 4 % or so (Siden, Lindgren, Bolin and Villani, "Efficient covariance approximations for
    large sparse precision matrices", J. Comput. Graph. Stat. 27 (2018), doi:10.1080/10618600.2018.1473782).

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((120, 160))
    >>> gain = np.linspace(1, 2, 160)  # the kernel grows from left to right
    >>> target = gain * image + rng.normal(0.0, 0.01, image.shape)
    >>> found = kernelfit.kernel_map(image, target, 3, (2, 4), boundary="symm")
    >>> found.kernels.shape
    (2, 4, 3, 3)
    >>> found.kernels[:, :, 1, 1].round(1)
    array([[1.1, 1.4, 1.6, 1.9],
           [1.1, 1.4, 1.6, 1.9]])
    """
    chosen = auto.as_solver(solver)
    validation.known(method, ("auto", "direct", "fft"), "method")
    (plain_image, image_masked), (plain_target, target_masked) = masking.unmasked(image), masking.unmasked(target)
    model = Model(
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
    )
    observation = as_observation(plain_image, plain_target, model)
    selection = PlaneSelection(
        (mask, target_masked),
        ((image_mask, image_masked),),
        weights,
        Selection(nan=nan, saturated=saturated).nan,
        saturated,
    )
    threads = as_workers(workers)
    require_progress(progress)
    strength = as_number(smoothness, "smoothness") if not isinstance(smoothness, str) else -1.0
    if not 0 <= strength <= 1e6:
        msg = f"got smoothness={smoothness!r}, need a number from 0 to 1e6, where all kernels are the same"
        raise ValueError(msg)
    if strength > 0 and solver is not None:
        msg = f"got smoothness={smoothness!r} with solver={solver!r}, need one or the other: both are penalties"
        raise ValueError(msg)
    grid, boxes = _tiles(observation, tiles, overlap)
    n_taps = observation.geometry.n_taps
    if strength > 0 and len(boxes) * 8 * n_taps**2 > _MOST:
        msg = (
            f"got smoothness={smoothness!r} for {len(boxes)} kernels of {n_taps} taps, whose Gram matrices take more "
            "than 2 GiB together; ask for fewer tiles, a smaller shape, or no smoothness"
        )
        raise ValueError(msg)
    engine = engine_of(observation, method)  # of the whole: all tiles share what it takes to start
    fits: list[_Tile] = []
    every: list[NormalEquations] = []
    reading = _Reading(
        observation, MaskedBlocks.of(observation, selection), boxes, engine, chosen, threads, progress, strength > 0
    )
    for band in reading:
        fits += band.fits
        every += band.every
    total = reading.total()
    if total.n_pixels < n_taps:
        msg = (
            f"got a mask or weights that leave {total.n_pixels} target pixels in all tiles together, need at least "
            f"{n_taps} for the taps; ask for a smaller shape, or exclude less"
        )
        raise ValueError(msg)
    common = least_squares.least_squares(total, least_squares.factorise(total.gram, 1))
    variation = p_value = math.nan
    rss, spare = sum(f.rss for f in fits), sum(f.n_pixels - f.rank for f in fits)
    extra = sum(f.rank for f in fits) - common.rank
    if not any(geometry.as_pair(overlap, "overlap")) and solver is None and spare > 0 and extra > 0 and rss > 0:
        variation = max(0.0, common.rss - rss) / extra / (rss / spare)
        p_value = float(scipy.special.fdtrc(extra, spare, variation))
    if strength > 0:
        fits = _smoothed(every, fits, grid, strength, math.sqrt(rss / spare) if spare > 0 else math.nan)
    kernel = observation.geometry.kernel_shape
    top, left = observation.geometry.offset
    places = np.array([(b.row + top, b.col + left, b.rows, b.cols) for b in boxes], dtype=np.int64)
    findings = [f.findings for f in fits]
    return KernelMap(
        kernels=np.stack([f.taps for f in fits]).reshape(*grid, *kernel),
        stderr=np.stack([f.stderr for f in fits]).reshape(*grid, *kernel),
        noise_std=np.array([f.noise_std for f in fits]).reshape(grid),
        boxes=places.reshape(*grid, 4),
        findings=tuple(tuple(findings[r * grid[1] : (r + 1) * grid[1]]) for r in range(grid[0])),
        convention=observation.geometry.convention,
        smoothness=strength,
        common=common.taps.reshape(kernel),
        variation=variation,
        p_value=p_value,
    )
