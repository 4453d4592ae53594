"""Summed spectra: what division by frequency needs to know of a pair, and nothing more; no pixel is seen here."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .geometry import Convention, Shape, as_pair, convention_from, kernel_shape
from .validation import Array, require_fields

Complex = npt.NDArray[np.complex128]
_ARRAYS = ("image_power", "target_power", "cross", "overlap")
_SUMS = (*_ARRAYS, "n_blocks", "weight_square", "n_pixels", "target_energy", "target_sum")


@dataclass(frozen=True, eq=False)
class CrossSpectra:
    """Sums over blocks of a pair's spectra, from which kernels are divided; those of several pairs add with ``+``.

    With X and Y the transforms of a block of the image and of the block of the target that lies `shift` pixels
    before it in the extended image, both tapered alike, and scaled so that white noise of variance s^2 has power s^2:
    sums over blocks, frequencies laid out as by `scipy.fft.rfft2`.

    Parameters
    ----------
    image_power : ndarray, shape (rows, cols // 2 + 1)
        Sum of ``|X|^2``.
    target_power : ndarray, of the same shape
        Sum of ``|Y|^2``.
    cross : ndarray of complex128, of the same shape
        Sum of ``conj(X) Y``.
    block : (int, int)
        Rows and columns of a transform.
    n_blocks : float
        Number of blocks; a smaller image in a block counts for its share.
    weight_square : float
        Sum over target pixels of the square of the weight with which each was counted; tapers and overlaps make
        it larger than the sum of the weights, ``n_blocks * rows * cols``, and the noise of the kernel with it.
    overlap : ndarray, shape (kernel_rows, kernel_cols)
        Sum over blocks of ``sum_t w(t) w(t + d) / sum_t w(t)^2`` with the tapers w, for lags d of 0, 1, ... rows and
        columns: the share of a block's pixels that still meet another when one of the pair is moved by d.
    n_pixels : int
        Number of target pixels used.
    target_energy, target_sum : float
        Sum of squares and sum of the target's pixels.
    shape : (int, int)
        Rows and columns of the kernel.
    shift : (int, int)
        Which tap of the valid problem lies at lag zero.
    periodic : bool
        Whether each block is one period of periodic data, so that division is exact.
    convention : Convention
        How the kernel lies on the image.
    order : ndarray of int, shape (sources, rows, cols), optional
        Of several sources, which may be the phases that a stride makes of an image: which of their taps, one source
        after the other, each tap of the user's kernels is. Then `shape` is that of the taps on each source,
        `image_power` the sum of ``conj(X_a) X_b``, complex, of shape (sources, sources, rows, cols // 2 + 1), and
        `cross` has an axis of the sources first.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> pairs = [(image, np.roll(image, 1, axis=1)) for image in rng.random((2, 32, 40))]
    >>> first, second = (kernelfit.accumulate_spectra(*pair, 3, boundary="wrap") for pair in pairs)
    >>> both = first + second
    >>> np.round(both.solve().kernel, 9) + 0.0
    array([[0., 0., 0.],
           [0., 0., 1.],
           [0., 0., 0.]])
    """

    image_power: Array
    target_power: Array
    cross: Complex
    block: Shape
    n_blocks: float
    weight_square: float
    overlap: Array
    n_pixels: int
    target_energy: float
    target_sum: float
    shape: Shape
    shift: Shape
    periodic: bool
    convention: Convention
    order: npt.NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        """Check the shapes, and make the arrays read-only."""
        shape = (self.block[0], self.block[1] // 2 + 1)
        for name in _ARRAYS:
            value, need = getattr(self, name), self.shape if name == "overlap" else shape
            several = self.order is not None and name in ("image_power", "cross")
            if value.shape[-2 if several else 0 :] != need:
                raise ValueError(f"got {name} of shape {value.shape}, need {need} for blocks of {self.block}")
            value.setflags(write=False)

    @property
    def tap_shape(self) -> tuple[int, ...]:
        """Shape of the unknown taps, after the number of sources where there are several."""
        return self.shape if self.order is None else self.order.shape

    def scaled(self, share: float) -> "CrossSpectra":
        """Return the spectra as if each pixel counted for a share."""
        names = ("image_power", "target_power", "cross", "overlap", "n_blocks")
        sums = {name: getattr(self, name) * share for name in names}
        return dataclasses.replace(self, **sums, weight_square=self.weight_square * share**2)

    def __radd__(self, other: object) -> Self:
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __add__(self, other: "CrossSpectra") -> "CrossSpectra":
        if not isinstance(other, CrossSpectra):
            return NotImplemented
        for name in ("block", "shape", "shift"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"got spectra that differ in their {name}, {mine} and {theirs}; only those of the same kernel "
                    "shape, origin and block add up: accumulate both with the same block=(rows, cols)"
                )
        if self.convention.operation != other.convention.operation:
            raise ValueError(
                f"got spectra for {self.convention.operation} and for {other.convention.operation}; "
                "only those of one operation add up"
            )
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return dataclasses.replace(self, **sums, periodic=self.periodic and other.periodic)


def packed_spectra(spectra: CrossSpectra) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return spectra as a header of plain values, and the arrays."""
    header = {f.name: getattr(spectra, f.name) for f in dataclasses.fields(spectra) if f.name not in _ARRAYS}
    header["convention"] = spectra.convention.stored()
    return header, {name: getattr(spectra, name) for name in _ARRAYS}


def unpacked_spectra(header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Return the fields of spectra from what `packed_spectra` made of them; refuse values that no spectra can have."""
    require_fields(CrossSpectra, header, finite=True)
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise ValueError(f"spectra without {', '.join(missing)}, accumulate them anew with this version")
    pairs = {name: as_pair(list(header[name]), name) for name in ("block", "shape", "shift")}
    convention = convention_from(header["convention"])
    kernel_shape(pairs["shape"])
    for name in _ARRAYS:
        kind = "c" if name == "cross" else "f"
        if arrays[name].dtype.kind != kind or not np.isfinite(arrays[name]).all():
            raise ValueError("spectra that are not finite")
        if name.endswith("power") and arrays[name].min(initial=0) < 0:
            raise ValueError("powers that are negative")
    return {**header, **pairs, "convention": convention, **{name: arrays[name] for name in _ARRAYS}}
