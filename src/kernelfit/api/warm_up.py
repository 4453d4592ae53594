"""Everything compiled ahead of the first call, for containers and for time that counts."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..engines.forward import apply_kernel
from ..restoration.deconvolution import deconvolve
from .find import find_kernel
from .kernel_map import kernel_map
from .match_psf import match_psf


def _scene() -> tuple[Any, Any, Any]:
    """Return an image, a kernel, and what that makes of it with noise."""
    rng = np.random.default_rng(0)
    image, kernel = rng.random((64, 70)), np.outer([1.0, 2.0, 1.0], [1.0, 3.0, 5.0, 2.0, 1.0]) / 48.0
    return image, kernel, apply_kernel(image, kernel) + rng.normal(0.0, 0.01, image.shape)


def _find(image: Any, kernel: Any, target: Any) -> None:
    for method in ("direct", "fft"):
        find_kernel(image, target, kernel.shape, method=method)
        find_kernel(image, image, kernel.shape, method=method, boundary="wrap")  # without noise
    for method in ("direct", "fft"):
        find_kernel(image[:9].ravel(), target[:9].ravel(), 9, method=method)
    find_kernel(image.astype(np.float32), target, (21, 22), boundary="fill")  # a factor of our own
    find_kernel(image, target, kernel.shape, errors="sandwich")
    find_kernel(image, target)
    find_kernel(image[::2, ::2], target[::2, ::2], 3, background=1)
    find_kernel(image, target[::2, ::3], (5, 6), stride=(2, 3))


def _auto(image: Any, kernel: Any, target: Any) -> None:
    find_kernel(image, target, (5, 7), solver="auto")


def _weights(image: Any, kernel: Any, target: Any) -> None:
    rng, shape = np.random.default_rng(1), kernel.shape
    find_kernel(image, target, shape, mask=rng.random(image.shape) < 0.02)
    find_kernel(image, target, shape, weights=rng.uniform(0.5, 2.0, image.shape))
    find_kernel(image, target, shape, weights=np.where(image > 0.5, 1.0, 2.0), background=0)
    find_kernel(image, target, shape, noise="poisson")
    find_kernel(image, target, shape, robust="huber")


def _colours(image: Any, kernel: Any, target: Any) -> None:
    stack, out = np.stack([image, image[::-1]], axis=-1), np.stack([target, target[::-1]], axis=-1)
    for channels in ("shared", "separate", "mixed"):
        find_kernel(stack, out, kernel.shape, channel_axis=-1, channels=channels)
    find_kernel(image, target, kernel.shape, variation=1)


def _large(image: Any, kernel: Any, target: Any) -> None:
    find_kernel(image, target, (9, 8), method="cg")
    find_kernel(image, target, (9, 8), method="cg", boundary="symm", weights=image + 0.5)
    find_kernel(image, target, (9, 8), method="wiener")
    find_kernel(image, target, (9, 8), method="wiener", boundary="wrap")
    find_kernel(image, target, (40, 38), method="wiener", boundary="wrap")


def _restore(image: Any, kernel: Any, target: Any) -> None:
    ways: tuple[dict[str, Any], ...] = ({}, {"edges": "solve"}, {"boundary": "wrap"}, {"penalty": "identity"})
    for words in ways:
        deconvolve(target, kernel, **words)
    apply_kernel(image, np.random.default_rng(0).random((9, 11)))
    apply_kernel(image, np.outer(np.hanning(13), np.hanning(15)))
    stamp = np.outer(np.hanning(21), np.hanning(23)) ** 4
    match_psf(stamp, stamp**0.7)


def _maps(image: Any, kernel: Any, target: Any) -> None:
    for shape in ((3, 3), (5, 6)):
        kernel_map(image, target, shape, tiles=2)


def _register(image: Any, kernel: Any, target: Any) -> None:
    for motion in ("shift", "affine"):
        find_kernel(image, target, kernel.shape, register=motion)
    find_kernel(image, target, kernel.shape, curve="gamma")


#: What each use compiles.
USES: dict[str, Callable[..., None]] = {
    use.__name__[1:]: use for use in (_find, _auto, _weights, _colours, _large, _restore, _maps, _register)
}


def warm_up(uses: Iterable[str] | str | None = None, *, progress: Callable[[str], object] | None = None) -> float:
    """Compile all loops that a use needs, so that no later call has to.

    Machine code is kept on disk and depends on the version, the place where it is installed and the processor. In a
    container call it once when the image is built: the code lies beside the package, or in the folder that
    ``NUMBA_CACHE_DIR`` names, and is used from there even where nobody may write to it.

    Parameters
    ----------
    uses : str or iterable of str, optional
        Of "find" (least squares, sandwich errors, strides, backgrounds), "auto", "weights" (weights, masks, noise,
        robust), "colours" (channels, and kernels that vary), "large" (conjugate gradients and Wiener), "restore"
        (`deconvolve`, `apply_kernel`, `match_psf`), "maps" and "register" (motions and curves); by default all of them.
    progress : callable, optional
        Called with the name of each use before it begins.

    Returns
    -------
    float
        Seconds that it took: about a minute for all the first time, few later.

    Raises
    ------
    TypeError, ValueError
        If a use is not known.

    Examples
    --------
    >>> import kernelfit
    >>> kernelfit.warm_up("find") > 0
    True
    """
    if uses is not None and not isinstance(uses, Iterable):
        raise TypeError(f"got uses={uses!r}, need some of {', '.join(map(repr, USES))}")
    wanted = list(USES) if uses is None else [uses] if isinstance(uses, str) else list(uses)
    for use in wanted:
        if use not in USES:
            raise ValueError(f"got uses={use!r}, need some of {', '.join(map(repr, USES))}")
    start = time.perf_counter()
    for use in wanted:
        if progress is not None:
            progress(use)
        USES[use](*_scene())
    return time.perf_counter() - start
