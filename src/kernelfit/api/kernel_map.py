"""A kernel for each tile of a grid: the record and its verb."""

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Unpack, cast

import numpy as np
import numpy.typing as npt

from ..analysis import export
from ..compiled.threads import one_blas_thread
from ..core.background import of_one_row
from ..core.dimensions import in_samples, of_any_dimension, without_row
from ..core.findings import Finding, Verdict, more, ranked
from ..core.geometry import Convention, Shape
from ..core.labels import Labels
from ..core.model import Execution, Model, Selection
from ..core.validation import Array, as_number
from ..data.blocks import Cuboid
from ..data.observation import NUMBERS
from ..data.plan import FitPlan, make_plan
from ..fitting.pipeline import Settings
from ..fitting.tile_map import TileFits, fit_tiles
from ..solvers.least_squares import Solver
from .keywords import Keywords, call_of, takes_keywords


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Kernels of the tiles of a grid.

    Parameters
    ----------
    kernels : ndarray, shape (rows, cols, kernel_rows, kernel_cols)
        The kernel of each tile. For several channels (rows, cols, channels, kernel_rows, kernel_cols) or (rows, cols,
        target's channels, image's channels, kernel_rows, kernel_cols).
    stderr : ndarray, of the same shape
        The standard error of each tap.
    noise_std : ndarray, shape (rows, cols) or (rows, cols, channels)
        Estimated standard deviation of the noise of a target pixel in each tile, as `KernelFit.noise_std`; for channels
        "separate" and "mixed" in each of the target's channels.
    boxes : ndarray of int, shape (rows, cols, 4)
        First row, first column, rows and columns of each tile's pixels in the target; of signals shape (tiles, 2), the
        first sample and how many, and everything else without the axes of rows. Of volumes shape (planes, rows, cols,
        6), the first plane, row and column and how many, and everything else with an axis of planes first.
    findings : tuple of tuple of tuple of Finding
        For each row and column of the grid all that is doubtful about the tile, the worst first.
    convention : Convention
        How the kernels lie on the image.
    smoothness : float
        Strength of the penalty across neighbouring tiles; 0 without one.
    common : ndarray, of a kernel's shape
        The one kernel for all tiles together: that of `find_kernel` with the same settings.
    variation : float
        How much the residual sum of squares rises if all tiles share their kernels, in units of what noise alone would
        raise it: the F-statistic, about 1 if the kernels are the same everywhere. Backgrounds stay those of the tiles,
        and of photon noise the weights are those of `common` in either sum. Channels "separate" and "mixed" count each
        in units of its own noise. NaN where the statistic means nothing: for overlapping tiles, under a solver other
        than `LeastSquares`, and for `robust`, `image_noise` and ``errors="sandwich"``.
    p_value : float
        The probability of a variation at least as large if the kernels are the same everywhere.
    background : ndarray, shape (rows, cols, [pairs,] [channels,] terms), or None
        Coefficients of the surface of each tile, with axes and terms as in `Background`, laid on the tile alone: -1 is
        its first row or column, 1 its last. None without a background.
    channels : {None, "shared", "separate", "mixed"}
        How channels were taken together; None for images of one plane.
    labels : Labels or None
        What image and target say of their axes and units; None for plain arrays.
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
    background: Array | None = None
    channels: str | None = None
    labels: Labels | None = None

    @property
    def verdicts(self) -> npt.NDArray[np.object_]:
        """The worst verdict of each tile, shape (rows, cols)."""
        out = np.empty(self.boxes.shape[:-1], dtype=object)
        for at, _ in np.ndenumerate(out):
            found: Any = self.findings
            for i in at:
                found = found[i]
            out[at] = found[0].verdict if found else Verdict.SOLVED
        return out

    @property
    def centers(self) -> Array:
        """Row and column of the middle of each tile in the target, shape (rows, cols, 2); of volumes plane first."""
        if self.convention.ndim == 1:
            return np.asarray(self.boxes[..., 0] + (self.boxes[..., 1] - 1) / 2)
        n = self.boxes.shape[-1] // 2
        return np.asarray(self.boxes[..., :n] + (self.boxes[..., n:] - 1) / 2)

    def to_xarray(self) -> Any:
        """Return the map as arrays of xarray.

        Returns
        -------
        xarray.Dataset
            ``kernel``, ``stderr``, ``noise_std`` and ``verdict``. The axes of the tiles have the names and, where it
            has some, the coordinates of the target, at the middle of each tile; those of the kernels are as in
            `KernelFit.to_xarray`.

        Raises
        ------
        ImportError
            If xarray is not installed.
        """
        return export.map_to_xarray(self)

    def _lowered(self) -> "KernelMap":
        tables = {name: getattr(self, name)[0][..., 0, :] for name in ("kernels", "stderr")}
        return dataclasses.replace(
            self,
            **tables,
            noise_std=self.noise_std[0],
            boxes=self.boxes[0][:, 1::2],
            findings=cast(Any, self.findings[0]),
            convention=without_row(self.convention),
            common=self.common[..., 0, :],
            background=None if self.background is None else self.background[0][..., of_one_row(self.background)],
        )

    def _of_one_row(self) -> "KernelMap":
        """Undo `_lowered`, as far as the summary needs it."""
        starts = np.stack([np.zeros_like(self.boxes[:, 0]), self.boxes[:, 0]], axis=-1)
        sides = np.stack([np.ones_like(self.boxes[:, 1]), self.boxes[:, 1]], axis=-1)
        tables = {name: getattr(self, name)[None, ..., None, :] for name in ("kernels", "stderr")}
        boxes, findings = np.concatenate([starts, sides], axis=-1)[None], cast(Any, (self.findings,))
        return dataclasses.replace(self, **tables, noise_std=self.noise_std[None], boxes=boxes, findings=findings)

    def summary(self) -> str:
        """Return the result in words and figures, a screen long at most."""
        if self.boxes.shape[-1] == 2:
            return in_samples(self._of_one_row().summary()).replace("centroid row 0 to 0, column", "centroid")
        n = self.boxes.shape[-1] // 2
        grid, shape = self.kernels.shape[:n], self.kernels.shape[n:]
        axes, within = tuple(range(n)), tuple(range(-n, 0))
        both = np.iscomplexobj(self.kernels)
        moduli = np.abs(self.kernels) if both else self.kernels
        sums = moduli.sum(axis=within)
        with np.errstate(all="ignore"):
            centroids = [(moduli * axis).sum(axis=within) / sums for axis in np.indices(shape[-n:])]
        low, high = self.boxes[..., n:].min(axis=axes), self.boxes[..., n:].max(axis=axes)
        middle = ", ".join(
            f"{name} {one.min():.4g} to {one.max():.4g}"
            for name, one in zip(("plane", "row", "column")[-n:], centroids, strict=True)
        )
        counts = Counter(self.verdicts.ravel().tolist())
        size, error = (math.sqrt(float(np.mean(np.abs(one) ** 2))) for one in (self.kernels, self.stderr))
        same = f"F = {self.variation:.4g}, p = {self.p_value:.2g}" if math.isfinite(self.variation) else "not tested"
        lines = [
            f"map         {' x '.join(map(str, grid))} tiles of {' x '.join(map(_span, low, high))} pixels, kernels "
            f"{' x '.join(map(str, shape))}",
            f"convention  {self.convention}",
            f"kernels     {'moduli: ' if both else ''}sum {sums.min():.6g} to {sums.max():.6g}, centroid {middle}",
            f"errors      root mean square {error:.3g} per tap, of taps of {size:.3g}",
            f"noise       {self.noise_std.min():.4g} to {self.noise_std.max():.4g} per pixel",
            f"variation   {same} against one kernel for all tiles",
            *([f"smoothness  {self.smoothness:g}"] if self.smoothness else []),
        ]
        for verdict in Verdict:
            if verdict in counts:
                lines.append(f"verdict     {counts[verdict]} of {math.prod(grid)} tiles: {verdict.value}")
        if doubtful := [verdict for verdict in Verdict if verdict in counts and not verdict.ok]:
            lines.append(f"more        {more(doubtful)}")
        return "\n".join(lines)


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


@of_any_dimension
@takes_keywords()
@one_blas_thread
def kernel_map(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape | Model | None,
    tiles: int | Shape,
    *,
    overlap: int | Shape = 0,
    smoothness: float = 0.0,
    selection: Selection | None = None,
    execution: Execution | None = None,
    solver: Solver | str | None = None,
    **keywords: Unpack[Keywords],
) -> KernelMap:
    """Find a kernel for each tile of a grid, to see how it varies over the field.

    The target pixels that are used are cut into ``rows x cols`` tiles of nearly the same size, each of which reads the
    image around it as far as the kernel reaches. The kernel k_i of tile i minimises
    ``sum_i |y_i - A_i k_i|^2 + smoothness * g * sum_(i, j) |k_i - k_j|^2``
    with the second sum over tiles that share a side, and g the mean of the diagonals of the Gram matrices ``A_i'A_i``.
    Whatever else is asked for, each tile is the fit that `find_kernel` would make of its pixels.

    Parameters
    ----------
    image, target : array_like, or lists of arrays
        As in `find_kernel`. Several pairs, of one shape, share the kernel of each tile.
    shape : int, (int, int) or Model
        Rows and columns of each kernel; or the whole `Model`.
    tiles : int or (int, int)
        Rows and columns of the grid; of volumes planes, rows and columns, and `overlap` as well.
    overlap : int or (int, int), optional
        Pixels of the target by which each tile extends beyond its place in the grid, on each side; default 0.
        Neighbouring kernels then share pixels, and their errors are not independent.
    smoothness : float, optional
        Strength of the penalty on the difference of neighbouring kernels, relative to the data, default 0: none. At 1
        a difference costs about as much as the same misfit at every pixel of a tile. For least squares with or without
        weights and backgrounds.
    selection, execution, solver, **keywords
        As in `find_kernel`. A tile that has too few pixels left says so by its verdict.

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

    Plain least squares over one plane judges a tile by its equations; every other fit looks at its residual as well. A
    declared boundary is not held against the edges: `check_boundary` does that.

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
    call = call_of(shape, keywords, verb="kernel_map", selection=selection, execution=execution, solver=solver)
    strength = as_number(smoothness, "smoothness") if not isinstance(smoothness, str) else -1.0
    if not 0 <= strength <= 1e6:
        raise ValueError(f"got smoothness={smoothness!r}, need a number from 0 to 1e6, where all kernels are the same")
    plan = make_plan(image, target, call.model, call.selection, kinds=NUMBERS)
    settings = Settings(call.noise, call.solver, call.execution)
    return _map_of(plan, fit_tiles(plan, settings, tiles, overlap, strength), strength)


def _map_of(plan: FitPlan, found: TileFits, smoothness: float) -> KernelMap:
    """Lay the kernels of tiles on their grid."""
    grid, plane = found.grid, plan.groups[0][0]
    several = (len(found.fits[0]),) if plan.channels in ("separate", "mixed") else ()
    n_sources = len(plane.supports) // (2 if plan.numbers == "complex" else 1)
    sources = (n_sources,) if plan.channels == "mixed" else ()
    shape = (*grid, *several, *sources, *plan.shape)
    top, left = plane.geometry.offset
    places = np.array([(b.row + top, b.col + left, b.rows, b.cols) for b in found.boxes], dtype=np.int64)
    if plane.plane is not None:
        deep = np.array([(b.first + plane.plane.first, b.planes) for b in found.boxes if isinstance(b, Cuboid)])
        places = np.insert(places, [0, 2], deep, axis=1)
    findings: Any = [_findings_of([one.findings for one in fits], bool(several)) for fits in found.fits]
    for n in grid[:0:-1]:
        findings = [tuple(findings[at : at + n]) for at in range(0, len(findings), n)]
    background = None
    if all(one.surface is not None for fits in found.fits for one in fits):
        table = np.array([[one.surface for one in fits] for fits in found.fits])  # tiles, kernels, observations, terms
        table = table.swapaxes(1, 2).reshape(*grid, plan.n_pairs, -1, table.shape[-1])
        table = table if plan.channels is not None else table[..., 0, :]
        background = table if plan.listed else table.take(0, axis=len(grid))
    return KernelMap(
        kernels=np.array([[one.taps for one in fits] for fits in found.fits]).reshape(shape),
        stderr=np.array([[one.stderr for one in fits] for fits in found.fits]).reshape(shape),
        noise_std=np.array([[one.noise_std for one in fits] for fits in found.fits]).reshape(*grid, *several),
        boxes=places.reshape(*grid, -1),
        findings=tuple(findings),
        convention=dataclasses.replace(plane.convention, apart=False),
        smoothness=smoothness,
        common=found.common,
        variation=found.variation,
        p_value=found.p_value,
        background=background,
        channels=plan.channels,
    )


def _findings_of(every: list[tuple[Finding, ...]], several: bool) -> tuple[Finding, ...]:
    """Return what is doubtful about the kernels of a tile."""
    if not several:
        return every[0]
    named = [(f"channel {c}: {f.detail}", f) for c, own in enumerate(every) for f in own]
    return ranked([dataclasses.replace(f, detail=detail) for detail, f in named])
