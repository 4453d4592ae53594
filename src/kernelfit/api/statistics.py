"""The statistics that users hold, with their methods."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..compiled.threads import one_blas_thread
from ..core import npz
from ..core.cross_spectra import CrossSpectra, packed_spectra, unpacked_spectra
from ..core.labels import Labels, with_labels
from ..core.normal_equations import NormalEquations, packed, unpacked
from ..core.validation import as_workers
from ..fitting.channels import in_shape, join
from ..fitting.context import Context, estimated, together
from ..solvers.auto import as_solver
from ..solvers.errors_in_variables import take_off
from ..solvers.least_squares import Solver
from ..solvers.wiener import divide
from .results import KernelFit, Saved, fields_of


@dataclass(frozen=True, eq=False)
class NormalStats(NormalEquations, Saved):
    """Sums over target pixels from which kernels are solved."""

    context: Context | None = None

    @classmethod
    def of(cls, equations: NormalEquations, context: Context | None = None) -> Self:
        """Return sums with the methods of this class.

        Parameters
        ----------
        equations : NormalEquations
            The sums.
        context : Context, optional
            What is known beside them.
        """
        return cls(**{**fields_of(equations), **({} if context is None else {"context": context})})

    @property
    def labels(self) -> Labels | None:
        """What the first pair said of its axes and units; None for plain arrays."""
        return None if self.context is None else self.context.labels

    def labelled(self, labels: Labels) -> Self:
        """Return the statistics of a pair that says so of its axes and units.

        Parameters
        ----------
        labels : Labels
            What it says.
        """
        return dataclasses.replace(self, context=dataclasses.replace(self.context or Context(), labels=labels))

    def __add__(self, other: NormalEquations) -> Self:
        """Return the statistics of the pixels of both; they have a sample of pixels if both have."""
        if not isinstance(other, NormalEquations):
            return NotImplemented
        return self._beside(other, NormalEquations.__add__)

    def __radd__(self, other: object) -> Self:
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: NormalEquations) -> Self:
        """Return the statistics of the pixels of this one that are not in `other`, a part of it, without a sample."""
        if not isinstance(other, NormalEquations):
            return NotImplemented
        return self._beside(other, NormalEquations.__sub__)

    def __mul__(self, factor: float) -> Self:
        """Return the statistics as if each pixel counted for a share of one; see `NormalEquations`."""
        scaled = NormalEquations.__mul__(self, factor)
        context = self.context
        if context is None or context.noise is None:
            return scaled
        noise = context.noise
        pairs = None if noise.pairs is None else factor * noise.pairs
        noise = dataclasses.replace(noise, gram=factor * noise.gram, pairs=pairs)
        return dataclasses.replace(scaled, context=dataclasses.replace(context, noise=noise))

    __rmul__ = __mul__

    def _beside(self, other: NormalEquations, operation: Callable[..., Any]) -> Self:
        """Add or subtract, the image's noise being in both sums meanwhile."""
        mine, theirs = self.context, getattr(other, "context", None)
        sums = operation(_observed(self), _observed(other))
        if mine is None and theirs is None:
            return self.of(sums)
        sign = 1.0 if operation is NormalEquations.__add__ else -1.0
        known = [None if context is None else context.noise for context in (mine, theirs)]
        context = (mine or Context()) + (theirs or Context())
        if sign < 0:
            context = dataclasses.replace(mine or Context(), tiles=(), noise=None)
        if any(known):
            noise = together((self.n_pixels, known[0]), (int(sign) * other.n_pixels, known[1]))
            sums, noise = noise.taken_off(sums)
            context = dataclasses.replace(context, noise=noise)
        return self.of(sums, context)

    def crop(self, shape: int | tuple[int, ...], corner: int | tuple[int, ...] | None = None) -> Self:
        """Return the statistics of a smaller support, exactly, without reading a pixel, and without a sample.

        Parameters
        ----------
        shape : int or (int, int)
            Rows and columns of the smaller support.
        corner : (int, int), optional
            The tap of this support that becomes tap (0, 0); by default the centre falls on the origin.
        """
        context = self.context
        if context is not None:
            if context.noise is not None:
                msg = "got statistics less the image's noise, need those with it: crop them first, then take it off"
                raise ValueError(msg)
            context = dataclasses.replace(context, tiles=())
        return dataclasses.replace(NormalEquations.crop(self, shape, corner), context=context)

    @one_blas_thread
    def without_image_noise(self, std: float | Sequence[float]) -> tuple["NormalStats", float]:
        """Return the statistics as they would be, on average, if the image had no noise of its own.

        White noise of standard deviation s in the image, independent of that of the target, adds ``n s^2`` to the
        diagonal of ``A'A`` and makes the least-squares kernel too small (attenuation). This takes it off again, but no
        more than leaves, in every direction, a tenth of what there was, or ``4 sqrt(taps / n)`` of it where that is
        more. Where pixels beyond the edge are assumed (boundary "fill", "symm", "mirror" or "nearest") the noise of
        the outermost ones adds up otherwise; ``find_kernel(image_noise=)`` counts them.

        The residual sum of squares stays what the pixels have at the new kernel: the noise of an equation is then
        ``sqrt(e^2 + s^2 |k|^2)``, e that of a target pixel.

        Parameters
        ----------
        std : float or sequence of float
            Standard deviation of the noise of an image pixel, for all terms or for each.

        Returns
        -------
        stats : NormalStats
            The corrected statistics.
        taken : float
            The share of ``n s^2`` that could be taken off, 1 unless `std` is more than the image can hold; 0 if the
            image does not determine every tap.

        Raises
        ------
        ValueError
            If `std` is negative or not finite, or not one number or one for each term.

        References
        ----------
        W. Fuller, "Measurement Error Models" (1987), sections 1.2 and 2.5.3, doi:10.1002/9780470316665.
        """
        stats, share = take_off(self, std)
        return self.of(stats), share

    @one_blas_thread
    def solve(self, solver: Solver | str | None = None) -> "KernelFit":
        """Return a kernel, with its errors and a verdict.

        Parameters
        ----------
        solver : solver or "auto", optional
            What to make of the statistics; the default is `LeastSquares()`.

        Returns
        -------
        KernelFit
            The result; `KernelFit.findings` says what is doubtful about it.
        """
        context = self.context or Context()
        estimate = estimated(self, context, as_solver(solver))
        apart = context.channels in ("separate", "mixed")
        found = in_shape(estimate, context) if apart else join([[estimate]], context)
        return KernelFit.of(found if self.labels is None else with_labels(found, self.labels))

    def _packed(self) -> npz.Packed:
        header, arrays = packed(self)
        context = header.pop("context")
        if context is not None:
            header["context"], own = context.packed()
            arrays = {**arrays, **{f"context_{name}": array for name, array in own.items()}}
        return header, arrays

    @classmethod
    def _unpacked(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Self:
        sums = {name: array for name, array in arrays.items() if not name.startswith("context_")}
        stats = NormalEquations(**unpacked(header, sums))
        if header.get("context") is None:
            return cls.of(stats)
        own = {name.removeprefix("context_"): arrays[name] for name in arrays.keys() - sums.keys()}
        return cls.of(stats, Context.unpacked(header["context"], own, stats))


def _observed(stats: NormalEquations) -> NormalEquations:
    """Return statistics with the image's noise in them."""
    context = getattr(stats, "context", None)
    plain = NormalEquations(**{field.name: getattr(stats, field.name) for field in dataclasses.fields(NormalEquations)})
    return plain if context is None or context.noise is None else context.noise.restored(plain)


@dataclass(frozen=True, eq=False)
class ChannelStats(Saved):
    """Statistics of several kernels, one for each channel of the target: with channels "separate" and "mixed".

    Those of other pairs with as many channels can be added with ``+``.

    Attributes
    ----------
    parts : tuple of NormalStats
        The statistics of each channel.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((40, 50, 3))
    >>> stats = kernelfit.accumulate(image, image * [1, 2, 3], 1, channel_axis=-1, channels="separate")
    >>> stats.solve().kernel.ravel().round(9)
    array([1., 2., 3.])
    """

    parts: tuple[NormalStats, ...]

    def __post_init__(self) -> None:
        if not self.parts or not all(isinstance(part, NormalEquations) for part in self.parts):
            raise ValueError(f"got parts={self.parts!r:.60}, need the NormalStats of at least one channel")

    @property
    def labels(self) -> Labels | None:
        """What the first pair said of its axes and units; None for plain arrays."""
        return self.parts[0].labels

    def labelled(self, labels: Labels) -> "ChannelStats":
        """Return the statistics of a pair that says so of its axes and units.

        Parameters
        ----------
        labels : Labels
            What it says.
        """
        return ChannelStats(tuple(part.labelled(labels) for part in self.parts))

    @property
    def n_pixels(self) -> int:
        """Number of target pixels of all channels."""
        return sum(part.n_pixels for part in self.parts)

    def __add__(self, other: "ChannelStats") -> "ChannelStats":
        if not isinstance(other, ChannelStats):
            return NotImplemented
        if len(self.parts) != len(other.parts):
            msg = f"got statistics of {len(self.parts)} and of {len(other.parts)} channels, need as many in both"
            raise ValueError(msg)
        return ChannelStats(tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def __mul__(self, factor: float) -> "ChannelStats":
        """Return the statistics as if each pixel counted for a share of one, above 0 and at most 1."""
        return ChannelStats(tuple(part * factor for part in self.parts))

    __rmul__ = __mul__

    def __radd__(self, other: object) -> "ChannelStats":
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @one_blas_thread
    def solve(self, solver: Solver | str | None = None) -> "KernelFit":
        """Return the kernels, with their errors and a verdict.

        Parameters
        ----------
        solver : solver or "auto", optional
            What to make of the statistics; the default is `LeastSquares()`.

        Returns
        -------
        KernelFit
            The result, with those of the channels as its `parts`.
        """
        chosen, context = as_solver(solver), self.parts[0].context or Context()
        fits = [estimated(part, part.context or Context(), chosen) for part in self.parts]
        found = join([fits], context)
        return KernelFit.of(found if context.labels is None else with_labels(found, context.labels))

    def _packed(self) -> npz.Packed:
        every = [part._packed() for part in self.parts]
        arrays = {f"{i}/{name}": array for i, (_, own) in enumerate(every) for name, array in own.items()}
        return {"parts": [header for header, _ in every]}, arrays

    @classmethod
    def _unpacked(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Self:
        parts = []
        for i, one in enumerate(header["parts"]):
            own = {name.partition("/")[2]: a for name, a in arrays.items() if name.partition("/")[0] == str(i)}
            parts.append(NormalStats._unpacked(one, own))
        return cls(tuple(parts))


def stats_of(found: Sequence[tuple[NormalEquations, Context]]) -> "NormalStats | ChannelStats":
    """Return the statistics of a call: those of its kernel, or of the kernel of each channel."""
    parts = tuple(NormalStats.of(*one) for one in found)
    return parts[0] if found[0][1].channels in (None, "shared") else ChannelStats(parts)


@dataclass(frozen=True, eq=False)
class SpectralStats(CrossSpectra, Saved):
    """Sums of spectra from which kernels are divided."""

    @classmethod
    def of(cls, spectra: CrossSpectra) -> Self:
        """Return spectra with the methods of this class.

        Parameters
        ----------
        spectra : CrossSpectra
            The spectra.
        """
        return cls(**fields_of(spectra))

    @one_blas_thread
    def solve(
        self, balance: float | str = "auto", penalty: str = "laplacian", *, workers: int | None = None
    ) -> "KernelFit":
        """Divide the spectra and return the kernel.

        Parameters
        ----------
        balance : float or "auto", optional
            The balance; see `find_kernel`. The default is chosen from the data.
        penalty : {"laplacian", "identity"}, optional
            What is held small: the kernel's second derivatives (default) or its taps.
        workers : int, optional
            Number of threads; the default is every processor this process may use.

        Returns
        -------
        KernelFit
            The kernel, with its spectrum.
        """
        return KernelFit.of(divide(self, balance, penalty, as_workers(workers)))

    def _packed(self) -> npz.Packed:
        return packed_spectra(self)

    @classmethod
    def _unpacked(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Self:
        return cls(**unpacked_spectra(header, arrays))


_CONTEXT = "    context : Context, optional\n        A sample of the pixels, to judge fits by.\n\n    Examples\n"
NormalStats.__doc__ = (NormalEquations.__doc__ or "").replace("    Examples\n", _CONTEXT, 1)
SpectralStats.__doc__ = CrossSpectra.__doc__
