"""Division with the roles swapped: a kernel and what it made of an image give the image back."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from .. import geometry, pair
from ..exact.threads import in_order
from ..geometry import Shape
from .band import PENALTIES, ROUNDING, penalty_root
from .wiener import as_balance

BOUNDARIES = (None, "wrap")
_BINS = 300  # classes of frequencies, ten for each power of ten
_CHUNK = 32
_SMALL = 2**20  # pixels up to which threads cost more than they bring
_FEW = 16  # rows of a kernel up to which its transform along columns is made by sums
_ROWS = 64  # rows of frequencies, at least, that cross-validation looks at


def deconvolve(
    target: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    balance: float | str = "auto",
    boundary: str | None = None,
    penalty: str = "laplacian",
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
        of the least generalised cross-validation: the best prediction of pixels left out.
    boundary : {None, "wrap"}, optional
        What lay beyond the edge when the target was made. The default None knows nothing: the target is continued
        beyond its edges by its mirror image, each edge fading into the opposite one, so that no frame rings. "wrap" is
        exact for periodic images.
    penalty : {"laplacian", "identity"}, optional
        What is held small: the image's second derivatives (default) or its values.
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
        If an array is empty, not 2-D or not finite, the kernel is zero everywhere, or a keyword's value is unknown.

    Notes
    -----
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
    blurred, taps = pair.as_image(target, "target"), pair.as_image(kernel, "kernel")
    given = as_balance(balance)
    geometry.known(boundary, BOUNDARIES, "boundary")
    geometry.known(penalty, PENALTIES, "penalty")
    conv = geometry.convention(
        tuple(taps.shape), mode="same", boundary=boundary, fillvalue=0.0, origin=origin, operation=operation
    )
    threads = pair.as_workers(workers)
    dtype = np.float32 if np.dtype(blurred.dtype) in (np.float32, np.float16) else np.float64
    y, k = np.asarray(blurred, dtype=dtype), np.asarray(taps, dtype=np.float64)
    for name, values in (("target", y), ("kernel", k)):
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values)
            row, col = np.argwhere(bad)[0]
            msg = (
                f"got {name} with {int(bad.sum())} NaN or infinite values, the first at (row, column) "
                f"({row}, {col}); need finite ones: fill them, or crop to a part without them"
            )
            raise ValueError(msg)
    if not k.any():
        msg = (
            "got a kernel that is zero everywhere, from which nothing can be restored; need one with a tap that is not"
        )
        raise ValueError(msg)
    size = (y.shape[0], y.shape[1]) if boundary == "wrap" else _period(y.shape, k.shape)
    if size[0] * size[1] <= _SMALL:
        threads = 1
    # The continued target, the kernel's transform and the result one after the other in one place: on images that the
    # cache holds, getting memory costs as much as a transform.
    place = np.empty((size[0], size[1] // 2 + 1), dtype=np.complex128)
    padded = y if boundary == "wrap" else _continued(y, _within(place, size, dtype))
    from ..exact import _loops

    # Axis by axis: half the time of rfft2 and irfft2, which copy.
    spectrum = scipy.fft.fft(scipy.fft.rfft(padded, axis=1, workers=threads), axis=0, workers=threads, overwrite_x=True)
    transfer, scale = _transform(k, conv.origin, size[1], place, threads)
    down, across = penalty_root(scipy.fft.fftfreq(size[0]), np.arange(size[1] // 2 + 1) / size[1], penalty)
    if given is None:
        sums, counts = np.zeros(_BINS), np.zeros(_BINS)
        step, even = max(1, size[0] // _ROWS), size[1] % 2 == 0
        _loops.classes(spectrum, transfer, down, across, scale, step, even, sums, counts)
        given = _validated(sums, counts)
    strength, least, flipped = given * scale, ROUNDING * scale, operation == "convolution"

    def divide(first: int) -> None:
        part = slice(first, first + _CHUNK)
        _loops.divide_spectrum(spectrum[part], transfer[part], down[part], across, strength, least, flipped)

    for _ in in_order(range(0, size[0], _CHUNK), divide, threads):
        pass
    # Rows beyond the target's need no transform along them.
    lines = scipy.fft.ifft(spectrum, axis=0, workers=threads, overwrite_x=True)[: y.shape[0]]
    restored = scipy.fft.irfft(lines, n=size[1], axis=1, workers=threads)
    if size[1] == y.shape[1]:
        return np.asarray(restored)
    result = _within(place, y.shape, dtype) if dtype == np.float64 else np.empty(y.shape, dtype=dtype)
    result[...] = restored[:, : y.shape[1]]
    return result


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
    """Return the sides of a period that leaves the kernel room beyond the image.

    Multiples of four: 540 takes a third less time than 525.
    """
    rows, cols = (
        4 * scipy.fft.next_fast_len(math.ceil((a + b) / 4), real=True) for a, b in zip(image, kernel, strict=True)
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
    The balance is sought by steps of a factor of three, then by small ones around the best of those.
    """
    total = float(sums.sum())
    if not total > 0:
        return 1.0
    some = np.flatnonzero(counts)
    u = 10.0 ** (-20 + (some + 0.5) * (30 / _BINS))
    best = -6.0
    for powers in (np.arange(-16.0, 4.0, 0.5), np.arange(-0.5, 0.51, 0.125)):
        candidates = 10.0 ** (powers if len(powers) > 9 else best + powers)
        held = candidates[:, None] / (u + candidates[:, None])
        left = np.einsum("ij,ij,j->i", held, held, sums[some]) + 1e-30 * total
        score = left / np.einsum("ij,j->i", held, counts[some]) ** 2
        best = float(np.log10(candidates[int(np.argmin(score))]))
    return float(10.0**best)
