"""Complex images: their real and imaginary parts are equations of their own inside, and complex numbers again outside.

With the image ``A + iB``, the kernel ``p + iq`` and the target ``u + iv``, ``u = A p - B q`` and ``v = B p + A q``: two
pairs of real images that share the kernels p and q, which everything between the plan and the result treats as such.
``Convention.apart`` says so on what is made of them. Noise whose two parts are alike and independent (circular noise)
makes least squares of the parts that of the complex numbers, ``G = sum conj(P) P`` and ``b = sum conj(P) y``.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from .background import Background
from .estimate import Estimate, sides_of
from .validation import complex_of


def joined(array: Any, axis: int = 0) -> Any:
    """Return the complex numbers whose real parts are the first half along an axis, and imaginary parts the second."""
    real, imaginary = np.split(array, 2, axis=axis)
    return complex_of(real, imaginary)


def raised(fit: Estimate) -> Estimate:
    """Return an estimate of the parts of complex images as their user has it; every other one as it is."""
    conv = fit.convention
    if not conv.apart:
        return fit
    fields: dict[str, Any] = {
        "convention": dataclasses.replace(conv, apart=False),
        "n_pixels": fit.n_pixels // 2,
        "noise_std": fit.noise_std * math.sqrt(2.0),
        "notes": tuple(dict.fromkeys(fit.notes)),
    }
    if conv.numbers == "complex":
        kernel = fit.kernel.reshape(2, -1, *sides_of(fit))
        whole = joined(kernel)[0]
        fields |= {
            "kernel": whole[0] if len(whole) == 1 else whole,
            "rank": fit.rank // 2,
            "df_model": fit.df_model / 2,
        }
        fields["priors"] = fit.priors[: len(fit.priors) // 2]  # that of either part
        if fit.path is not None:
            fields["path"] = dataclasses.replace(fit.path, df_model=fit.path.df_model / 2)
    if isinstance(fit.weights, tuple):  # the two parts of a pixel count alike
        fields["weights"] = fit.weights[0] if len(fit.weights) == 2 else fit.weights[::2]
    if fit.background is not None:
        own = fit.background
        coefficients, stderr = (complex_of(table[::2], table[1::2]) for table in (own.coefficients, own.stderr))
        fields["background"] = Background(own.degree, coefficients, stderr, own.shapes[::2], own.channel_axis)
    return dataclasses.replace(fit, **fields)


def taken_apart(fit: Estimate) -> Estimate:
    """Return an estimate as it was before `raised`, that of the parts of complex images; every other one as it is."""
    conv = fit.convention
    if conv.numbers == "real" or conv.apart:
        return fit
    fields: dict[str, Any] = {
        "convention": dataclasses.replace(conv, apart=True),
        "n_pixels": 2 * fit.n_pixels,
        "noise_std": fit.noise_std / math.sqrt(2.0),
    }
    if conv.numbers == "complex":
        kernel = fit.kernel.reshape(-1, *sides_of(fit))
        fields |= {"kernel": np.concatenate([kernel.real, kernel.imag]), "rank": 2 * fit.rank}
        fields |= {"df_model": 2 * fit.df_model, "priors": 2 * fit.priors}
        if fit.path is not None:
            fields["path"] = dataclasses.replace(fit.path, df_model=2 * fit.path.df_model)
    if fit.weights is not None:
        own = fit.weights if isinstance(fit.weights, tuple) else (fit.weights,)
        fields["weights"] = tuple(one for one in own for _ in (0, 1))
    if (beside := fit.background) is not None:
        tables = (table.reshape(-1, table.shape[-1]) for table in (beside.coefficients, beside.stderr))
        both = [np.stack([table.real, table.imag], axis=1).reshape(-1, table.shape[-1]) for table in tables]
        shapes = tuple(shape for shape in beside.shapes for _ in (0, 1))
        fields["background"] = Background(beside.degree, both[0], both[1], shapes, beside.channel_axis)
    return dataclasses.replace(fit, **fields)
