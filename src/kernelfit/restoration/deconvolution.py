"""Division with the roles swapped: a kernel and what it made of an image give the image back."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import one_blas_thread
from ..core import geometry, validation
from ..core.dimensions import of_any_dimension
from ..core.geometry import Shape
from ..core.model import Model
from ..core.validation import Array, as_workers
from ..data import masking
from ..data.observation import NUMBERS, as_array, as_image
from ..data.volumes import as_volume
from ..engines.welch import tukey
from ..solvers.spectral_band import PENALTIES, ROUNDING, penalty_root
from ..solvers.wiener import as_balance
from . import inpainting
from .array_division import CLASSES, ArrayDivision, parts_of

BOUNDARIES = (None, "wrap")
EDGES = ("auto", "fade", "solve")
_LINES = 64  # columns of frequencies, at least, that cross-validation looks at
_ROUNDS = 4
_TAPER = 0.25
#: Share g of robust cross-validation, and how many times the plain balance it may be where the noise is white.
_ROBUST, _WHITE = 0.1, 30.0


@of_any_dimension
@one_blas_thread
def deconvolve(
    target: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    balance: float | str = "auto",
    boundary: str | None = None,
    penalty: str = "laplacian",
    edges: str = "auto",
    mask: "npt.ArrayLike | None" = None,
    nan: str = "error",
    origin: int | Shape | None = None,
    operation: str = "convolution",
    workers: int | None = None,
) -> npt.NDArray[Any]:
    """Restore an image from what a known kernel made of it.

    With Y and K the transforms of target and kernel, the result is the inverse transform of
    ``conj(K) Y / (|K|^2 + balance * m * q)``, m the mean of ``|K|^2`` over all frequencies and q the penalty's power
    spectrum, of mean one: the image x that makes ``|y - k * x|^2 + balance * m * |Q x|^2`` smallest.

    Parameters
    ----------
    target : array_like, shape (rows, cols), or (planes, rows, cols)
        The blurred image, of any dtype of real or complex numbers; never changed.
    kernel : array_like, shape (rows, cols), or (planes, rows, cols) for a volume
        The kernel that made it, in mode "same"; odd or even, real or complex.
    balance : float or "auto", optional
        How much the penalty counts against the data, without dimension, relative to m. The default "auto" takes that
        of the least generalised cross-validation: the best prediction of pixels left out. Where the noise is seen not
        to be white, as after JPEG, it is that of robust cross-validation. Noise as smooth as the image, as after
        resampling, cannot be told from detail: give a number.
    boundary : {None, "wrap"}, optional
        What lay beyond the edge when the target was made. The default None knows nothing; "wrap" is exact for periodic
        images.
    penalty : {"laplacian", "identity"}, optional
        What is held small: the image's second derivatives (default) or its values.
    edges : {"auto", "fade", "solve"}, optional
        What an unknown boundary is replaced by. "fade" continues the target beyond its edges by its mirror image, each
        edge fading into the opposite one. That is quick, and enough where the blur is narrow or the noise is not low;
        elsewhere the whole image rings. "solve" takes the pixels beyond the edges as missing ones (see `mask`), which
        takes 10 to 35 times as long, and up to 150 times where the noise is low. The default "auto" fades, looks
        whether the frame of the result is rough or its contrast too high, and if so solves; not under the penalty
        "identity", which pulls to zero what nobody saw.
    mask : array_like of bool, optional
        True where a target pixel is excluded, such as a dead one, of the target's shape or what broadcasts to it. The
        image is restored from the others, there too. Masked arrays bring their own.
    nan : {"error", "mask"}, optional
        What to do with target pixels that are NaN or infinite and not masked: refuse them (default), or mask them.
    origin : int or (int, int), optional
        The tap that multiplied the pixel under the output pixel. The default is SciPy signal's centre,
        ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel was laid on the image flipped (default) or as it is.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    ndarray, of the target's shape
        The restored image: float32 for a float32 target, else float64; complex64 or complex128 if either is complex.

    Raises
    ------
    TypeError
        If a dtype is not one of numbers, or a keyword is of the wrong type.
    ValueError
        If an array is empty, has not two or three dimensions or is not finite, the kernel is zero everywhere, pixels
        are missing and the balance is zero, or a keyword's value is unknown.

    Warns
    -----
    UserWarning
        If a column or row, or some beside each other but fewer than the kernel has, are constant and not masked.

    Notes
    -----
    With missing pixels the sum of ``|y - k * x|^2`` is over the others alone. Its minimum is the plain division of a
    target that has in their place what its own restoration, blurred again, shows there. Those values are found by
    conjugate gradients, until their residual is 3 % of the others', or for 200 iterations of two transforms each.

    The Laplacian as penalty: B. R. Hunt, "The application of constrained least squares estimation to image restoration
    by digital computer", IEEE Trans. Comput. 22 (1973) 805, doi:10.1109/TC.1973.5009169. Cross-validation:
    G. H. Golub, M. Heath, G. Wahba, Technometrics 21 (1979) 215, doi:10.1080/00401706.1979.10489751.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((40, 50))
    >>> kernel = np.array([[0.1, 0.8], [0.1, 0.2]])
    >>> target = kernelfit.apply_kernel(image, kernel, boundary="wrap")
    >>> restored = kernelfit.deconvolve(target, kernel, balance=0, boundary="wrap")
    >>> bool(np.allclose(restored, image))
    True
    """
    bare, masked = masking.unmasked(target)
    deep = len(as_array(kernel, "kernel", NUMBERS).shape) == 3
    blurred, taps = (_judged(value, name, deep=deep) for value, name in ((bare, "target"), (kernel, "kernel")))
    given = as_balance(balance)
    validation.known(boundary, BOUNDARIES, "boundary")
    validation.known(penalty, PENALTIES, "penalty")
    validation.known(edges, EDGES, "edges")
    validation.known(nan, ("error", "mask"), "nan")
    conv = Model(tuple(taps.shape), boundary=boundary, origin=origin, operation=operation).convention("same")
    threads = as_workers(workers)
    number = "c" if "c" in (np.dtype(blurred.dtype).kind, np.dtype(taps.dtype).kind) else "f"
    single, double = np.dtype(f"{number}{4 + 4 * (number == 'c')}"), np.dtype(f"{number}{8 + 8 * (number == 'c')}")
    dtype = single if np.dtype(blurred.dtype) in (np.float32, np.float16, np.complex64) else double
    y, k = np.require(blurred, dtype, ("C", "W")), np.asarray(taps, dtype=double)
    if mask is None and masked is None and nan == "error":
        unseen = None
    else:
        unseen = inpainting.excluded(y, mask, masked, nan)
    if unseen is not None:
        y = inpainting.nearest(y, unseen)
    for name, values in (("target", y), ("kernel", k)):
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values)
            place = ", ".join(map(str, np.argwhere(bad)[0]))
            cure = "exclude them with nan='mask'" if name == "target" else "fill them"
            raise ValueError(
                f"got {name} with {int(bad.sum())} NaN or infinite values, the first at ({'plane, ' * deep}row, "
                f"column) ({place}); need finite ones: {cure}, or crop to a part without them"
            )
        largest, limit = float(np.abs(values).max(initial=0)), float(np.finfo(values.dtype).max) ** 0.5 / 1e4
        if largest > limit:
            raise ValueError(
                f"got {name} with values up to {largest:.3g}, whose squares overflow; need less than {limit:.1g}: "
                "divide it by a constant"
            )
        least = float(np.finfo(values.dtype).tiny) ** 0.5 * 1e4
        if 0 < largest < least:
            raise ValueError(
                f"got {name} with values up to {largest:.3g}, whose squares underflow; need more than {least:.1g}: "
                "multiply it by a constant"
            )
    if not k.any():
        raise ValueError(
            "got a kernel that is zero everywhere, from which nothing can be restored; need one with a tap that is not"
        )
    if given == 0 and unseen is not None:
        msg = "got balance=0 with pixels that are missing, which any values would suit; need more than 0, or 'auto'"
        raise ValueError(msg)
    side = k.shape
    reach = tuple(max(n - 1, o) - min(0, o) + 1 for n, o in zip(side, conv.origin, strict=True))
    if any(n > k + m for n, k, m in zip(reach, side, y.shape, strict=True)):
        raise ValueError(
            f"got origin={origin!r}, need one nearer to the {'x'.join(map(str, side))} kernel than the target's sides"
        )
    divide_by: Any = _Division.of if number == "f" and not deep else _array_division
    size = y.shape if boundary == "wrap" else _period(y.shape, reach)
    solve = boundary is None and edges == "solve" and given != 0
    if unseen is None:
        if not solve:
            with divide_by(k, conv, size, penalty, dtype, threads) as division:
                division.transform(y if boundary == "wrap" else _continued(y, size))
                restored: npt.NDArray[Any] = division.divided(division.balance() if given is None else given, y.shape)
        for part in () if deep else parts_of(y):
            inpainting.warn_of_dead_lines(part, side)
        # under "identity" pixels that nobody saw are pulled to zero, which is worse than what fades
        fades = boundary == "wrap" or edges == "fade" or penalty == "identity" or given == 0
        if not solve and (fades or not _rings(restored, y, k)):
            return restored
    if boundary is None:
        size = _period(y.shape, reach, room=2, unit=16)
    with divide_by(k, conv, size, penalty, double, threads) as division:
        image = _solved(y.astype(double), unseen, division, given, periodic=boundary == "wrap")
    return np.asarray(image, dtype=dtype)


def _judged(value: object, name: str, *, deep: bool) -> npt.NDArray[Any]:
    """Return an image, or a volume, or say why it is none."""
    return np.asarray(np.stack(as_volume(value, name)) if deep else as_image(value, name, NUMBERS, alone=True))


def _rings(restored: npt.NDArray[Any], y: npt.NDArray[Any], k: npt.NDArray[Any]) -> bool:
    """Say whether edges spoil a restored image, or a part of it that is more than rounding."""
    least, gain = 1e-6 * float(np.abs(y).max()), float(np.abs(k).sum())
    both = zip(parts_of(restored), parts_of(y), strict=True)
    return any(inpainting.rings(one, own, k.shape, gain) for one, own in both if float(np.abs(own).max()) > least)


def _solved(
    y: npt.NDArray[Any],
    unseen: npt.NDArray[np.bool_] | None,
    division: "_Division | ArrayDivision",
    given: float | None,
    *,
    periodic: bool,
) -> npt.NDArray[Any]:
    """Return the restored image, missing pixels and those beyond the edges found with it."""
    # Without a balance it is first chosen from the target with tapered edges, then from what was filled by that.
    own = tuple(map(slice, y.shape))
    image, unknown = np.empty(division.size, dtype=y.dtype), np.zeros(division.size, dtype=bool)
    if periodic:
        image[...] = y
    else:
        continued = _continued(y, division.size)
        image[...] = continued.whole() if isinstance(continued, _Continued) else continued
        unknown[...] = True
        unknown[own] = False
    if unseen is not None:
        unknown[own] |= unseen
    balance = given
    if balance is None:
        tapered = image.copy()
        if not periodic:
            tapered[...] = 0.0
            windows = [tukey(n, _TAPER) for n in y.shape]
            tapered[own] = (y - y.mean()) * functools.reduce(np.multiply.outer, windows)
        division.transform(tapered)
        balance = division.balance()
    for _ in range(_ROUNDS):
        inpainting.fill(image, unknown, division.rest_of(balance))
        division.transform(image)
        if given is not None or not division.smooths:
            break
        before, balance = balance, division.balance()
        if 0.8 < balance / before < 1.25:
            break
    return division.divided(balance, y.shape)


def _continued(image: npt.NDArray[Any], size: tuple[int, ...]) -> "npt.NDArray[Any] | _Continued":
    """Return an image or a volume with what lies beyond its edges, an image row by row."""
    if image.ndim == 2:
        return _Continued(image, size)
    for axis, n in enumerate(image.shape):
        after, before, fade = _bridge(n, size[axis] - n)
        share = fade.astype(image.dtype).reshape(-1, *[1] * (image.ndim - 1 - axis))
        last = image.take(after, axis)
        image = np.concatenate([image, last + share * (image.take(before, axis) - last)], axis)
    return image


class _Continued:
    """An image and what lies beyond its edges: its mirror image, each edge fading into the opposite one."""

    def __init__(self, image: npt.NDArray[Any], size: tuple[int, ...]) -> None:
        self.image, self.size, (n, m) = image, size, image.shape
        after, before, fade = _bridge(n, size[0] - n)
        last = image[after]
        self.below = last + fade.astype(image.dtype)[:, None] * (image[before] - last)
        self.across = _bridge(m, size[1] - m)

    def whole(self) -> npt.NDArray[Any]:
        """Return all rows."""
        out = np.empty(self.size, dtype=self.image.dtype)
        self(0, out)
        return out

    def __call__(self, first: int, out: npt.NDArray[Any]) -> None:
        """Give the rows from some row on."""
        from ..compiled import spectra

        n, m = self.image.shape
        own = self.image[first : first + len(out)]
        out[: len(own), :m] = own
        out[len(own) :, :m] = self.below[max(0, first - n) :][: len(out) - len(own)]
        parts = parts_of(out)
        for part in parts:
            spectra.bridge(part, *self.across)
        if len(parts) == 2:
            out.real, out.imag = parts


@functools.lru_cache(maxsize=8)
def _bridge(n: int, gap: int) -> tuple[npt.NDArray[Any], ...]:
    """Return, for the places between the end of n pixels and their start: two mirrored pixels, the second's share."""
    i = np.arange(gap)
    fold = np.concatenate([np.arange(n), np.arange(n)[::-1]])
    return fold[(n + i) % (2 * n)], fold[(i - gap) % (2 * n)], 0.5 - 0.5 * np.cos(np.pi * (i + 0.5) / max(gap, 1))


@contextlib.contextmanager
def _array_division(
    kernel: npt.NDArray[Any],
    conv: geometry.Convention,
    size: tuple[int, ...],
    penalty: str,
    dtype: npt.DTypeLike,
    threads: int,
) -> Iterator[ArrayDivision]:
    """Lend a division of a volume, by a complex kernel, or of a complex image."""
    yield ArrayDivision(kernel, conv, size, penalty, dtype, threads, _validated)


class _Division:
    """The division by a kernel, of images of one size, with the transforms that it needs."""

    def __init__(
        self, kernel: Array, conv: geometry.Convention, size: Shape, penalty: str, threads: int, plane: Any
    ) -> None:
        self.smooths = penalty != "identity"  # else filled pixels tend to zero, and tell nothing of the balance
        self.size, self.plane, self.flipped = size, plane, conv.operation == "convolution"
        self.threads = 1 if plane.small else threads
        self.spectrum = plane.spectrum
        self.down, self.across, turns = _tables(size, penalty)
        self.scale, plus, minus = _transform(kernel, conv.origin, size)
        self.kernel = plus, minus, turns

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, kernel: Array, conv: geometry.Convention, size: Shape, penalty: str, dtype: npt.DTypeLike, threads: int
    ) -> "Iterator[_Division]":
        """Lend a division that nobody else uses."""
        from ..compiled import fft

        plane = fft.borrow_plane(*size, dtype)
        yield cls(kernel, conv, size, penalty, threads, plane)
        fft.give_back(plane)

    def transform(self, image: "npt.NDArray[Any] | _Continued") -> None:
        """Transform an image."""

        def load(first: int, out: npt.NDArray[Any]) -> None:
            if isinstance(image, _Continued):
                image(first, out)
            else:
                out[...] = image[first : first + len(out)]

        self.plane.forward(load, self.threads)

    def balance(self) -> float:
        """Choose the balance for the image that was transformed."""
        from ..compiled import spectra

        sums, counts = np.zeros(CLASSES), np.zeros(CLASSES)
        step, even = max(1, len(self.across) // _LINES), self.size[1] % 2 == 0
        spectra.classes(self.spectrum, *self.kernel, self.across, self.down, self.scale, step, even, sums, counts)
        return _validated(sums, counts)

    def divided(self, balance: float, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return the first rows and columns of the restored image; uses up the spectrum."""
        from ..compiled import spectra

        strength, least, factor = balance * self.scale, ROUNDING * self.scale, 1.0 / math.prod(self.size)

        def divide(part: slice) -> None:
            spectra.divide_spectrum(
                self.spectrum[part], part.start, *self.kernel, self.across, self.down, strength, least, factor,
                self.flipped,
            )  # fmt: skip

        return self._image(divide, shape)

    def rest_of(self, balance: float) -> Callable[[Array], Array]:
        """Return what gives the part of an image that the division by a balance does not pass."""
        from ..compiled import spectra

        held = np.empty((len(self.across), len(self.down)))
        strength, least, factor = balance * self.scale, ROUNDING * self.scale, 1.0 / math.prod(self.size)
        spectra.not_passed(*self.kernel, self.across, self.down, strength, least, factor, held)

        def hold(part: slice) -> None:
            self.spectrum[part, : held.shape[1]] *= held[part]

        def rest(image: Array) -> Array:
            self.transform(image)
            return self._image(hold, self.size)

        return rest

    def _image(self, change: Callable[[slice], None], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        out = np.empty(shape, dtype=self.plane.dtype)

        def store(first: int, rows: npt.NDArray[Any]) -> None:
            out[first : first + len(rows)] = rows[:, : shape[1]]

        self.plane.backward(change, store, shape[0], self.threads)
        return out


@functools.lru_cache(maxsize=8)
def _tables(size: Shape, penalty: str) -> tuple[Array, ...]:
    """Return the two parts of the penalty's root, and the cosines and sines of a turn of as many steps as columns."""
    turns = np.arange(size[1]) * (2 * np.pi / size[1])
    down, across = penalty_root(scipy.fft.fftfreq(size[0]), np.arange(size[1] // 2 + 1) / size[1], penalty)
    return down, across, np.array([np.cos(turns), np.sin(turns)])


def _transform(kernel: Array, origin: Shape, size: Shape) -> tuple[float, Array, Array]:
    """Return the mean square of a kernel's transform, its origin at lag zero, and its columns' sums and differences."""
    (n, m), (height, width) = size, kernel.shape
    reach = max(origin[1], width - 1 - origin[1])
    placed = np.zeros((2 * reach + 1, n))
    columns = placed[reach - origin[1] :][:width]
    np.add.at(columns, np.ix_(np.arange(width), (np.arange(height) - origin[0]) % n), kernel.T)  # may meet itself
    lines = scipy.fft.rfft(placed, axis=1)
    plus, minus = np.zeros((2, -(-(reach + 1) // 3) * 3, 2 * lines.shape[1]))
    for part, half in ((lines.real, np.s_[: lines.shape[1]]), (lines.imag, np.s_[lines.shape[1] :])):
        ahead, behind = part[reach:], part[reach::-1]
        np.add(ahead, behind, out=plus[: reach + 1, half])
        np.subtract(ahead, behind, out=minus[: reach + 1, half])
    plus[0] *= 0.5
    if width > m:
        columns = np.array([columns[i::m].sum(axis=0) for i in range(m)])
    return float(np.sum(columns**2)), plus, minus


def _period(image: tuple[int, ...], kernel: tuple[int, ...], room: float = 2.5, unit: int = 64) -> Any:
    """Return the sides of a period that leaves some kernels' room beyond the image."""
    # One is needed; with no more the fading is so steep that the edges ring, which costs 1 to 2 dB where the kernel is
    # wide. Pixels to be solved for need no fading, and the fewer they are, the better. Columns of a multiple of 16 and
    # rows of one of 64 pixels: 528 by 576 take seven tenths of the time of 540 by 540.
    units = (16, unit) if len(image) == 2 else (1,) * len(image)
    sides = zip(image, kernel, units, strict=True)
    return tuple(n * scipy.fft.next_fast_len(math.ceil((a + room * b) / n), real=False) for a, b, n in sides)


def _validated(sums: Array, counts: Array) -> float:
    """Return the balance of least generalised cross-validation, ``mean((1 - passed)^2 |Y|^2) / mean(1 - passed)^2``."""
    # What is passed, ``u / (u + balance)``, depends on ``u = |K|^2 / (m q)`` alone, so that sums over classes of u
    # serve. Where the noise is not white, as after JPEG, that may fall towards no balance at all. So it is held against
    # robust cross-validation, the same times ``g + (1 - g) mean(passed^2)`` (M. Lukas, Inverse Problems 22 (2006) 1883,
    # section 2, doi:10.1088/0266-5611/22/5/021), which comes to up to 25 times the balance for white noise and to
    # thousands of times for such.
    from ..compiled import spectra

    if not sums.sum() > 0:
        return 1.0
    some = np.flatnonzero(counts)
    u = 2.0 ** (some // 4 - 67.0) * (1 + (some % 4 + 0.5) / 4)
    plain, robust = (spectra.least_validated(u, sums[some], counts[some], share) for share in (1.0, _ROBUST))
    return float(robust if robust > _WHITE * plain else plain)
