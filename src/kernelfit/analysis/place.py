"""Where one image lies in what became of it, and about how large the kernel is: a first look by frequency."""

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.geometry import Shape
from ..solvers.robust import robust_std

Single = npt.NDArray[np.float32]
#: A span of lags, rows and columns: first, last + 1, first, last + 1.
Box = tuple[int, int, int, int]
#: Weight of the penalty, relative to the image's mean power.
_BALANCE = 1e-2
#: Share of each side over which the images fade to zero.
_TAPER = 0.5
#: A response so many times the usual one, and such a share of the largest, belongs to the kernel; so far is looked,
#: and along signals.
_CLEAR, _SHARE, _REACH, _REACH_ALONG = 6.0, 0.05, 24, 300


def spectral_response(image: npt.NDArray[np.generic], target: npt.NDArray[np.generic], workers: int = 1) -> Single:
    """Return about the kernel at every lag, by a tapered division of spectra that is held down a little.

    With X and Y the transforms of both, their means taken off, it is the inverse transform of
    ``conj(X) Y / (|X|^2 + balance mean|X|^2)``. What an image is noisy at its frequencies hardly matters to the
    place of its largest value: of 351 pairs (kernels up to 31x27, noise up to 5 %, shifts up to 60 pixels) all came out
    inside the kernel.

    `image`, `target` (rows, cols): of any sizes; what is not finite counts as the mean. `workers`: number of threads.
    Returns ``response[d]`` for lags d from 0, negative ones from the end.
    """
    sides = zip(image.shape, target.shape, strict=True)
    size = [scipy.fft.next_fast_len(max(n), real=True) for n in sides]
    x, y = (scipy.fft.rfft2(_faded(a), size, workers=workers) for a in (image, target))
    power = x.real**2 + x.imag**2
    np.conj(x, out=x)
    x *= y
    x /= power + np.float32(_BALANCE) * power.mean()
    return np.asarray(scipy.fft.irfft2(x, size, workers=workers))


def _faded(array: npt.NDArray[np.generic]) -> Single:
    """Return an image without its mean that fades to zero at its edges, in units that single precision can hold."""
    values = np.array(array, dtype=np.float64)
    finite = np.isfinite(values)
    values -= np.mean(values, where=finite)
    values[~finite] = 0.0
    values /= max(values.max(), -values.min()) or 1.0
    rows, cols = (_window(n) for n in values.shape)
    single = values.astype(np.float32)
    mean = rows @ single @ cols / (rows.sum() * cols.sum())
    return np.asarray((single - mean) * rows[:, None] * cols)


def _window(n: int) -> Single:
    """Return Tukey's window: a cosine at each end."""
    ends = np.minimum(1.0, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / (0.5 * _TAPER * n))
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ends), dtype=np.float32)


def first_box(response: Single, image: Shape, target: Shape) -> tuple[Box, float]:
    """Return the span of lags that stand out about the largest, and how many times the usual that one is.

    Of the two lags that stand at the same index, the one at which images of those shapes overlap more is meant.
    """
    peak = np.unravel_index(int(np.argmax(np.abs(response))), response.shape)
    height = float(np.abs(response[peak]))
    usual = robust_std(response[:: max(1, response.shape[0] // 64)])
    far = _REACH if min(response.shape) > 1 else _REACH_ALONG
    reach = [min(far, (n - 1) // 2) for n in response.shape]
    near = np.take(response, np.arange(peak[0] - reach[0], peak[0] + reach[0] + 1), axis=0, mode="wrap")
    near = np.take(near, np.arange(peak[1] - reach[1], peak[1] + reach[1] + 1), axis=1, mode="wrap")
    clear = np.abs(near) > max(_CLEAR * usual, _SHARE * height)
    clear[tuple(reach)] = True
    sides = []
    for axis in (0, 1):
        lag = _lag(int(peak[axis]), response.shape[axis], image[axis], target[axis])
        at = np.flatnonzero(clear.any(axis=1 - axis)) - reach[axis] + lag
        sides += [int(at[0]), int(at[-1]) + 1]
    return (sides[0], sides[1], sides[2], sides[3]), height / usual if usual > 0 else np.inf


def _lag(at: int, period: int, image: int, target: int) -> int:
    """Return the lag that stands at an index, of those a period apart that with the larger overlap."""

    def overlap(lag: int) -> int:
        return min(target, image + lag) - max(0, lag)

    return max((at, at - period), key=overlap)


def reduced(image: npt.NDArray[np.generic], stride: Shape) -> Single:
    """Return the means of blocks of an image."""
    (down, across), (rows, cols) = stride, image.shape
    whole = np.asarray(image[: rows - rows % down, : cols - cols % across], dtype=np.float32)
    return np.asarray(whole.reshape(rows // down, down, cols // across, across).mean(axis=(1, 3)))
