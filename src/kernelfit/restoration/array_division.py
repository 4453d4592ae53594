"""The division by a kernel of arrays of any number of axes, real or complex, by transforms of the whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.geometry import Convention
from ..core.validation import Array
from ..solvers.spectral_band import ROUNDING, penalty_power

#: Classes of frequencies, four to an octave from 2^-67 on.
CLASSES = 400


def parts_of(image: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return copies of the real and the imaginary part of a complex image, a real one as it is."""
    return (image.real.copy(), image.imag.copy()) if image.dtype.kind == "c" else (image,)


class ArrayDivision:
    """The division by a kernel of arrays of one size, of complex ones by all frequencies, by SciPy's transforms."""

    def __init__(
        self,
        kernel: npt.NDArray[Any],
        conv: Convention,
        size: tuple[int, ...],
        penalty: str,
        dtype: npt.DTypeLike,
        threads: int,
        validated: Callable[[Array, Array], float],
    ) -> None:
        self.smooths, self.size, self.dtype, self.threads = penalty != "identity", size, dtype, threads
        self._validated = validated  # chooses a balance from classes of frequencies
        places = [(np.arange(side) - at) % n for side, at, n in zip(kernel.shape, conv.origin, size, strict=True)]
        self.real = np.dtype(dtype).kind == "f"
        placed = np.zeros(size, dtype=np.float64 if self.real else np.complex128)
        np.add.at(placed, np.ix_(*places), kernel)  # may meet itself
        self.scale = float(np.sum(np.abs(placed) ** 2))
        if conv.operation == "correlation":  # which sees the kernel turned round
            axes = tuple(range(placed.ndim))
            placed = np.roll(np.flip(placed), 1, axis=axes)
        self.transfer = self._forward(placed)
        self.power = np.abs(self.transfer) ** 2
        frequencies = [scipy.fft.fftfreq(n) for n in size]
        if self.real:
            frequencies[-1] = scipy.fft.rfftfreq(size[-1])
        self.held = penalty_power(frequencies, penalty)
        self.spectrum: Any = None

    def _forward(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        transform = scipy.fft.rfftn if self.real else scipy.fft.fftn
        return np.asarray(transform(image, workers=self.threads))

    def _backward(self, spectrum: npt.NDArray[Any]) -> npt.NDArray[Any]:
        transform = scipy.fft.irfftn if self.real else scipy.fft.ifftn
        return np.asarray(transform(spectrum, self.size, workers=self.threads))

    def transform(self, image: Any) -> None:
        """Transform an image, or what gives its rows."""
        if callable(image):
            whole = np.empty(self.size, dtype=self.dtype)
            image(0, whole)
            image = whole
        self.spectrum = self._forward(image)

    def balance(self) -> float:
        """Choose the balance for the image that was transformed."""
        ratios = (self.power / self.scale + 1e-30) / (self.held + 1e-30)
        fraction, exponent = np.frexp(ratios)
        at: npt.NDArray[np.int64] = np.clip(
            4 * (np.asarray(exponent, np.int64) + 66) + np.asarray(8 * fraction - 4, np.int64), 0, CLASSES - 1
        )
        power, counts = np.abs(self.spectrum) ** 2, np.ones(self.power.shape)
        if self.real:  # those between the first and the last stand for their mirror images too
            counts[..., 1 : (self.size[-1] + 1) // 2] = 2.0
        at.flat[0], power.flat[0] = CLASSES - 1, 0.0
        both = [np.bincount(at.ravel(), some.ravel(), CLASSES) for some in (counts * power, counts)]
        return self._validated(*(np.asarray(one, dtype=np.float64) for one in both))

    def _divisor(self, balance: float) -> tuple[Array, npt.NDArray[np.bool_]]:
        divisor = self.power + balance * self.scale * self.held
        return divisor, divisor > ROUNDING * self.scale

    def divided(self, balance: float, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return the first places along each axis of the restored image."""
        divisor, some = self._divisor(balance)
        found = np.divide(np.conj(self.transfer) * self.spectrum, divisor, out=np.zeros_like(self.transfer), where=some)
        image = self._backward(found)
        return np.ascontiguousarray(image[tuple(map(slice, shape))], dtype=self.dtype)

    def rest_of(self, balance: float) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
        """Return what gives the part of an image that the division by a balance does not pass."""
        divisor, some = self._divisor(balance)
        held = np.divide(balance * self.scale * self.held, divisor, out=np.ones(self.power.shape), where=some)

        def rest(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return self._backward(self._forward(image) * held)

        return rest
