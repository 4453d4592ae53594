"""From one point spread function to another."""

import dataclasses

import numpy as np
import numpy.typing as npt

from ..compiled.threads import one_blas_thread
from ..core.container_calls import of_any_container
from ..core.validation import Array, as_number, as_workers, known
from ..data.observation import as_image
from ..restoration.psf_matching import area, match
from .results import KernelFit

#: A peak so small, or as large, has squares of which sums are none any more.
_TINY = 1e-150


@of_any_container
@one_blas_thread
def match_psf(
    source: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    which: str = "source",
    strength: float | None = None,
    workers: int | None = None,
) -> KernelFit:
    """Find the kernel that takes one point spread function to another, from stamps that have faded at their edges.

    The kernel k of the stamps' own size minimises ``|target - k * source|^2 + strength P |k - m|^2``, the source being
    zero beyond its edges, P the largest power of its spectrum, and m zero or the Gaussian that has the difference of
    the stamps' second moments, and of their centroids: what the source does not tell of the kernel is as in m.
    Conjugate gradients solve it, preconditioned by the division of spectra.

    Parameters
    ----------
    source, target : array_like, shape (rows, cols)
        The two stamps, of one shape and without noise to speak of, not necessarily of sum 1.
    which : {"source", "auto"}, optional
        What is convolved: the source (default), or whichever is the sharper, that of the smaller noise-equivalent area
        ``(sum P)^2 / sum P^2``; `KernelFit.found` says which.
    strength : float, optional
        The strength of the ridge, relative to P, with m of zero. By default one of 1e-2 to 1e-12, and that m, for which
        ``sum|r| / sum|target| + 0.005 n`` is least, r being the residual and n the kernel's negative weight over its
        sum.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    KernelFit
        The kernel, without standard errors; `KernelFit.notes` has the residual's share and the negative weight. A
        target that is sharper than what is convolved makes a large negative weight, which the verdict tells, and it
        tells stamps that have not faded at their edges.

    Raises
    ------
    TypeError
        If a stamp is not of real numbers.
    ValueError
        If the shapes differ, a stamp holds NaN or only zeros, or a keyword's value is unknown.

    See Also
    --------
    find_kernel : for images, with errors; without a shape it comes here if it is given two such stamps.

    Notes
    -----
    G. Aniano et al., "Common-Resolution Convolution Kernels for Space- and Ground-Based Telescopes", PASP 123 (2011)
    1218, doi:10.1086/662219, define D and the negative weight, and divide spectra.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> y, x = np.mgrid[-20:21, -22:23]
    >>> sharp, broad = (np.exp(-(x**2 + y**2) / (2 * s**2)) / (2 * np.pi * s**2) for s in (1.5, 2.5))
    >>> fit = kernelfit.match_psf(sharp, broad)
    >>> bool(np.abs(fit.predict(sharp) - broad).max() < 1e-8)
    True
    >>> kernelfit.match_psf(broad, sharp, which="auto").found
    ('the target is the sharper and was convolved: the kernel takes the target to the source',)
    """
    known(which, ("source", "auto"), "which")
    stamps = [_stamp(value, name) for value, name in ((source, "source"), (target, "target"))]
    if stamps[0].shape != stamps[1].shape:
        shapes = [f"{a.shape[0]}x{a.shape[1]}" for a in stamps]
        raise ValueError(f"got a source of {shapes[0]} and a target of {shapes[1]}, need one shape; pad one with zeros")
    if strength is not None and not as_number(strength, "strength") >= 0:
        raise ValueError(f"got strength={strength!r}, need a number of at least 0, or None")
    found: tuple[str, ...] = ()
    if which == "auto":
        turned = area(stamps[1]) < area(stamps[0])
        names = ("target", "source") if turned else ("source", "target")
        found = (f"the {names[0]} is the sharper and was convolved: the kernel takes the {names[0]} to the {names[1]}",)
        stamps = stamps[::-1] if turned else stamps
    fit = KernelFit.of(match(stamps[0], stamps[1], strength, as_workers(workers)))
    given = [f"{name}={value!r}" for name, value in (("which", which), ("strength", strength)) if value is not None]
    return dataclasses.replace(fit, found=found, call=("match_psf", "source", "target", *given))


def _stamp(value: object, name: str) -> Array:
    """Return a stamp as float64, or say why it is none."""
    stamp = np.asarray(as_image(value, name, alone=True), dtype=np.float64)
    if not np.isfinite(stamp).all():
        raise ValueError(f"got a {name} with pixels that are NaN or infinite, need finite ones; fill them first")
    if not stamp.any():
        raise ValueError(f"got a {name} of zeros, need a point spread function")
    peak = float(np.abs(stamp).max())
    if not _TINY < peak < 1 / _TINY:
        raise ValueError(
            f"got a {name} of at most {peak:.2g}, whose squares over- or underflow; scale it by a constant"
        )
    return stamp
