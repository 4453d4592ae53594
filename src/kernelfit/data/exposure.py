"""An exposure: an image with what is known of its noise, and of the pixels that are bad."""

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.containers import inverse_variance, open_container
from ..core.model import PixelVariance, as_ends
from ..core.validation import Array
from .masking import as_mask, at_ends, not_finite, unmasked
from .observation import as_image

#: The least prediction that photon noise is reckoned from without a read noise, relative to the mean.
_FLOOR = 0.01


@dataclass(frozen=True, eq=False)
class Exposure:
    """An image with what is known of its noise, and of the pixels that are bad.

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        Any dtype of real numbers; never changed. A masked array brings its mask; astropy's NDData and CCDData bring
        mask and uncertainty. Pixels that are NaN or infinite are bad.
    noise : array_like, shape (rows, cols), or float, or (gain, read_noise), or "poisson", optional
        The variance of each pixel; or the standard deviation of all of them; or a gain in electrons per unit of the
        image and a read noise in electrons: the variance is ``max(value, 0) / gain + (read_noise / gain)^2``, where
        what was taken off before, as a sky is, belongs to the read noise. "poisson" is a gain of 1 without read noise.
        The default is unknown: it is estimated, as the same everywhere.
    mask : array_like of bool, optional
        True where a pixel is bad.
    saturated : {"auto", None} or (low, high), optional
        Which pixels are saturated, and so bad: those at `low` or below and at `high` or above, either of which may be
        None. The default "auto" means the two ends of the range of an integer type, and nothing for others.

    Raises
    ------
    TypeError
        If the image is not of real numbers, or a field is of the wrong type.
    ValueError
        If a shape differs from the image's, a variance is not positive where the pixel is not masked, or the gain is
        not above 0.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> night = kernelfit.Exposure(np.full((40, 50), 900.0), noise=(1.5, 8), saturated=(None, 60000))
    """

    image: Any
    noise: Any = None
    mask: Any = None
    saturated: Any = "auto"

    def __post_init__(self) -> None:
        opened = open_container(self.image, "image")
        image, own = unmasked(self.image) if opened is None else (opened.value, opened.mask)
        array: Any = as_image(image, "image", alone=True)
        array = array if isinstance(array, np.ndarray) else np.asarray(array[:, :])
        bad = [as_mask(mask, array.shape, "mask") for mask in (own, self.mask)]
        noise = self._noise()
        if noise is None and opened is not None:
            inverse = inverse_variance(self.image, own, "image")
            if inverse is not None:
                noise = np.divide(1.0, inverse, out=np.full(inverse.shape, np.inf), where=inverse > 0)
        ends = as_ends(self.saturated, array.dtype)
        bad += [None if ends is None else at_ends(array, ends), not_finite(array)]
        excluded = np.zeros(array.shape, dtype=bool)
        for more in bad:
            if more is not None:
                excluded |= more
        if isinstance(noise, np.ndarray):
            if noise.shape != array.shape:
                raise ValueError(
                    f"got noise of shape {noise.shape}, need {array.shape}, the variance of each pixel; or one number, "
                    "a standard deviation; or (gain, read_noise)"
                )
            wrong = ~(noise > 0) & ~excluded & ~np.isnan(noise)
            if wrong.any():
                raise ValueError(
                    f"got noise with {np.count_nonzero(wrong)} pixels whose variance is not above 0; need one for "
                    "each, or a mask where there is none"
                )
            excluded |= ~np.isfinite(noise)
        for name, value in (("image", array), ("noise", noise), ("mask", excluded)):
            object.__setattr__(self, name, value)

    def _noise(self) -> "Array | PixelVariance | None":
        """Return the noise as the variance of each pixel, or how that follows from a prediction."""
        given: Any = self.noise
        if given is None or isinstance(given, PixelVariance):
            return given
        if isinstance(given, str) or (isinstance(given, tuple | list) and len(given) == 2 and np.ndim(given) == 1):
            return PixelVariance.of(given if isinstance(given, str) else tuple(given))
        if isinstance(given, numbers.Real) and not isinstance(given, bool):
            if not 0 < float(given) < np.inf:
                raise ValueError(
                    f"got noise={given!r}, need a standard deviation above 0, or the variance of each pixel"
                )
            return PixelVariance(0.0, float(given) ** 2)
        array = np.asarray(given)
        if array.dtype.kind not in "iuf" or array.ndim != 2:
            raise TypeError(
                f"got noise={given!r:.60}, need the variance of each pixel, one standard deviation, a pair of numbers "
                "(gain, read_noise), 'poisson', or None where it is unknown"
            )
        return array.astype(np.float64)

    @classmethod
    def of(cls, value: object, name: str) -> "Exposure":
        """Return an exposure, or make one of an image.

        Parameters
        ----------
        value : array_like or Exposure
            The image.
        name : str
            What messages call it.
        """
        if isinstance(value, Exposure):
            return value
        try:
            return cls(value)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("image", name, 1)) from None

    @property
    def pixels(self) -> Array:
        """The image in double precision, NaN where it is bad."""
        return np.where(self.mask, np.nan, self.image)

    @property
    def uneven(self) -> bool:
        """Whether its pixels are known to be of different noise."""
        return isinstance(self.noise, np.ndarray) or bool(self.noise is not None and self.noise.slope)

    def variance(self, prediction: Array, level: float) -> Array:
        """Return the variance of each pixel.

        Parameters
        ----------
        prediction : ndarray, shape (rows, cols)
            What the pixels would be without noise, as far as that is known.
        level : float
            The variance where nothing is known of it.
        """
        if isinstance(self.noise, np.ndarray):
            return self.noise
        model = PixelVariance(0.0, level) if self.noise is None else self.noise
        floor = 0.0
        if model.slope and not model.constant:
            floor = _FLOOR * float(np.nanmean(prediction))
            if not floor > 0:
                raise ValueError(
                    "got an image with photon noise whose mean is not above 0, need counts; add the sky that was taken "
                    "off, or say its noise as a read noise: noise=(gain, read_noise)"
                )
        return np.asarray(model.slope * np.maximum(prediction, floor) + model.constant)
