"""What the pixels have to say, as a small sum: solving never sees a pixel again."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .geometry import Convention, Shape, convention_from, in_mode, in_plane, kernel_shape
from .validation import Array, as_number, renamed, require_fields

_ARRAYS = ("gram", "moment", "center", "center_moment")
#: What statistics that add up have in common.
_ALIKE = ("operation", "origin", "stride", "field", "numbers", "apart")


@dataclass(frozen=True, eq=False)
class SurfaceSums:
    """Sums over pixels of one target with the terms Phi of its background, as long as that is not eliminated."""

    cross: Array  # (taps, terms); ``A'W Phi``
    gram: Array  # (terms, terms); ``Phi'W Phi``
    products: Array  # (terms,); ``Phi'W y``
    shape: Shape  # rows and columns of the whole target

    def __add__(self, other: "SurfaceSums") -> "SurfaceSums":
        """Return the sums over the pixels of both parts of a target."""
        return SurfaceSums(self.cross + other.cross, self.gram + other.gram, self.products + other.products, self.shape)


@dataclass(frozen=True, eq=False)
class EliminatedSurface:
    """What gives the coefficients of an eliminated background beside any kernel: ``first - gain k``."""

    half: Array  # (taps, rank); ``A'W Phi R``
    root: Array  # (terms, rank); R, with ``R R'`` the (pseudo-)inverse of ``Phi'W Phi``
    first: Array  # (terms,); the coefficients beside a kernel of zeros
    shape: Shape  # rows and columns of the whole target


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over target pixels from which kernels are solved; disjoint sets of pixels add with ``+``.

    ``stats * factor``, of a factor above 0 and at most 1, lets each pixel count for a share of one.

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
    target_sum : float or complex
        Sum of y; of complex targets, whose two parts are equations of their own, the complex one.
    n_pixels : int
        Number of target pixels, that is of rows of A.
    supports : tuple of (int, int)
        Rows and columns of each term's support; of volumes planes, rows and columns.
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
    surface : SurfaceSums, optional
        The sums with the background of the one target of which these are a part; solvers need it eliminated.
    backgrounds : tuple of EliminatedSurface, optional
        Those of the targets whose background is eliminated; `n_pixels` is less by their degrees of freedom.
    unreduced : (float, float), optional
        Trace of the Gram matrix and ``y'y`` before that.

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
    target_sum: float | complex
    n_pixels: int
    supports: tuple[Any, ...]
    convention: Convention
    center: Array | None = None
    center_moment: Array | None = None
    center_energy: float = 0.0
    weight_sum: float | None = None
    weighting: str = ""
    surface: SurfaceSums | None = None
    backgrounds: tuple[EliminatedSurface, ...] = ()
    unreduced: tuple[float, float] | None = None

    terms = renamed("terms", "supports")

    def __post_init__(self) -> None:
        """Check the shapes, and make the arrays read-only."""
        m = sum(math.prod(sides) for sides in self.supports)
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is None:
                continue
            shape = (m, m) if name == "gram" else (m,)
            if value.shape != shape:
                raise ValueError(f"got {name} of shape {value.shape}, need {shape} for terms {self.supports}")
            value.setflags(write=False)

    @property
    def n_taps(self) -> int:
        """Number of unknowns."""
        return len(self.moment)

    @property
    def variance(self) -> float:
        """The energy of the target about its mean."""
        return self.target_energy - abs(self.target_sum) * (abs(self.target_sum) / (self.n_values or 1.0))

    @property
    def varies(self) -> bool:
        """Whether the target is more than a constant and rounding."""
        return self.variance > 1e-14 * self.target_energy

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all pixels: their number where none was given."""
        return float(self.n_pixels) if self.weight_sum is None else self.weight_sum

    @property
    def n_values(self) -> float:
        """The same in numbers of the target: of complex ones each is two equations."""
        return self.total_weight / (2.0 if self.convention.apart else 1.0)

    def __add__(self, other: "NormalEquations") -> Self:
        return self._plus(other) if isinstance(other, NormalEquations) else NotImplemented

    def _plus(self, other: "NormalEquations", gram: Array | None = None) -> Self:
        """Return the sum, whose Gram matrix may be known already."""
        mine, theirs = self.convention, other.convention
        alike = all(getattr(mine, name) == getattr(theirs, name) for name in _ALIKE)
        if self.supports != other.supports or not alike:
            raise ValueError(
                f"got statistics of different kernels ({self.supports}, {mine} and {other.supports}, {theirs}); "
                "only those of the "
                "same supports, operation, origin, stride and variation add up"
            )
        sums: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("moment", "target_energy", "target_sum", "n_pixels")
        }
        sums["gram"] = self.gram + other.gram if gram is None else gram
        if self.weight_sum is not None or other.weight_sum is not None:
            sums["weight_sum"] = self.total_weight + other.total_weight
        if self.surface is not None and other.surface is not None:
            sums["surface"] = self.surface + other.surface
        sums["backgrounds"] = self.backgrounds + other.backgrounds
        if self.unreduced is not None and other.unreduced is not None:
            mine_before, theirs_before = self.unreduced, other.unreduced
            sums["unreduced"] = (mine_before[0] + theirs_before[0], mine_before[1] + theirs_before[1])
        sums["weighting"] = "; ".join(dict.fromkeys(w for w in (self.weighting, other.weighting) if w))
        if self.center is not None or other.center is not None:
            center = self.center if self.center is not None else other.center
            assert center is not None
            a, b = self._centered(center), other._centered(center)
            sums |= {"center": center, "center_moment": a[0] + b[0], "center_energy": a[1] + b[1]}
        return type(self)(**sums, supports=self.supports, convention=mine)

    def __mul__(self, factor: float) -> Self:
        """Return the statistics as if each pixel counted for a share of one, from 0 (left out) to 1.

        ``stats * 0.98 + new`` follows a kernel that changes: the past is forgotten exponentially (recursive least
        squares with a forgetting factor: S. Haykin, "Adaptive Filter Theory", 5th ed., 2014, chapter 10). The errors
        are those of so many pixels fewer.
        """
        if isinstance(factor, NormalEquations):
            return NotImplemented
        share = as_number(factor, "factor")
        if not 0 < share <= 1:
            raise ValueError(f"got a factor of {factor!r}, need one above 0 and at most 1; it is a share of each pixel")
        root = math.sqrt(share)
        sums: dict[str, Any] = {name: share * getattr(self, name) for name in ("gram", "moment", "target_energy")}
        sums |= {"target_sum": share * self.target_sum, "weight_sum": share * self.total_weight}
        sums |= {"n_pixels": round(share * self.n_pixels), "center_energy": share * self.center_energy}
        if self.center_moment is not None:
            sums["center_moment"] = share * self.center_moment
        if (one := self.surface) is not None:
            sums["surface"] = SurfaceSums(share * one.cross, share * one.gram, share * one.products, one.shape)
        sums["backgrounds"] = tuple(
            dataclasses.replace(one, half=root * one.half, root=one.root / root) for one in self.backgrounds
        )
        if self.unreduced is not None:
            sums["unreduced"] = (share * self.unreduced[0], share * self.unreduced[1])
        return dataclasses.replace(self, **sums)

    __rmul__ = __mul__

    def _centered(self, center: Array) -> tuple[Array, float]:
        """Return ``A'(y - A c)`` and ``|y - A c|^2`` for another center c."""
        old, moment, energy = self.around()
        step = center - old
        change = self.gram @ step
        return moment - change, max(0.0, energy - float(step @ (2 * moment - change)))

    def __sub__(self, other: "NormalEquations") -> Self:
        """Return the statistics of the pixels of this one that are not in `other`, a part of it."""
        if not isinstance(other, NormalEquations):
            return NotImplemented
        if other.n_pixels > self.n_pixels:
            raise ValueError(f"got {other.n_pixels} pixels to take from {self.n_pixels}; take a part from the whole")
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

    def crop(self, shape: int | tuple[int, ...], corner: int | tuple[int, ...] | None = None) -> Self:
        """Return the statistics of a smaller support, exactly, without reading a pixel.

        They are a sub-block: the target pixels are the same, the taps beyond the smaller support are held at zero.

        Parameters
        ----------
        shape : int or (int, int)
            Rows and columns of the smaller support, of volumes planes before them.
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
            If there is more than one term, or the smaller support does not lie inside this one.

        Examples
        --------
        >>> import numpy as np, kernelfit
        >>> image, target = np.random.default_rng(0).random((2, 40, 50))
        >>> stats = kernelfit.accumulate(image, target, (9, 7))
        >>> stats.crop((3, 5)).supports
        ((3, 5),)
        """
        if len(self.supports) != 1:
            msg = f"got statistics of {len(self.supports)} terms, need one; crop the supports before adding terms"
            raise ValueError(msg)
        whole, origin = self.supports[0], self.convention.origin
        small, ndim = kernel_shape(shape, self.convention.ndim), self.convention.ndim
        corner = corner if corner is None else in_plane(corner, "corner", ndim, 0)
        first = corner or tuple(o - (n - 1) // 2 for o, n in zip(origin, small, strict=True))
        if any(a < 0 or a + n > side for a, n, side in zip(first, small, whole, strict=True)):
            wanted, there = ("x".join(map(str, some)) for some in (small, whole))
            place = f"{wanted} at {tuple(first)}, need one inside {there}"
            raise ValueError(f"got a support of {place}; give another shape or corner")
        index = np.arange(math.prod(whole)).reshape(whole)
        kept = index[tuple(slice(a, a + n) for a, n in zip(first, small, strict=True))].ravel()
        same = in_mode(self.convention, whole, "same")
        convention = dataclasses.replace(same, origin=tuple(o - a for o, a in zip(origin, first, strict=True)))
        fields: dict[str, Any] = {
            "gram": self.gram[np.ix_(kept, kept)],
            "moment": self.moment[kept],
            "supports": (small,),
            "convention": convention,
            "backgrounds": tuple(dataclasses.replace(one, half=one.half[kept]) for one in self.backgrounds),
        }
        if self.center is not None:
            center = np.zeros(index.size)
            center[kept] = self.center[kept]
            moment, energy = self._centered(center)
            fields |= {"center": center[kept], "center_moment": moment[kept], "center_energy": energy}
        return dataclasses.replace(self, **fields)

    def around(self) -> tuple[Array, Array, float]:
        """Return the center c, ``A'(y - A c)`` and ``|y - A c|^2``; the center is zero if none was set."""
        if self.center is None or self.center_moment is None:
            return np.zeros(self.n_taps), self.moment, self.target_energy
        return self.center, self.center_moment, self.center_energy

    def centered(self, center: Array, moment: Array, energy: float) -> Self:
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
        return dataclasses.replace(self, center=np.array(center), center_moment=np.array(moment), center_energy=energy)


def added(
    some: Sequence[NormalEquations], others: Sequence[NormalEquations], gram: Array | None = None
) -> list[NormalEquations]:
    """Return the sums of the statistics of several targets; those of the same images go on sharing a Gram matrix.

    That of all may be known already.
    """
    grams: dict[tuple[int, int], Array] = {}
    found = []
    for one, other in zip(some, others, strict=True):
        key = id(one.gram), id(other.gram)
        found.append(one._plus(other, grams.get(key, gram)))
        grams[key] = found[-1].gram
    return found


def packed(stats: NormalEquations) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return statistics as a header of plain values, and the arrays."""
    header: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for field in dataclasses.fields(stats):
        value = getattr(stats, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif isinstance(value, complex):
            header[field.name] = [value.real, value.imag]
        elif field.name not in (*_ARRAYS, "surface", "backgrounds"):
            header[field.name] = value
    header["convention"] = stats.convention.stored()
    header["backgrounds"] = [one.shape for one in stats.backgrounds]
    parts: list[tuple[str, Any]] = [(f"background{i}_", one) for i, one in enumerate(stats.backgrounds)]
    if stats.surface is not None:
        header["surface"] = stats.surface.shape
        parts.append(("surface_", stats.surface))
    for prefix, part in parts:
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        arrays |= {prefix + name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return header, arrays


def unpacked(header: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    """Return the fields of statistics from what `packed` made of them; refuse values that no sums can have."""

    def part(kind: type, prefix: str, shape: list[int]) -> Any:
        names = [field.name for field in dataclasses.fields(kind) if field.name != "shape"]
        return kind(**{name: arrays[prefix + name] for name in names}, shape=tuple(shape))

    header = {"supports" if name == "terms" else name: value for name, value in header.items()}  # until 0.13
    surfaces = ("surface", "backgrounds", "unreduced")
    names = {field.name for field in dataclasses.fields(NormalEquations)}.difference(surfaces)
    fields = {name: value for name, value in header.items() if name in names}
    total = fields["target_sum"]
    if isinstance(total, list):
        total = fields["target_sum"] = complex(*total)
    if isinstance(total, bool | str) or not np.isfinite(total):
        raise ValueError(f"got target_sum={total!r:.60}, need a finite number")
    require_fields(NormalEquations, fields, finite=True)
    fields["supports"] = tuple(kernel_shape(list(shape), len(shape)) for shape in header["supports"])
    fields["convention"] = convention_from(header["convention"])
    fields |= {name: arrays[name] for name in _ARRAYS if name in arrays}
    if header.get("surface") is not None:
        fields["surface"] = part(SurfaceSums, "surface_", header["surface"])
    shapes = header.get("backgrounds", ())
    fields["backgrounds"] = tuple(part(EliminatedSurface, f"background{i}_", s) for i, s in enumerate(shapes))
    if header.get("unreduced") is not None:
        fields["unreduced"] = (float(header["unreduced"][0]), float(header["unreduced"][1]))
    gram = fields["gram"]
    if not all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("sums that are not finite")
    scale = float(np.abs(np.diagonal(gram)).max(initial=0))
    rows = (slice(i, i + 256) for i in range(0, len(gram), 256))
    if np.diagonal(gram).min(initial=0) < -1e-9 * scale or any(
        np.abs(gram[part] - gram[:, part].T).max() > 1e-9 * scale for part in rows
    ):
        raise ValueError("a Gram matrix that is not symmetric, or negative on its diagonal")
    for moment, energy in (("moment", "target_energy"), ("center_moment", "center_energy")):
        largest = np.abs(fields[moment]).max(initial=0.0) if fields.get(moment) is not None else 0.0
        if not largest <= 10 * (scale + abs(fields.get(energy, 0.0))):  # |a.y| <= (a.a + y.y) / 2, but for rounding
            raise ValueError("a moment that no image and target of such energies have")
    return fields
