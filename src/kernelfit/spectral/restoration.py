"""Division with the roles swapped: a kernel and what it made of an image give the image back."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from .. import geometry, pair
from ..exact.threads import in_order
from ..geometry import Shape
from ..weights import masks
from . import missing
from .band import PENALTIES, ROUNDING, penalty_root
from .blocks import tukey
from .wiener import as_balance

BOUNDARIES = (None, "wrap")
EDGES = ("auto", "fade", "solve")
_CLASSES = 400  # of frequencies, four to an octave from 2^-67 on
_CHUNK = 32
_SMALL = 2**20  # pixels up to which threads cost more than they bring
_FEW = 16  # rows of a kernel up to which its transform along columns is made by sums
_ROWS = 128  # rows of frequencies, at least, that cross-validation looks at
_ROUNDS = 4
_TAPER = 0.25
#: Share g of robust cross-validation, and how many times the plain balance it may be where the noise is white.
_ROBUST, _WHITE = 0.1, 30.0


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
    target : array_like, shape (rows, cols)
        The blurred image, of any real dtype; never changed.
    kernel : array_like, shape (rows, cols)
        The kernel that made it, in mode "same"; odd or even.
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
        takes 5 to 20 times as long, and up to 150 times where the noise is low. The default "auto" fades, looks whether
        the frame of the result is rough or its contrast too high, and if so solves; not under the penalty "identity",
        which pulls to zero what nobody saw.
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
        The restored image: float32 for a float32 target, else float64.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type.
    ValueError
        If an array is empty, not 2-D or not finite, the kernel is zero everywhere, pixels are missing and the balance
        is zero, or a keyword's value is unknown.

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
    bare, masked = masks.unmasked(target)
    blurred, taps = pair.as_image(bare, "target"), pair.as_image(kernel, "kernel")
    given = as_balance(balance)
    geometry.known(boundary, BOUNDARIES, "boundary")
    geometry.known(penalty, PENALTIES, "penalty")
    geometry.known(edges, EDGES, "edges")
    conv = geometry.convention(
        tuple(taps.shape), mode="same", boundary=boundary, fillvalue=0.0, origin=origin, operation=operation
    )
    threads = pair.as_workers(workers)
    dtype = np.float32 if np.dtype(blurred.dtype) in (np.float32, np.float16) else np.float64
    y, k = np.asarray(blurred, dtype=dtype), np.asarray(taps, dtype=np.float64)
    if mask is None and masked is None and nan == "error":
        unseen = None
    else:
        unseen = missing.excluded(y, mask, masked, nan)
    if unseen is not None:
        y = missing.nearest(y, unseen)
    for name, values in (("target", y), ("kernel", k)):
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values)
            row, col = np.argwhere(bad)[0]
            cure = "exclude them with nan='mask'" if name == "target" else "fill them"
            msg = (
                f"got {name} with {int(bad.sum())} NaN or infinite values, the first at (row, column) "
                f"({row}, {col}); need finite ones: {cure}, or crop to a part without them"
            )
            raise ValueError(msg)
    if not k.any():
        msg = (
            "got a kernel that is zero everywhere, from which nothing can be restored; need one with a tap that is not"
        )
        raise ValueError(msg)
    if given == 0 and unseen is not None:
        msg = "got balance=0 with pixels that are missing, which any values would suit; need more than 0, or 'auto'"
        raise ValueError(msg)
    side = (k.shape[0], k.shape[1])
    if unseen is None:
        missing.warn_of_dead_lines(y, side)
    size = (y.shape[0], y.shape[1]) if boundary == "wrap" else _period(y.shape, k.shape)
    if size[0] * size[1] <= _SMALL:
        threads = 1
    solve = boundary is None and edges == "solve" and given != 0
    if unseen is None and not solve:
        # The continued target, the kernel's transform and the result one after the other in one place: on images that
        # the cache holds, getting memory costs as much as a transform. It is as large as all that is needed, so that
        # glibc keeps memory between calls.
        place = np.empty((3, size[0], size[1] // 2 + 1), dtype=np.complex128)[0]
        spectrum = _forward(y if boundary == "wrap" else _continued(y, _within(place, size, dtype)), threads)
        division = _Division(k, conv, size, penalty, place, threads)
        division.divide(spectrum, division.balance(spectrum) if given is None else given)
        found = _backward(spectrum, size[1], y.shape[0], threads)
        restored = found
        if size[1] != y.shape[1]:
            restored = _within(place, y.shape, dtype) if dtype == np.float64 else np.empty(y.shape, dtype=dtype)
            restored[...] = found[:, : y.shape[1]]
        # under "identity" pixels that nobody saw are pulled to zero, which is worse than what fades
        fades = edges == "fade" or penalty == "identity"
        if boundary == "wrap" or fades or given == 0 or not missing.rings(restored, y, side):
            return restored
    place = np.empty((size[0], size[1] // 2 + 1), dtype=np.complex128)
    division = _Division(k, conv, size, penalty, place, threads)
    image = _solved(y.astype(np.float64), unseen, division, given, periodic=boundary == "wrap")
    return np.ascontiguousarray(image[:, : y.shape[1]], dtype=dtype)


def _solved(
    y: npt.NDArray[np.float64],
    unseen: npt.NDArray[np.bool_] | None,
    division: "_Division",
    given: float | None,
    *,
    periodic: bool,
) -> npt.NDArray[np.float64]:
    """Return the restored rows, of which missing pixels, and those beyond the edges, are found together with it.

    Without a balance it is first chosen from the target with tapered edges, then from what was filled by that.
    """
    n, m = y.shape
    image, unknown = np.empty(division.size), np.zeros(division.size, dtype=bool)
    if periodic:
        image[...] = y
    else:
        _continued(y, image)
        unknown[...] = True
        unknown[:n, :m] = False
    if unseen is not None:
        unknown[:n, :m] |= unseen
    balance = given
    if balance is None:
        tapered = image.copy()
        if not periodic:
            tapered[...] = 0.0
            tapered[:n, :m] = (y - y.mean()) * tukey(n, _TAPER)[:, None] * tukey(m, _TAPER)
        balance = division.balance(_forward(tapered, division.threads))
    for _ in range(_ROUNDS):
        missing.fill(image, unknown, division.rest_of(balance))
        spectrum = _forward(image, division.threads)
        if given is not None or not division.smooths:
            break
        before, balance = balance, division.balance(spectrum)
        if 0.5 < balance / before < 2:
            break
    division.divide(spectrum, balance)
    return _backward(spectrum, division.size[1], n, division.threads)


class _Division:
    """What the division by a kernel needs of it, for images of one size."""

    def __init__(
        self,
        kernel: npt.NDArray[np.float64],
        conv: geometry.Convention,
        size: Shape,
        penalty: str,
        place: npt.NDArray[np.complex128],
        threads: int,
    ) -> None:
        self.smooths = penalty != "identity"  # else filled pixels tend to zero, and tell nothing of the balance
        self.size, self.threads, self.flipped = size, threads, conv.operation == "convolution"
        self.transfer, self.scale = _transform(kernel, conv.origin, size[1], place, threads)
        self.down, self.across = penalty_root(
            scipy.fft.fftfreq(size[0]), np.arange(size[1] // 2 + 1) / size[1], penalty
        )

    def balance(self, spectrum: npt.NDArray[np.complexfloating]) -> float:
        """Choose the balance for an image of this spectrum."""
        from ..exact import _loops

        sums, counts = np.zeros(_CLASSES), np.zeros(_CLASSES)
        step, even = max(1, self.size[0] // _ROWS), self.size[1] % 2 == 0
        _loops.classes(spectrum, self.transfer, self.down, self.across, self.scale, step, even, sums, counts)
        return _validated(sums, counts)

    def divide(self, spectrum: npt.NDArray[np.complexfloating], balance: float) -> None:
        """Divide a spectrum, in place."""
        from ..exact import _loops

        strength, least = balance * self.scale, ROUNDING * self.scale

        def some(first: int) -> None:
            part = slice(first, first + _CHUNK)
            _loops.divide_spectrum(
                spectrum[part], self.transfer[part], self.down[part], self.across, strength, least, self.flipped
            )

        for _ in in_order(range(0, self.size[0], _CHUNK), some, self.threads):
            pass

    def rest_of(self, balance: float) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
        """Return what gives the part of an image that the division by a balance does not pass."""
        power = np.square(self.transfer.real) + np.square(self.transfer.imag)
        held = balance * self.scale * np.square(self.down[:, None] + self.across)
        power += held
        np.divide(held, power, out=held, where=power > ROUNDING * self.scale)
        held[power <= ROUNDING * self.scale] = 1.0

        def rest(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            spectrum = _forward(image, self.threads)
            spectrum *= held
            return _backward(spectrum, self.size[1], self.size[0], self.threads)

        return rest


# Axis by axis: half the time of rfft2 and irfft2, which copy.


def _forward(image: npt.NDArray[Any], workers: int) -> npt.NDArray[Any]:
    """Transform an image."""
    lines = scipy.fft.rfft(image, axis=1, workers=workers)
    return np.asarray(scipy.fft.fft(lines, axis=0, workers=workers, overwrite_x=True))


def _backward(spectrum: npt.NDArray[Any], n_cols: int, n_rows: int, workers: int) -> npt.NDArray[Any]:
    """Return the first rows of an image from its spectrum, which is used up; only they are transformed along rows."""
    lines = scipy.fft.ifft(spectrum, axis=0, workers=workers, overwrite_x=True)[:n_rows]
    return np.asarray(scipy.fft.irfft(lines, n=n_cols, axis=1, workers=workers))


def _within(place: npt.NDArray[np.complex128], shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array in the memory of another."""
    return np.asarray(place.reshape(-1).view(dtype)[: math.prod(shape)].reshape(shape))


def _transform(
    kernel: npt.NDArray[np.float64], origin: Shape, n_cols: int, out: npt.NDArray[np.complex128], workers: int
) -> tuple[npt.NDArray[np.complex128], float]:
    """Return the transform of a kernel whose origin lies at lag zero, and the mean of its square over all frequencies.

    By transforms of the few rows, then of all columns: by sums for few rows, not by a product of matrices, which would
    leave BLAS's threads spinning; by transforms for more.
    """
    size = (len(out), n_cols)
    rows, cols = (np.arange(k) - o for k, o in zip(kernel.shape, origin, strict=True))
    height, width = min(len(rows), size[0]), min(len(cols), size[1])
    folded = np.zeros((height, width))  # a kernel larger than the image meets itself
    np.add.at(folded, np.ix_(np.arange(len(rows)) % size[0], np.arange(len(cols)) % size[1]), kernel)
    placed = np.zeros((height, size[1]))
    placed[:, cols[:width] % size[1]] = folded
    lines, scale = scipy.fft.rfft(placed, axis=1), float(np.sum(placed**2))
    if height <= _FEW:
        from ..exact import _loops

        turns = np.outer(np.arange(size[0] // 2 + 1), rows[:height]) % size[0] * (2 * np.pi / size[0])
        _loops.transform_columns(lines.view(np.float64), np.cos(turns), np.sin(turns), out.view(np.float64))
        return out, scale
    out[...] = 0.0
    out[rows[:height] % size[0]] = lines
    return scipy.fft.fft(out, axis=0, workers=workers, overwrite_x=True), scale


def _period(image: tuple[int, ...], kernel: tuple[int, ...]) -> Shape:
    """Return the sides of a period that leaves three kernels' room beyond the image.

    One is needed; with no more the fading is so steep that the edges ring, which costs 1 to 2 dB where the
    kernel is wide.
    Multiples of four: 540 takes a third less time than 525. The transforms of rows are real, those of columns are not.
    """
    rows, cols = (
        4 * scipy.fft.next_fast_len(math.ceil((a + 3 * b) / 4), real=real)
        for a, b, real in zip(image, kernel, (False, True), strict=True)
    )
    return rows, cols


def _continued(image: npt.NDArray[Any], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Continue an image to a period of its own: beyond each edge its mirror image, fading into that of the other."""
    n, m = image.shape
    out[:n, :m] = image
    _bridge(out[:n], m)
    _bridge(out.T, n)
    return out


def _bridge(lines: npt.NDArray[Any], n: int) -> None:
    """Fill the columns from `n` on: the mirror image of what is before, fading into that of the start."""
    gap = lines.shape[1] - n
    i = np.arange(gap)
    fold = np.concatenate([np.arange(n), np.arange(n)[::-1]])
    after, before = lines[:, fold[(n + i) % (2 * n)]], lines[:, fold[(i - gap) % (2 * n)]]
    fade = (0.5 - 0.5 * np.cos(np.pi * (i + 0.5) / gap)).astype(lines.dtype)
    lines[:, n:] = after + fade * (before - after)


def _validated(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> float:
    """Return the balance of least generalised cross-validation, ``mean((1 - passed)^2 |Y|^2) / mean(1 - passed)^2``.

    What is passed, ``u / (u + balance)``, depends on ``u = |K|^2 / (m q)`` alone, so that sums over classes of u serve.
    Where the noise is not white, as after JPEG, that may fall towards no balance at all. So it is held against robust
    cross-validation, the same times ``g + (1 - g) mean(passed^2)`` (M. Lukas, Inverse Problems 22 (2006) 1883, section
    2, doi:10.1088/0266-5611/22/5/021), which comes to up to 25 times the balance for white noise and to thousands
    of times for such.
    """
    total = float(sums.sum())
    if not total > 0:
        return 1.0
    some = np.flatnonzero(counts)
    u = 2.0 ** (some // 4 - 67.0) * (1 + (some % 4 + 0.5) / 4)
    plain, robust = (_least(u, sums[some], counts[some], share) for share in (1.0, _ROBUST))
    return robust if robust > _WHITE * plain else plain


def _least(
    u: npt.NDArray[np.float64], sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], share: float
) -> float:
    """Return the balance of least (robust) cross-validation, by steps of a factor of three, then by small ones."""
    best = -6.0
    for powers in (np.arange(-16.0, 4.0, 0.5), np.arange(-0.5, 0.51, 0.125)):
        candidates = 10.0 ** (powers if len(powers) > 9 else best + powers)
        held = candidates[:, None] / (u + candidates[:, None])
        left = np.einsum("ij,ij,j->i", held, held, sums) + 1e-30 * sums.sum()
        score = left / np.einsum("ij,j->i", held, counts) ** 2
        if share < 1.0:
            passed = np.einsum("ij,ij,j->i", 1.0 - held, 1.0 - held, counts) / counts.sum()
            score *= share + (1.0 - share) * passed
        best = float(np.log10(candidates[int(np.argmin(score))]))
    return float(10.0**best)
