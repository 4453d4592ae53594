"""A result taken apart: each kernel by itself, and each target channel with the planes it was found in."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.dimensions import of_any_dimension
from ..core.estimate import Estimate, require_fit
from ..core.validation import Array, as_list
from ..data.observation import NUMBERS, as_planes
from ..data.warp import laid_on
from .field import middle


@of_any_dimension
def split_channels(fit: Estimate, names: Sequence[str] | None = None) -> dict[str, Estimate]:
    """Take a result of several channels apart: for each kernel of rows and columns a result with its own errors.

    What is measured, drawn or compared one kernel at a time (`measure_psf`, `compare_kernels`, `kernelfit.plot`) takes
    these. Figures of the fit, such as its noise, are those of the target channel that the kernel belongs to. Of a
    kernel that varies over the image it is the one at the middle.

    Parameters
    ----------
    fit : KernelFit
        Any result; one of a single kernel comes back as it is.
    names : sequence of str, optional
        A name for each channel; the default is "channel 0" and so on.

    Returns
    -------
    dict of str to KernelFit
        In the order of `kernel`: the target's channels and, if they are mixed, the image's channels of each, as in
        "channel 1 from channel 0". The name of a single kernel is "". Of a complex one they are the "real part" and the
        "imaginary part", with the noise of either.

    Raises
    ------
    TypeError
        If `fit` is no result.
    ValueError
        If there are fewer names than channels, or a kernel is not of rows and columns.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((40, 50, 2))
    >>> fit = kernelfit.find_kernel(image, image * [1.0, 0.5], (1, 3), channels="separate", channel_axis=-1)
    >>> {name: (one.kernel.round(9) + 0.0).tolist() for name, one in kernelfit.split_channels(fit, ["H", "K"]).items()}
    {'H': [[0.0, 1.0, 0.0]], 'K': [[0.0, 0.5, 0.0]]}
    """
    require_fit(fit)
    found = {}
    for name, part in split_targets(middle(fit), names).items():
        for source, plane in enumerate(_planes(part)):
            mixed = part.kernel.ndim > plane.kernel.ndim
            own = f"{name} from {_name(names, source)}".strip() if mixed else name
            if plane.kernel.dtype.kind != "c":
                found[own] = plane
                continue
            for imaginary, half in enumerate(("real part", "imaginary part")):
                found[", ".join(filter(None, [own, half]))] = _part(plane, imaginary)
    return found


def _part(plane: Estimate, imaginary: int) -> Estimate:
    """Return the fit of the real or the imaginary part of a complex kernel."""
    halves = None if plane.factor is None else np.split(plane.factor, 2)
    return dataclasses.replace(
        plane,
        kernel=plane.kernel.imag if imaginary else plane.kernel.real,
        root=None if halves is None else halves[imaginary],
        root_scale=1.0,
        convention=dataclasses.replace(plane.convention, numbers="real"),
        noise_std=plane.noise_std / math.sqrt(2.0),
        n_pixels=2 * plane.n_pixels,
        background=None,
    )


@of_any_dimension
def split_targets(fit: Estimate, names: Sequence[str] | None = None) -> dict[str, Estimate]:
    """Return the fit of each target channel by its name; a result that has one fit only is called ""."""
    if not fit.parts:
        return {"": fit}
    return {_name(names, channel): part for channel, part in enumerate(fit.parts)}


def _name(names: Sequence[str] | None, channel: int) -> str:
    if names is None:
        return f"channel {channel}"
    if channel >= len(names):
        raise ValueError(f"got {len(names)} names of channels ({', '.join(names)}), need one for each channel")
    return names[channel]


def _planes(part: Estimate) -> list[Estimate]:
    """Return a fit for each source of one target."""
    kernel, ndim = part.kernel, 3 if part.convention.ndim == 3 else 2
    if kernel.ndim == ndim:
        return [part if part.channel_axis is None else dataclasses.replace(part, channels=None, channel_axis=None)]
    if kernel.ndim != ndim + 1:
        raise ValueError(f"got a kernel of shape {kernel.shape}, need rows and columns, or several such kernels")
    size = kernel[0].size
    factors: list[Any] = [None] * len(kernel)
    if part.factor is not None:
        halves = np.split(part.factor, 2 if kernel.dtype.kind == "c" else 1)  # of real and imaginary parts
        factors = [np.concatenate(own) for own in zip(*(np.split(half, len(kernel)) for half in halves), strict=True)]
    rank = max(0, size - (kernel.size - part.rank))  # at least that many are determined
    alone = dataclasses.replace(part, rank=rank, channels=None, channel_axis=None)
    return [
        dataclasses.replace(alone, kernel=plane, root=factor, root_scale=1.0, priors=part.priors[at : at + 1])
        for at, (plane, factor) in enumerate(zip(kernel, factors, strict=True))
    ]


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes of one pair, and one of its channels, that a target's kernels were found in."""

    sources: list[Any]  # one image for each kernel
    target: Any
    surface: Array | None  # the background that lies in the target
    weights: Any  # of the target's pixels


def planes_of(fit: Estimate, image: Any, target: Any) -> list[list[Planes]]:
    """Return, for each target channel with a fit of its own ("shared" has one), the planes of all pairs."""
    images, targets = as_list(image), as_list(target)
    if (images is None) != (targets is None) or len(images or ()) != len(targets or ()):
        raise ValueError("got a different number of images and targets, need the pairs that the kernel was found in")
    fits = fit.parts or (fit,)
    found: list[list[Planes]] = [[] for _ in fits]
    for i, (one, other) in enumerate(zip(images or [image], targets or [target], strict=True)):
        if fit.curve is not None:
            one, other = fit.curve.image(one), fit.curve.target(other)  # noqa: PLW2901
        if fit.registration is not None:
            one = laid_on(one, fit.registration.of(i), fit.channel_axis)  # noqa: PLW2901
        sources = as_planes(one, "image", fit.channel_axis, NUMBERS)
        results = as_planes(other, "target", fit.channel_axis, NUMBERS)
        channels = fit.kernel.shape[: -2 if fit.convention.field is None else -3]
        n_sources = channels[-1] if channels else len(results)
        n_results = channels[0] if channels else len(sources)
        if (len(sources), len(results)) != (n_sources, n_results):
            raise ValueError(
                f"got an image of {len(sources)} channels and a target of {len(results)}, need {n_sources} and "
                f"{n_results}, as the fit has"
            )
        surfaces = [_surface(part, i, len(images or [image])) for part in fits]
        for channel, result in enumerate(results):
            at = channel if fit.parts else 0
            all_of = sources if fit.channels == "mixed" else [sources[channel]]
            surface = surfaces[at]
            if surface is not None and surface.ndim == 3:
                surface = np.moveaxis(surface, fit.channel_axis or 0, 0)[channel]
            weights = fits[at].weights
            if isinstance(weights, tuple):
                weights = weights[len(found[at])] if len(found[at]) < len(weights) else None
            known = isinstance(weights, np.ndarray) and weights.shape == tuple(result.shape)
            found[at].append(Planes(all_of, result, surface, weights if known else None))
    return found


def _surface(part: Estimate, pair_at: int, n_pairs: int) -> Array | None:
    """Return the background of a pair's target."""
    if part.background is None:
        return None
    if len(part.background.shapes) != n_pairs:
        raise ValueError(
            f"got {n_pairs} pair{'s'[: n_pairs > 1]} for a fit of {len(part.background.shapes)} with backgrounds of "
            "their own, need the lists of images and targets that the kernel was found in"
        )
    return part.background.image(pair_at)
