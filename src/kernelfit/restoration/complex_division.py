"""The division by a kernel where image or kernel are complex: all frequencies, none being another's mirror image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.geometry import Convention, Shape
from ..core.validation import Array
from ..solvers.spectral_band import ROUNDING, penalty_root

#: Classes of frequencies, four to an octave from 2^-67 on.
CLASSES = 400


def parts_of(image: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return copies of the real and the imaginary part of a complex image, a real one as it is."""
    return (image.real.copy(), image.imag.copy()) if image.dtype.kind == "c" else (image,)


class ComplexDivision:
    """The division by a kernel of images of one size, by SciPy's transforms."""

    def __init__(
        self,
        kernel: npt.NDArray[Any],
        conv: Convention,
        size: Shape,
        penalty: str,
        dtype: npt.DTypeLike,
        threads: int,
        validated: Callable[[Array, Array], float],
    ) -> None:
        self.smooths, self.size, self.dtype, self.threads = penalty != "identity", size, dtype, threads
        self._validated = validated  # chooses a balance from classes of frequencies
        places = [(np.arange(side) - at) % n for side, at, n in zip(kernel.shape, conv.origin, size, strict=True)]
        placed = np.zeros(size, dtype=np.complex128)
        np.add.at(placed, np.ix_(*places), kernel)  # may meet itself
        self.scale = float(np.sum(np.abs(placed) ** 2))
        transfer = scipy.fft.fft2(placed, workers=threads)
        if conv.operation == "correlation":  # which sees the kernel turned round
            transfer = np.roll(transfer[::-1, ::-1], 1, axis=(0, 1))
        self.transfer, self.power = transfer, np.abs(transfer) ** 2
        down, across = penalty_root(scipy.fft.fftfreq(size[0]), scipy.fft.fftfreq(size[1]), penalty)
        self.held = np.square(down[:, None] + across)
        self.spectrum: Any = None

    def transform(self, image: Any) -> None:
        """Transform an image, or what gives its rows."""
        if callable(image):
            whole = np.empty(self.size, dtype=self.dtype)
            image(0, whole)
            image = whole
        self.spectrum = scipy.fft.fft2(image, workers=self.threads)

    def balance(self) -> float:
        """Choose the balance for the image that was transformed."""
        ratios = (self.power / self.scale + 1e-30) / (self.held + 1e-30)
        fraction, exponent = np.frexp(ratios)
        at: npt.NDArray[np.int64] = np.clip(
            4 * (np.asarray(exponent, np.int64) + 66) + np.asarray(8 * fraction - 4, np.int64), 0, CLASSES - 1
        )
        power = np.abs(self.spectrum) ** 2
        at[0, 0], power[0, 0] = CLASSES - 1, 0.0
        both = [np.bincount(at.ravel(), weights, CLASSES) for weights in (power.ravel(), np.ones(power.size))]
        return self._validated(*(np.asarray(one, dtype=np.float64) for one in both))

    def _divisor(self, balance: float) -> tuple[Array, npt.NDArray[np.bool_]]:
        divisor = self.power + balance * self.scale * self.held
        return divisor, divisor > ROUNDING * self.scale

    def divided(self, balance: float, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return the first rows and columns of the restored image."""
        divisor, some = self._divisor(balance)
        found = np.divide(np.conj(self.transfer) * self.spectrum, divisor, out=np.zeros_like(self.transfer), where=some)
        image = scipy.fft.ifft2(found, workers=self.threads)
        return np.ascontiguousarray(image[: shape[0], : shape[1]], dtype=self.dtype)

    def rest_of(self, balance: float) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
        """Return what gives the part of an image that the division by a balance does not pass."""
        divisor, some = self._divisor(balance)
        held = np.divide(balance * self.scale * self.held, divisor, out=np.ones(self.size), where=some)

        def rest(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
            found: npt.NDArray[Any] = scipy.fft.ifft2(scipy.fft.fft2(image, workers=self.threads) * held)
            return found

        return rest
