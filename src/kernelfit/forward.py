"""Apply a kernel: the independent check. It shares nothing with accumulation but the conventions."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from . import geometry, pair
from .geometry import Convention, Geometry, Shape
from .pair import Array

_TILE = 1024


def apply_kernel(
    image: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    mode: str = "same",
    boundary: str = "fill",
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    workers: int | None = None,
) -> Array:
    """Lay a kernel on an image under any convention.

    ``result[t] = sum_p kernel[p] * image[t - (p - origin)]``, or ``image[t + (p - origin)]`` for correlation: what
    `scipy.signal.convolve2d` does for the boundaries "fill", "wrap" and "symm", and `scipy.ndimage.convolve` for
    "mirror" and "nearest" (and "reflect", which is "symm").

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        Any real dtype; never changed.
    kernel : array_like, shape (rows, cols)
        The kernel, odd or even.
    mode : {"same", "valid", "full"}, optional
        Size of the result, default "same".
    boundary : {"fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lies beyond the edge, default "fill".
    fillvalue : float, optional
        The value beyond the edge for ``boundary="fill"``, default 0.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel, for mode "same". The default is SciPy signal's
        centre, ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel is laid on the image flipped (default) or as it is.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    ndarray of float64
        The result, equal to that of the functions named above to rounding.

    Raises
    ------
    TypeError
        If a dtype is not real, or a keyword is of the wrong type.
    ValueError
        If an array is empty or not 2-D, a keyword's value is unknown, or the kernel is larger than the image allows.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> kernelfit.apply_kernel(np.eye(3), np.ones((1, 2)))
    array([[1., 1., 0.],
           [0., 1., 1.],
           [0., 0., 1.]])
    """
    source, taps = pair.as_image(image, "image"), np.asarray(pair.as_image(kernel, "kernel"), dtype=np.float64)
    geometry.known(mode, geometry.MODES, "mode")
    if boundary is None and mode != "valid":
        msg = (
            "got boundary=None, need 'fill', 'wrap', 'symm', 'mirror' or 'nearest' (or mode='valid', which needs none)"
        )
        raise ValueError(msg)
    conv = geometry.convention(
        taps.shape,
        mode=mode,
        boundary=boundary,
        fillvalue=pair.as_fillvalue(fillvalue),
        origin=origin,
        operation=operation,
    )
    plan = geometry.lay_out(tuple(source.shape), taps.shape, conv)
    return _apply(source, taps, plan, pair.as_workers(workers))


def predict(image: npt.ArrayLike, kernel: Array, conv: Convention) -> Array:
    """Apply a kernel as `conv` says; NaN where the target would depend on what nothing is assumed of."""
    source = pair.as_image(image, "image")
    if kernel.ndim != 2:
        msg = f"got a kernel of shape {kernel.shape} (several source images), need one source"
        raise ValueError(msg)
    plan = geometry.lay_out(tuple(source.shape), kernel.shape, conv)
    used = _apply(source, kernel, plan, pair.as_workers(None))
    if plan.size == plan.target_shape:
        return used
    out = np.full(plan.target_shape, np.nan)
    (row, col), (n_rows, n_cols) = plan.offset, plan.size
    out[row : row + n_rows, col : col + n_cols] = used
    return out


def _apply(source: object, kernel: Array, plan: Geometry, workers: int) -> Array:
    """Return the used target pixels, tile by tile."""
    import scipy.signal  # a second of importing that only this needs

    reader = pair.source_reader(source, plan)
    taps = kernel[::-1, ::-1] if plan.flipped else kernel
    method = "direct" if taps.size <= 49 else "fft"
    out = np.empty(plan.size)

    def tile(start: Shape) -> None:
        part = out[start[0] : start[0] + _TILE, start[1] : start[1] + _TILE]
        shape = (part.shape[0] + taps.shape[0] - 1, part.shape[1] + taps.shape[1] - 1)
        block = reader.block(*start, shape)
        part[...] = scipy.signal.correlate(block, taps, mode="valid", method=method)

    starts = [(r, c) for r in range(0, plan.size[0], _TILE) for c in range(0, plan.size[1], _TILE)]
    with ThreadPoolExecutor(workers, thread_name_prefix="kernelfit") as pool:
        for _ in pool.map(tile, starts):
            pass
    return out
