"""What the pixels have to say, as a small sum: solving never sees a pixel again."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import storage
from .exact.blas import one_blas_thread
from .geometry import Convention, Shape, in_mode, kernel_shape

if TYPE_CHECKING:
    from .result import KernelFit
    from .solvers.solve import Solver

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NormalStats:
    """Sums over target pixels from which kernels are solved; disjoint sets of pixels add with ``+``.

    The model is ``y = A k + noise``: one row of A for each target pixel that is used, one column for each tap. The
    taps of all terms (source images with their supports) stand one after the other, each in row-major order of the
    kernel that comes back.

    Parameters
    ----------
    gram : ndarray, shape (taps, taps)
        ``A'A``.
    moment : ndarray, shape (taps,)
        ``A'y``.
    target_energy : float
        ``y'y``.
    target_sum : float
        Sum of y.
    n_pixels : int
        Number of target pixels, that is of rows of A.
    terms : tuple of (int, int)
        Rows and columns of each term's support.
    convention : Convention
        How the kernel lies on the image.
    center : ndarray, shape (taps,), optional
        A kernel c near the solution, for which the next two were taken from the pixels themselves. Solvers look for the
        difference to it: ``A'y`` resolves only what rounding leaves of a difference of large numbers, ``A'(y - A c)``
        all of it.
    center_moment : ndarray, shape (taps,), optional
        ``A'(y - A c)``.
    center_energy : float, optional
        ``|y - A c|^2``.
    weight_sum : float, optional
        With weights w every sum above is a weighted one, ``A'WA``, ``A'Wy``, ``y'Wy`` and so on, and this is the sum
        of the weights of the `n_pixels` pixels that have one. None if every pixel counts once.
    weighting : str, optional
        How the weights were taken into account, in words; empty without weights.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((60, 50))
    >>> target = image[1:-1, 1:-1]
    >>> north = kernelfit.accumulate(image[:32], target[:30], 3)
    >>> south = kernelfit.accumulate(image[30:], target[30:], 3)
    >>> both = north + south
    >>> both.n_pixels == target.size
    True
    >>> np.round(both.solve().kernel, 9) + 0.0
    array([[0., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]])
    """

    gram: Array
    moment: Array
    target_energy: float
    target_sum: float
    n_pixels: int
    terms: tuple[Shape, ...]
    convention: Convention
    center: Array | None = None
    center_moment: Array | None = None
    center_energy: float = 0.0
    weight_sum: float | None = None
    weighting: str = ""
    #: What solvers have made of the Gram matrix, shared by statistics that differ in the center alone.
    _made: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the shapes, and make the arrays read-only."""
        m = sum(rows * cols for rows, cols in self.terms)
        for name in ("gram", "moment", "center", "center_moment"):
            value = getattr(self, name)
            if value is None:
                continue
            shape = (m, m) if name == "gram" else (m,)
            if value.shape != shape:
                msg = f"got {name} of shape {value.shape}, need {shape} for terms {self.terms}"
                raise ValueError(msg)
            value.setflags(write=False)

    @property
    def n_taps(self) -> int:
        """Number of unknowns."""
        return len(self.moment)

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all pixels: their number where none was given."""
        return float(self.n_pixels) if self.weight_sum is None else self.weight_sum

    def __add__(self, other: "NormalStats") -> "NormalStats":
        """Return the statistics of the pixels of both."""
        if not isinstance(other, NormalStats):
            return NotImplemented
        mine, theirs = self.convention, other.convention
        alike = all(getattr(mine, name) == getattr(theirs, name) for name in ("operation", "origin", "stride"))
        if self.terms != other.terms or not alike:
            msg = (
                f"got statistics of different kernels ({self.terms}, {mine} and {other.terms}, {theirs}); "
                "only those of the "
                "same supports, operation, origin and stride add up"
            )
            raise ValueError(msg)
        sums: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("gram", "moment", "target_energy", "target_sum", "n_pixels")
        }
        if self.weight_sum is not None or other.weight_sum is not None:
            sums["weight_sum"] = self.total_weight + other.total_weight
        sums["weighting"] = "; ".join(dict.fromkeys(w for w in (self.weighting, other.weighting) if w))
        if self.center is not None or other.center is not None:
            center = self.center if self.center is not None else other.center
            assert center is not None
            a, b = self._centered(center), other._centered(center)
            sums |= {"center": center, "center_moment": a[0] + b[0], "center_energy": a[1] + b[1]}
        return NormalStats(**sums, terms=self.terms, convention=mine)

    def _centered(self, center: Array) -> tuple[Array, float]:
        """Return ``A'(y - A c)`` and ``|y - A c|^2`` for another center c."""
        old, moment, energy = self.around()
        step = center - old
        change = self.gram @ step
        return moment - change, max(0.0, energy - float(step @ (2 * moment - change)))

    def __sub__(self, other: "NormalStats") -> "NormalStats":
        """Return the statistics of the pixels of this one that are not in `other`, a part of it."""
        if not isinstance(other, NormalStats):
            return NotImplemented
        if other.n_pixels > self.n_pixels:
            msg = f"got {other.n_pixels} pixels to take from {self.n_pixels}; take a part from the whole"
            raise ValueError(msg)
        minus = dataclasses.replace(
            other,
            gram=-other.gram,
            moment=-other.moment,
            target_energy=-other.target_energy,
            target_sum=-other.target_sum,
            n_pixels=-other.n_pixels,
            weight_sum=None if other.weight_sum is None else -other.weight_sum,
            center=None,
            center_moment=None,
            center_energy=0.0,
        )
        mine = self if self.center is None else dataclasses.replace(self, center=None, center_moment=None)
        rest = mine + minus
        if self.center is None:
            return rest
        moment, energy = other._centered(self.center)
        at, own_moment, own_energy = self.around()
        return rest.centered(at, own_moment - moment, max(0.0, own_energy - energy))

    def crop(self, shape: int | Shape, corner: Shape | None = None) -> "NormalStats":
        """Return the statistics of a smaller support, exactly, without reading a pixel.

        They are a sub-block: the target pixels are the same, the taps beyond the smaller support are held at zero.

        Parameters
        ----------
        shape : int or (int, int)
            Rows and columns of the smaller support.
        corner : (int, int), optional
            The tap (row, column) of this support that becomes tap (0, 0). By default the new support's centre,
            ``(side - 1) // 2``, falls on this one's origin.

        Returns
        -------
        NormalStats
            The statistics. The convention says mode "same", with the origin moved along: a kernel that is smaller than
            the one that a "valid" or "full" target was made for does not give a target of that shape.

        Raises
        ------
        ValueError
            If there is more than one term, or the smaller support does not lie inside this one or misses its origin.

        Examples
        --------
        >>> import numpy as np, kernelfit
        >>> image, target = np.random.default_rng(0).random((2, 40, 50))
        >>> stats = kernelfit.accumulate(image, target, (9, 7))
        >>> stats.crop((3, 5)).terms
        ((3, 5),)
        """
        if len(self.terms) != 1:
            msg = f"got statistics of {len(self.terms)} terms, need one; crop the supports before adding terms"
            raise ValueError(msg)
        (rows, cols), origin = self.terms[0], self.convention.origin
        small = kernel_shape(shape)
        row, col = ((o - (n - 1) // 2) for o, n in zip(origin, small, strict=True)) if corner is None else corner
        if row < 0 or col < 0 or row + small[0] > rows or col + small[1] > cols:
            msg = (
                f"got a support of {small[0]}x{small[1]} at {(row, col)}, need one inside {rows}x{cols}; "
                "give another shape or corner"
            )
            raise ValueError(msg)
        if not (0 <= origin[0] - row < small[0] and 0 <= origin[1] - col < small[1]):
            msg = (
                f"got a support of {small[0]}x{small[1]} at {(row, col)}, need one that holds the origin {origin}; "
                "give another shape or corner"
            )
            raise ValueError(msg)
        index = np.arange(rows * cols).reshape(rows, cols)
        kept = index[row : row + small[0], col : col + small[1]].ravel()
        same = in_mode(self.convention, (rows, cols), "same")
        convention = dataclasses.replace(same, origin=(origin[0] - row, origin[1] - col))
        fields: dict[str, Any] = {
            "gram": self.gram[np.ix_(kept, kept)],
            "moment": self.moment[kept],
            "terms": (small,),
            "convention": convention,
        }
        if self.center is not None:
            center = np.zeros(rows * cols)
            center[kept] = self.center[kept]
            moment, energy = self._centered(center)
            fields |= {"center": center[kept], "center_moment": moment[kept], "center_energy": energy}
        return dataclasses.replace(self, **fields)

    @one_blas_thread
    def without_image_noise(self, std: float | Sequence[float]) -> tuple["NormalStats", float]:
        """Return the statistics as they would be, on average, if the image had no noise of its own.

        White noise of standard deviation s in the image, independent of that of the target, adds ``n s^2`` to the
        diagonal of ``A'A`` and makes the least-squares kernel too small (attenuation). This takes it off again, but no
        more than leaves, in every direction, a tenth of what there was, or ``4 sqrt(taps / n)`` of it where that is
        more. Where pixels beyond the edge are assumed (boundary "fill", "symm", "mirror" or "nearest") the noise of
        the outermost ones adds up otherwise; ``find_kernel(image_noise=)`` counts them.

        The residual sum of squares stays what the pixels have at the new kernel: the noise of an equation is then
        ``sqrt(e^2 + s^2 |k|^2)``, e that of a target pixel.

        Parameters
        ----------
        std : float or sequence of float
            Standard deviation of the noise of an image pixel, for all terms or for each.

        Returns
        -------
        stats : NormalStats
            The corrected statistics.
        taken : float
            The share of ``n s^2`` that could be taken off, 1 unless `std` is more than the image can hold; 0 if the
            image does not determine every tap.

        Raises
        ------
        ValueError
            If `std` is negative or not finite, or not one number or one for each term.

        References
        ----------
        W. Fuller, "Measurement Error Models" (1987), sections 1.2 and 2.5.3, doi:10.1002/9780470316665.
        """
        from .solvers.image_noise import take_off

        return take_off(self, std)

    def around(self) -> tuple[Array, Array, float]:
        """Return the center c, ``A'(y - A c)`` and ``|y - A c|^2``; the center is zero if none was set."""
        if self.center is None or self.center_moment is None:
            return np.zeros(self.n_taps), self.moment, self.target_energy
        return self.center, self.center_moment, self.center_energy

    def centered(self, center: Array, moment: Array, energy: float) -> "NormalStats":
        """Return the same statistics with what the pixels say of the residual of `center`.

        Parameters
        ----------
        center : ndarray, shape (taps,)
            A kernel c.
        moment : ndarray, shape (taps,)
            ``A'(y - A c)``, from the pixels.
        energy : float
            ``|y - A c|^2``, from the pixels.

        Returns
        -------
        NormalStats
            The statistics, from which every solver gets a more accurate kernel.
        """
        stats = dataclasses.replace(self, center=np.array(center), center_moment=np.array(moment), center_energy=energy)
        stats._made.update(self._made)
        return stats

    @one_blas_thread
    def solve(self, solver: "Solver | str | None" = None) -> "KernelFit":
        """Return a kernel, with its errors and a verdict.

        Parameters
        ----------
        solver : solver or "auto", optional
            What to make of the statistics; the default is `LeastSquares()`.

        Returns
        -------
        KernelFit
            The result; `KernelFit.findings` says what is doubtful about it.
        """
        from .solvers.solve import as_solver

        return as_solver(solver).solve(self)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the statistics to an NPZ file, in one step.

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
            "target_energy": self.target_energy,
            "target_sum": self.target_sum,
            "n_pixels": self.n_pixels,
            "terms": self.terms,
            "convention": dataclasses.asdict(self.convention),
            "center_energy": self.center_energy,
            "weight_sum": self.weight_sum,
            "weighting": self.weighting,
        }
        arrays = {
            name: getattr(self, name)
            for name in ("gram", "moment", "center", "center_moment")
            if getattr(self, name) is not None
        }
        storage.save(path, "NormalStats", header, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "NormalStats":
        """Read statistics written by `save`.

        Parameters
        ----------
        path : path-like
            Name of the file.

        Returns
        -------
        NormalStats
            The statistics, equal to the bit.

        Raises
        ------
        ValueError
            If the file is not a complete file of statistics.
        """
        header, arrays = storage.load(path, "NormalStats")
        return cls(
            gram=arrays["gram"],
            moment=arrays["moment"],
            target_energy=header["target_energy"],
            target_sum=header["target_sum"],
            n_pixels=header["n_pixels"],
            terms=tuple((rows, cols) for rows, cols in header["terms"]),
            convention=convention_from(header["convention"]),
            center=arrays.get("center"),
            center_moment=arrays.get("center_moment"),
            center_energy=header["center_energy"],
            weight_sum=header.get("weight_sum"),
            weighting=header.get("weighting", ""),
        )


def convention_from(fields: dict[str, Any]) -> Convention:
    """Rebuild a convention from its stored fields."""
    pairs: dict[str, Any] = {name: tuple(fields[name]) for name in ("origin", "stride", "offset") if name in fields}
    return Convention(**{**fields, **pairs})
