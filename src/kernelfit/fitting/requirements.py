"""What goes with what."""

import math
import numbers
from collections.abc import Sequence

from ..core import geometry, validation


def check_errors(
    image_noise: object, errors: str, method: str, channels: str, background: object, uneven: str | None
) -> None:
    """Refuse settings of the errors that are wrong, or that cannot be combined.

    `uneven` names what makes pixels count more or less than others, None if nothing does.
    """
    validation.known(errors, ("plain", "sandwich"), "errors")
    if isinstance(image_noise, bool) or not isinstance(image_noise, numbers.Real):
        msg = f"got image_noise={image_noise!r}, need a standard deviation of at least 0, in units of the image"
        raise TypeError(msg)
    if not 0 <= float(image_noise) < math.inf:
        msg = f"got image_noise={image_noise!r}, need a standard deviation of at least 0, in units of the image"
        raise ValueError(msg)
    if not image_noise and errors == "plain":
        return
    others = [f"method={method!r}"] if method in ("cg", "wiener") else []
    others += ["channels='mixed'"] if channels == "mixed" else []
    others += [] if background is None else [f"background={background!r}"]
    if others:
        msg = (
            f"got image_noise or errors='sandwich' with {others[0]}, need method='auto', 'direct' or 'fft', one "
            "source, and no background"
        )
        raise ValueError(msg)
    if uneven == "robust=" and errors == "sandwich":
        msg = (
            "got errors='sandwich' with robust=, whose criterion holds back part of the noise that is to be looked at; "
            "need the weights of a robust fit given to another one, as weights=fit.weights"
        )
        raise ValueError(msg)
    if uneven is not None and image_noise:
        msg = (
            f"got image_noise with {uneven}; the image's noise reaches all target pixels alike, so weights that do not "
            "know of it are not those of least error; need a mask at most, such as mask=fit.weights == 0"
        )
        raise ValueError(msg)


def check_stride(method: str, stride: object, offset: object) -> None:
    """Refuse a stride beside methods that have none."""
    if geometry.lattice(stride, offset)[0] != (1, 1) and method in ("cg", "wiener"):
        msg = f"got stride={stride!r} with method={method!r}, which has none; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)


def check_settings(
    method: str,
    solver: object,
    tolerance: float | None,
    spectral: Sequence[object],
    channels: str = "shared",
    background: object = None,
    weighted: str | None = None,
) -> None:
    """Refuse settings that the method has no use for.

    `spectral` are those of "wiener", all "auto" by default; `weighted` names what makes the fit a weighted one.
    """
    if weighted is not None and method in ("cg", "wiener"):
        msg = f"got {weighted} with method={method!r}, which knows no weights; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if method != "wiener" and not all(isinstance(v, str) and v == "auto" for v in spectral):
        msg = f"got balance, detrend or taper with method={method!r}, which has no use for them; need method='wiener'"
        raise ValueError(msg)
    if method in ("cg", "wiener") and background is not None:
        msg = f"got background={background!r} with method={method!r}, which has none; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if method in ("cg", "wiener") and channels == "mixed":
        msg = f"got channels='mixed' with method={method!r}, which has one source; need 'auto', 'direct' or 'fft'"
        raise ValueError(msg)
    if method == "wiener" and solver is not None:
        msg = f"got method='wiener' with solver={solver!r}, need one or the other: 'wiener' is a solver of its own"
        raise ValueError(msg)
    if method == "cg" and solver is not None:
        msg = (
            f"got method='cg' with solver={solver!r}, need the default solver; or method='fft', if there is "
            "memory for it"
        )
        raise ValueError(msg)
    if tolerance is None:
        return
    if method in ("direct", "fft", "wiener") and weighted is None:
        msg = f"got a tolerance with method={method!r}, which does not iterate; need method='cg' or 'auto'"
        raise ValueError(msg)
    if not 0 < tolerance < 1:
        msg = f"got tolerance={tolerance!r}, need a number between 0 and 1"
        raise ValueError(msg)
