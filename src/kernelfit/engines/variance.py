"""The variance of what a kernel makes of an image whose pixels have noise of their own."""

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt

from ..core.basis import Pairs
from ..core.geometry import Convention
from ..core.validation import Array
from .forward import predict


def propagated(variance: npt.ArrayLike, kernel: Array, conv: Convention, workers: int | None = None) -> Array:
    """Return the variance of each pixel of what a kernel makes of independent pixels.

    ``sum_p k[p]^2 variance[t - (p - origin)]``; of a kernel that varies over the field the square of the kernel at the
    pixel that is spread, which is a sum over the products of its functions.

    Parameters
    ----------
    variance : array_like, shape (rows, cols)
        The variance of each pixel of the image; NaN where it is not known.
    kernel : ndarray, shape (rows, cols) or (functions, rows, cols)
        The kernel, or its coefficients.
    conv : Convention
        How it lies on the image. A fill value has no noise.
    workers : int, optional
        Number of threads.

    Returns
    -------
    ndarray, of the target's shape
        NaN where it depends on pixels that are not known.
    """
    conv = dataclasses.replace(conv, fillvalue=0.0)
    if conv.field is None:
        squares = kernel**2
    else:
        pairs = Pairs(conv.field.variation)
        both = itertools.combinations_with_replacement(range(len(kernel)), 2)
        squares = np.stack([(1.0 + (i != j)) * kernel[i] * kernel[j] for i, j in both])
        conv = dataclasses.replace(conv, field=dataclasses.replace(conv.field, variation=pairs))
    return np.maximum(predict(variance, squares, conv, workers=workers), 0.0)
