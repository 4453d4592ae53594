"""An image laid on another by a homography: read between its pixels on a finer grid, by splines of order 5.

A spline of order 5 passes the frequency f, relative to Nyquist's, with the amplitude ``1 / (1 + (f / (2 - f))^6)`` on
average over all places between pixels: 0.9986 at a half, but 0.92 at 0.8, which a kernel would have to make up
for. So the image is made twice as fine first, by a cosine transform with zeros added (band-limited, mirrored beyond
the edge); there its own Nyquist frequency is a half.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compiled.threads import in_order
from ..core.geometry import Shape
from ..core.registration import Registration
from ..core.validation import Array, as_workers
from .observation import as_planes

#: Order of the spline; pixels beyond the centre of an edge pixel that still count as in the image; by how many pixels
#: a bad one spoils its neighbours, beyond which the spline has less than a hundredth of it.
ORDER, REACH, SPOILED = 5, 0.05, 6
_ROWS = 32


class Spline:
    """The spline of order 5 through the pixels of an image, from which it can be read anywhere.

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        Any real dtype; read once, never changed.
    workers : int, optional
        Number of threads, default 1.
    fine : bool, optional
        Whether it is made twice as fine first, default True; without that the highest frequencies get weaker.
    bad : ndarray of bool, optional
        Pixels of which nothing is known; those that are not finite are always so. They are filled with the nearest
        pixel, so that they spoil no more than their neighbours.
    """

    def __init__(
        self, image: Any, bad: npt.NDArray[np.bool_] | None = None, workers: int = 1, *, fine: bool = True
    ) -> None:
        import scipy.ndimage

        values = np.array(image[:, :], dtype=np.float64)
        wrong = ~np.isfinite(values)
        wrong = wrong if bad is None else wrong | bad
        self.spoiled: npt.NDArray[np.bool_] | None = None
        if wrong.any() and not wrong.all():
            nearest = scipy.ndimage.distance_transform_edt(wrong, return_distances=False, return_indices=True)
            values = values[tuple(nearest)]
            self.spoiled = np.asarray(scipy.ndimage.maximum_filter(wrong, 2 * SPOILED + 1))
        self.values, self.wrong, self._finer, self._workers = values, wrong, 2 if fine else 1, workers

    @functools.cached_property
    def _coefficients(self) -> tuple[Array, float, float]:
        """Those of the values less a level, in a unit, in single precision, which no noise notices; level and unit."""
        import scipy.fft

        workers, level = self._workers, float(self.values.mean())
        values = self.values - level
        unit = max(float(values.max()), -float(values.min())) or 1.0
        sides = [self._finer * n for n in values.shape]
        spectrum = scipy.fft.dctn((values / unit).astype(np.float32), norm="forward", workers=workers)
        for axis, side in enumerate(
            sides
        ):  # divided by that of the spline at the pixels, so that it passes through them
            at = np.cos(np.pi * np.arange(spectrum.shape[axis]) / side)
            spectrum *= np.expand_dims(60 / (33 + 26 * at + 2 * at**2 - 1), 1 - axis).astype(np.float32)
        half = scipy.fft.idct(spectrum, n=sides[0], axis=0, norm="forward", workers=workers)  # while rows are short
        made = scipy.fft.idct(half, n=sides[1], axis=1, norm="forward", workers=workers, overwrite_x=True)
        return np.asarray(made), level, unit

    def at(
        self, matrix: Array, shape: Shape, workers: int, slopes: Array | None = None
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the warped image, and which of its pixels are not known.

        Parameters
        ----------
        matrix : ndarray, shape (3, 3)
            Takes (row, column, 1) of the warped image to the place in the image where it is read, as that of
            `scipy.ndimage.affine_transform` does; the last row is that of a perspective.
        shape : (int, int)
            Rows and columns of the warped image.
        workers : int
            Number of threads.
        slopes : ndarray of float64, shape (2, rows, cols), optional
            Receives the derivatives of the warped image with its rows and columns.

        Returns
        -------
        warped : ndarray of float64, shape (rows, cols)
            Read from the mirrored image beyond the edge.
        outside : ndarray of bool, shape (rows, cols)
            Pixels that lie beyond the edge, or whose neighbourhood is not known.
        """
        still = shape == self.values.shape and np.array_equal(matrix, np.eye(3))
        if still and slopes is None:
            return self.values, self.wrong
        from ..compiled.warp import warp_rows  # compiled when first used

        out, outside = np.empty(shape), np.empty(shape, dtype=bool)
        steep = np.empty((2, 0, 0)) if slopes is None else slopes
        f = self._finer
        table = np.array([[f, 0, 0.5 * (f - 1)], [0, f, 0.5 * (f - 1)], [0, 0, 1.0]]) @ matrix

        (coefficients, level, unit), reach = self._coefficients, REACH * f - 0.5 * (f - 1)

        def band(first: int) -> None:
            part = slice(first, first + _ROWS)
            warp_rows(coefficients, table, first, reach, out[part], outside[part], steep[0, part], steep[1, part])
            out[part] *= unit
            out[part] += level
            steep[:, part] *= unit

        for _ in in_order(range(0, shape[0], _ROWS), band, workers):
            pass
        if still:
            return self.values, self.wrong
        if self.spoiled is not None:
            places = table @ np.stack([*np.indices(shape).reshape(2, -1), np.ones(out.size)])
            rows, cols = (
                np.clip(np.rint((at / places[2] - 0.5 * (f - 1)) / f), 0, n - 1).astype(np.int64)
                for at, n in zip(places[:2], self.values.shape, strict=True)
            )
            outside |= self.spoiled[rows, cols].reshape(shape)
        return out, outside


def laid_on(image: Any, registration: Registration | None, axis: int | None = None) -> Array:
    """Return an image moved by a registration, its channels along an axis; NaN where a pixel is not known."""
    planes = as_planes(image, "image", axis)
    shape = tuple(planes[0].shape)
    if registration is None:
        return np.array(image, dtype=np.float64)
    if shape != registration.shape:
        raise ValueError(
            f"got an image of shape {shape}, need {registration.shape}, on which the motion was found; "
            "apply_kernel(image, fit.kernel, ...) gives the kernel's share alone"
        )
    threads = as_workers(None)
    pairs = [Spline(plane, None, threads).at(registration.matrix, registration.shape, threads) for plane in planes]
    made = [np.where(outside, np.nan, values) for values, outside in pairs]
    return made[0] if axis is None else np.stack(made, axis=axis)
