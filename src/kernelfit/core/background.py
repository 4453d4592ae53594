"""A polynomial surface that lies in the target beside what the kernel makes, fitted together with it.

The surface's coefficients enter linearly, so that they can be eliminated exactly (Frisch and Waugh, Econometrica 1
(1933) 387, doi:10.2307/1907330): with the design matrix Phi of the surface and ``M = 1 - Phi (Phi'Phi)^-1 Phi'``, the
kernel is that of ``M A`` and ``M y``, whose statistics follow from ``A'Phi``, ``Phi'Phi`` and ``Phi'y``. Every solver
then sees statistics of the kernel alone, in which the surface is never penalised; its coefficients follow afterwards.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .geometry import Shape
from .normal_equations import EliminatedSurface, NormalEquations
from .validation import Array
from .variation import legendre, n_terms, powers, powers_of_volume

_EPS = float(np.finfo(np.float64).eps)
#: Eigenvalues of ``Phi'Phi`` that are rounding of sums over many pixels, relative to the largest.
_RANK = 1e-13
#: A coefficient is open if combinations that are have such a part in it, squared.
_OPEN = 1e-6
_ROOM = 2**20  # pixels of weights converted at a time


@dataclass(frozen=True, eq=False)
class Background:
    """The polynomial surface found beside the kernel, ``sum_ij c_ij P_i(u) P_j(v)`` over ``i + j <= degree``.

    P are Legendre polynomials, u and v the row and the column of the target, scaled so that -1 is the centre of the
    first pixel and 1 that of the last. Of volumes there are three factors, the first along the planes.

    Attributes
    ----------
    degree : int
        Largest total degree; 0 is a constant.
    coefficients : ndarray, shape ([pairs,] [channels,] terms)
        In the target's units, in the order of `powers`; complex for complex targets. The axis of the pairs is there if
        the pairs came as lists, that of the target's channels if there were channels.
    stderr : ndarray, of the same shape
        Their standard errors.
    shapes : tuple of (int, int)
        Rows and columns of the target of each pair, of volumes planes before them.
    channel_axis : int or None
        The axis of the targets that holds the channels.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((50, 60))
    >>> fit = kernelfit.find_kernel(image, 3 * image + 7, 1, background=0)
    >>> fit.kernel.round(9), fit.background.coefficients.round(9)
    (array([[3.]]), array([7.]))
    """

    degree: int
    coefficients: Array
    stderr: Array
    shapes: tuple[Shape, ...]
    channel_axis: int | None = None

    @property
    def powers(self) -> Sequence[tuple[int, ...]]:
        """(i, j) of each coefficient: the degrees along the rows' index and the columns'; one for signals, or three."""
        if len(self.shapes[0]) == 3:
            return powers_of_volume(self.degree)
        return [(j,) for j in range(self.degree + 1)] if self._of_signals else powers(self.degree)

    @property
    def _of_signals(self) -> bool:
        return len(self.shapes[0]) == 1

    def _lowered(self, channel_axis: int | None) -> "Background":
        kept = of_one_row(self.coefficients)
        sides: Any = tuple(shape[1:] for shape in self.shapes)
        tables = self.coefficients[..., kept], self.stderr[..., kept]
        return Background(self.degree, *tables, sides, channel_axis)

    def _lifted(self, channel_axis: int | None) -> "Background":
        kept = [at for at, (i, _) in enumerate(powers(self.degree)) if i == 0]
        tables = np.zeros((2, *self.coefficients.shape[:-1], n_terms(self.degree)), dtype=self.coefficients.dtype)
        tables[..., kept] = self.coefficients, self.stderr
        return Background(
            self.degree, tables[0], tables[1], tuple((1, shape[-1]) for shape in self.shapes), channel_axis
        )

    def image(self, pair: int | None = None) -> Array:
        """Return the surface as an image.

        Parameters
        ----------
        pair : int, optional
            Which pair's, needed where there is more than one.

        Returns
        -------
        ndarray
            Of that target's shape, channels included.

        Raises
        ------
        ValueError
            If there are several pairs and none, or one that does not exist, is named.
        """
        if pair is None and len(self.shapes) > 1 or not -len(self.shapes) <= (pair or 0) < len(self.shapes):
            msg = f"got pair={pair}, need one of 0 to {len(self.shapes) - 1}: each pair has a background of its own"
            raise ValueError(msg)
        if len(self.shapes[0]) == 3:
            n = math.prod(self.coefficients.shape[:-1]) // len(self.shapes)
            volumes = [self.planes(pair or 0, slice(None), channel) for channel in range(n)]
            return volumes[0] if self.channel_axis is None else np.stack(volumes, axis=self.channel_axis)
        if self._of_signals:
            axis = self.channel_axis
            whole = self._lifted(None if axis is None else 0).image(pair)
            return whole[0] if axis is None else np.moveaxis(whole[:, 0], 0, axis)
        table = self.coefficients.reshape(len(self.shapes), -1, n_terms(self.degree))[pair or 0]
        planes = []
        for row in table:
            square = np.zeros((self.degree + 1, self.degree + 1), dtype=table.dtype)
            for c, (i, j) in zip(row, self.powers, strict=True):
                square[i, j] = c
            down, across = (legendre(n, self.degree) for n in self.shapes[pair or 0])
            planes.append(down @ square @ across.T)
        return planes[0] if self.channel_axis is None else np.stack(planes, axis=self.channel_axis)

    def planes(self, pair: int, some: slice, channel: int = 0) -> Array:
        """Return the surface on some planes of a volume.

        Parameters
        ----------
        pair : int
            Which pair's.
        some : slice
            Which planes.
        channel : int, optional
            Which channel's, default the first.

        Returns
        -------
        ndarray, shape (planes, rows, cols)
            The part of `image`, of which no more is made.
        """
        row = self.coefficients.reshape(len(self.shapes), -1, len(self.powers))[pair, channel]
        cube = np.zeros((self.degree + 1,) * 3, dtype=row.dtype)
        cube[tuple(np.transpose(self.powers))] = row
        down, rows, cols = (legendre(n, self.degree) for n in self.shapes[pair])
        return np.asarray(np.einsum("ijk,zi,yj,xk->zyx", cube, down[some], rows, cols, optimize=True))


def of_one_row(coefficients: Array) -> list[int]:
    """Return which coefficients, along the last axis, are of terms that vary along a row alone."""
    return [at for at, (i, _) in enumerate(powers(degree_of(coefficients.shape[-1]))) if i == 0]


def require_room(size: tuple[int, ...], whole: tuple[int, ...], degree: int, where: str) -> int:
    """Refuse too few pixels to tell the terms apart (a constant along an axis of one); return how many terms."""
    axes = [n for n, side in zip(size, whole, strict=True) if side > 1]
    if axes and min(axes) <= degree:
        along = "rows and columns" if len(size) == 2 else "planes, rows and columns"
        lower = "ask for a lower degree" if min(axes) > 0 else "ask for a smaller shape, or declare a boundary"
        raise ValueError(
            f"got background={degree} with {'x'.join(map(str, size))} target pixels that are used"
            f"{f' of {where}' if where else ''}, need more than {degree} {along}; {lower}"
        )
    return n_terms(degree, len(axes))


class Surface:
    """One term as something that can be sliced like an image, each pixel `stride` times; never held whole."""

    dtype = np.dtype(np.float64)

    def __init__(
        self, shape: Shape, degree: int, power: tuple[int, int], stride: Shape = (1, 1), scale: float = 1.0
    ) -> None:
        self._down = np.repeat(legendre(shape[0], degree)[:, power[0]], stride[0]) * scale
        self._across = np.repeat(legendre(shape[1], degree)[:, power[1]], stride[1])
        self.shape = (len(self._down), len(self._across))

    def __getitem__(self, key: Any) -> Array:
        return np.asarray(self._down[key[0], None] * self._across[key[1]])


@dataclass(frozen=True, eq=False)
class Columns:
    """The terms on the used pixels of a target (on a plane of a volume, times the depth's): Phi, never held whole."""

    #: down, across: the polynomials along either axis
    down: Array
    across: Array
    powers: npt.NDArray[np.int64]  # (terms, 2); which of them each term is the product of
    scales: Array | None = None  # (terms,); what each is multiplied by; None for 1

    @classmethod
    @functools.lru_cache(64)  # asked for by every block that is read
    def of(cls, whole: Shape, corner: Shape, size: Shape, degree: int) -> "Columns":
        """Lay the terms on a part of a target: its corner and its size."""
        down, across = (
            legendre(n, degree)[first : first + used] for n, first, used in zip(whole, corner, size, strict=True)
        )
        return cls(down, across, np.array(powers(degree)))

    def on_plane(self, at: int, depth: int, degree: int) -> "Columns":
        """Return those of a volume of so many planes on one of them."""
        every = np.array(powers_of_volume(degree))
        return Columns(self.down, self.across, every[:, 1:], legendre(depth, degree)[at, every[:, 0]])

    @property
    def n(self) -> int:
        """Number of terms."""
        return len(self.powers)

    def transposed(self) -> "Columns":
        """Return those of the transposed target."""
        return Columns(self.across, self.down, self.powers[:, ::-1], self.scales)

    def surface(self, coefficients: Array, rows: slice, cols: slice) -> Array:
        """Return a block of the surface, ``Phi c``."""
        square = np.zeros((self.down.shape[1], self.across.shape[1]))
        np.add.at(square, tuple(self.powers.T), coefficients if self.scales is None else coefficients * self.scales)
        # no BLAS, whose threads would go on spinning into the next pass
        return np.asarray(np.einsum("ri,ci->rc", np.einsum("ri,ij->rj", self.down[rows], square), self.across[cols]))

    def products(self, block: Array, row: int, col: int) -> Array:
        """Return ``Phi'r`` of a block of a residual r that starts at a pixel."""
        down, across = self.down[row : row + block.shape[0]], self.across[col : col + block.shape[1]]
        table = np.einsum("ri,rj->ij", down, np.einsum("rc,cj->rj", block, across))
        found = table[tuple(self.powers.T)]
        return np.asarray(found if self.scales is None else found * self.scales)

    def at(self, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]) -> Array:
        """Return the terms at some pixels, shape (pixels, terms)."""
        found = self.down[rows][:, self.powers[:, 0]] * self.across[cols][:, self.powers[:, 1]]
        return np.asarray(found if self.scales is None else found * self.scales)

    def gram(self, weights: npt.NDArray[np.generic] | None = None) -> Array:
        """Return ``Phi'W Phi``, shape (terms, terms); without weights every pixel counts once."""
        i, j = self.powers.T
        scales = np.ones(self.n) if self.scales is None else self.scales
        if weights is None:
            down, across = self.down.T @ self.down, self.across.T @ self.across
            return np.asarray(down[np.ix_(i, i)] * across[np.ix_(j, j)] * np.multiply.outer(scales, scales))
        n, m = self.down.shape[1], self.across.shape[1]
        both = (self.across[:, :, None] * self.across[:, None]).reshape(-1, m * m)
        table = np.zeros((n * n, m * m))
        step = max(1, _ROOM // weights.shape[1])
        for row in range(0, len(weights), step):
            down = self.down[row : row + step]
            pairs = (down[:, :, None] * down[:, None]).reshape(-1, n * n)
            table += pairs.T @ (weights[row : row + step].astype(np.float64) @ both)
        table = table.reshape(n, n, m, m)
        return np.asarray(table[i[:, None], i, j[:, None], j] * np.multiply.outer(scales, scales))


@dataclass
class Elimination:
    """What takes the surface of one problem out of the statistics of its targets, and finds it afterwards."""

    half: Array  # (taps, rank); ``A'Phi R``
    root: Array  # (terms, rank); R, with ``R R'`` the (pseudo-)inverse of ``Phi'Phi``
    taps: Array  # (targets, taps); a kernel for each target
    coefficients: Array  # (targets, terms); those that fit best beside that kernel
    solved: Array | None = None  # (taps, rank); ``G^-1 A'Phi R``, where the covariance of the taps has no factor

    @classmethod
    def of(cls, cross: Array, gram: Array, products: Array) -> "Elimination":
        """Build it from ``A'Phi`` (taps, terms), ``Phi'Phi`` (terms, terms) and ``Phi'y`` (targets, terms)."""
        values, vectors = scipy.linalg.eigh(gram)
        kept = values > _RANK * values[-1]
        root = vectors[:, kept] / np.sqrt(values[kept])
        return cls(cross @ root, root, np.zeros((len(products), len(cross))), products @ root @ root.T)

    @property
    def rank(self) -> int:
        """Number of degrees of freedom that the surface takes."""
        return int(self.root.shape[1])

    def reduced(self, stats: list[NormalEquations], products: Array) -> list[NormalEquations]:
        """Return the statistics of what is left of image and targets beside the surface."""
        gram = self.half @ self.half.T
        np.subtract(stats[0].gram, gram, out=gram)
        out = []
        for one, product in zip(stats, products @ self.root, strict=True):
            energy = one.target_energy - float(product @ product)
            blank = not energy > 1e-14 * one.target_energy  # rounding alone is left
            fields: dict[str, Any] = {
                "gram": gram,
                "moment": np.zeros(one.n_taps) if blank else one.moment - self.half @ product,
                "target_energy": 0.0 if blank else energy,
                "target_sum": 0.0,
                "n_pixels": one.n_pixels - self.rank,
            }
            out.append(dataclasses.replace(one, **fields))
        return out

    def recentered(self, taps: Array, moments: Array, energies: Array, products: Array) -> tuple[Array, Array]:
        """Take over what the pixels say of the residual r of kernels and their surfaces; return its reduced sums."""
        # `taps`: the kernels, whose surfaces were those of `coefficients_at`. `moments`, `energies`, `products`:
        # ``A'r``, ``r'r`` and ``Phi'r``.
        beside = self.coefficients_at(taps)
        seen = products @ self.root
        self.taps, self.coefficients = taps, beside + seen @ self.root.T
        return moments - seen @ self.half.T, np.maximum(0.0, energies - np.einsum("ij,ij->i", seen, seen))

    def coefficients_at(self, taps: Array) -> Array:
        """Return the coefficients that fit best beside other kernels, shape (targets, terms)."""
        return np.asarray(self.coefficients + (self.taps - taps) @ self.half @ self.root.T)

    def stderr(self, noise_std: float, factor: Array | None) -> Array:
        """Return the standard errors of the coefficients of a target, given the factor of its kernel's covariance."""
        own = np.einsum("ij,ij->i", self.root, self.root)
        if factor is not None:
            through = self.root @ (self.half.T @ factor)
            variance = noise_std**2 * own + np.einsum("ij,ij->i", through, through)
        elif self.solved is not None:
            variance = noise_std**2 * (own + np.einsum("ij,jk,ik->i", self.root, self.half.T @ self.solved, self.root))
        else:
            return np.full(len(self.root), np.nan)
        return np.where(self.undetermined, np.inf, np.sqrt(np.maximum(variance, 0.0)))

    @property
    def undetermined(self) -> npt.NDArray[np.bool_]:
        """Which coefficients the pixels that count leave open, shape (terms,)."""
        basis = scipy.linalg.orth(self.root) if self.rank < len(self.root) else np.eye(len(self.root))
        return np.asarray(np.einsum("ij,ij->i", basis, basis) < 1 - _OPEN)


def unknowns_of(taps: Array, eliminations: Sequence[Elimination]) -> Array:
    """Return a kernel and the coefficients that fit best beside it."""
    return np.concatenate([taps, *(e.coefficients_at(taps[None])[0] for e in eliminations)])


def without_rounding(stats: list[NormalEquations], trace: float) -> list[NormalEquations]:
    """Set to zero what rounding, eps times `trace`, left of combinations of taps that the surface takes up whole."""
    gram = stats[0].gram
    lower, info = scipy.linalg.lapack.dpotrf(gram, lower=1)
    if info == 0:
        norm = float(np.abs(gram).sum(axis=0).max())
        rcond, _ = scipy.linalg.lapack.dpocon(lower, norm, uplo="L")
        if rcond * norm > 1e-12 * trace:
            return stats
    values, vectors = scipy.linalg.eigh(gram)
    kept = values > 4 * max(len(values), 16) * _EPS * trace
    if kept.all():
        return stats
    rest = vectors[:, kept] * np.sqrt(values[kept])
    gram, span = rest @ rest.T, vectors[:, kept] @ vectors[:, kept].T
    return [dataclasses.replace(one, gram=gram, moment=span @ one.moment) for one in stats]


def eliminated(stats: NormalEquations) -> NormalEquations:
    """Return equations of one target without its background, which they can still tell."""
    sums = stats.surface
    if sums is None:
        return stats
    elimination = Elimination.of(sums.cross, sums.gram, sums.products[None])
    (reduced,) = elimination.reduced([stats], sums.products[None])
    surface = EliminatedSurface(elimination.half, elimination.root, elimination.coefficients[0], sums.shape)
    before = float(np.trace(stats.gram)), stats.target_energy
    return dataclasses.replace(reduced, surface=None, backgrounds=(surface,), unreduced=before)


def settled(stats: NormalEquations) -> NormalEquations:
    """Return sums of such equations without what rounding left of combinations that the surfaces take up whole."""
    return stats if stats.unreduced is None else without_rounding([stats], stats.unreduced[0])[0]


def eliminations_of(stats: NormalEquations) -> list[Elimination]:
    """Return what gives the backgrounds of equations beside a kernel."""
    return [
        Elimination(one.half, one.root, np.zeros((1, len(one.half))), one.first[None].copy())
        for one in stats.backgrounds
    ]


def degree_of(n: int, ndim: int = 2) -> int:
    """Return the degree of a surface of so many terms."""
    return next(degree for degree in range(n) if n_terms(degree, ndim) == n)
