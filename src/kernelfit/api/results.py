"""The result that users hold, with its methods."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..analysis import field
from ..analysis.export import as_map, export, to_dataframe, to_xarray
from ..analysis.integers import IntegerKernel, as_integers, polish
from ..analysis.psf import PsfMeasurements, measure_psf
from ..analysis.psf_volume import VolumePsfMeasurements
from ..analysis.recognition import Candidate, nearest, recognise
from ..core import npz, serialization
from ..core.container_calls import of_any_container
from ..core.dimensions import lowered, of_any_dimension
from ..core.estimate import Estimate
from ..core.geometry import Shape, default_origin
from ..core.model import Model, fields_of_model
from ..core.validation import Array
from ..core.variation import Polynomial
from ..data.warp import laid_on
from ..engines.forward import predict
from ..plotting.text import summary


def fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a record, as they are."""
    return {one.name: getattr(record, one.name) for one in dataclasses.fields(record) if one.init}


class Saved:
    """What can be kept in a file."""

    def _packed(self) -> npz.Packed:
        """Return a header of plain values, and the arrays."""
        raise NotImplementedError

    @classmethod
    def _unpacked(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """Undo `_packed`; refuse values that cannot be."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write it to an NPZ file, in one step.

        Parameters
        ----------
        path : path-like
            Name of the file, used as it stands.
        overwrite : bool, optional
            Whether an existing file may be replaced; the default is not.

        Raises
        ------
        FileExistsError
            If the file exists and `overwrite` is false.
        """
        npz.save(path, type(self).__name__, *self._packed(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, equal to the bit.

        Parameters
        ----------
        path : path-like
            Name of the file.

        Returns
        -------
        KernelFit, NormalStats, ChannelStats or SpectralStats
            What was saved, if it is of this class.

        Raises
        ------
        ValueError
            If the file is not a complete file of one.
        """
        return npz.load(path, cls.__name__, cls._unpacked)


@dataclass(frozen=True, eq=False)
class KernelFit(Estimate, Saved):
    """A kernel found in a pair of images."""

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """Return an estimate, and those of its parts, with the methods of this class.

        Parameters
        ----------
        estimate : Estimate
            What a solver returned.
        """
        estimate = lowered(estimate)
        return cls(**{**fields_of(estimate), "parts": tuple(cls.of(part) for part in estimate.parts)})

    @of_any_dimension
    def predict(self, image: npt.ArrayLike, pair: int | None = None) -> Array:
        """Apply the kernel to an image under the fit's own convention, and add the background.

        Parameters
        ----------
        image : array_like, shape (rows, cols)
            Any image at least as large as the kernel, with the channels along `channel_axis`. With a background of
            degree 1 or more it must be of the shape of the pair's.
        pair : int, optional
            Which pair's background, and motion, needed where there are several.

        Returns
        -------
        ndarray
            What the target would be; NaN where it depends on pixels beyond the edge and nothing is assumed of those.

        Raises
        ------
        ValueError
            If the image does not fit the kernel or the background.
        """
        if self.curve is not None:
            image = self.curve.image(image)
        if self.registration is not None:
            image = self.registered(image, pair)
        model = predict(image, self.kernel, self.convention, self.channel_axis)
        if self.background is not None:
            model = self._with_background(model, pair)
        return model if self.curve is None else self.curve.shown(model)

    def _with_background(self, model: Array, pair: int | None) -> Array:
        """Return a prediction with the background of a pair."""
        background = self.background
        assert background is not None
        if background.degree == 0:  # the same everywhere, so that any image will do
            sides = model.shape if self.channel_axis is None else np.delete(model.shape, self.channel_axis)
            own: Any = tuple(int(n) for n in sides)
            background = dataclasses.replace(background, shapes=(own,) * len(background.shapes))
        surface = background.image(pair)
        if surface.shape != model.shape:
            raise ValueError(
                f"got an image whose target has the shape {model.shape}, need {surface.shape}, for which the "
                "background was found; apply_kernel(image, fit.kernel, ...) gives the kernel's share alone"
            )
        return np.asarray(model + surface)

    @of_any_container
    def registered(self, image: npt.ArrayLike, pair: int | None = None) -> Array:
        """Return an image as it lies on the target: moved by `registration`, where the fit has one.

        Parameters
        ----------
        image : array_like, shape (rows, cols)
            An image of the shape of the pair's, with the channels along `channel_axis`.
        pair : int, optional
            Which pair's motion, needed where there are several.

        Returns
        -------
        ndarray of float64, of the image's shape
            NaN where a pixel lies beyond the edge, or near one that is not finite.

        Raises
        ------
        ValueError
            If the image is of another shape.
        """
        motion = None if self.registration is None else self.registration.of(pair)
        return laid_on(image, motion, self.channel_axis)

    @of_any_dimension
    def residual(self, image: npt.ArrayLike, target: npt.ArrayLike, pair: int | None = None) -> Array:
        """Return the target less the prediction.

        Parameters
        ----------
        image, target : array_like
            A pair, such as the one the kernel was found in.
        pair : int, optional
            Which pair's background is taken off, needed where there are several.

        Returns
        -------
        ndarray, of the target's shape
            The residual; NaN where nothing is predicted.
        """
        model = self.predict(image, pair)
        result = np.asarray(target)
        if result.shape != model.shape:
            raise ValueError(
                f"got a target of shape {result.shape}, need {model.shape} for this image and the fit's "
                f"{self.convention}"
            )
        return np.asarray(result - model)

    def at(self, row: float, col: float | None = None) -> "KernelFit":
        """Return the kernel at a place of the image, if it varies over that.

        Parameters
        ----------
        row, col : float
            A pixel of the image, or a place between pixels: the one that the kernel spreads. Of signals the sample
            alone.

        Returns
        -------
        KernelFit
            A kernel of rows and columns, or of taps, with its errors; this one itself where the kernel is the same
            everywhere.

        Raises
        ------
        ValueError
            If the place does not lie in the image.
        """
        if self.convention.field is None:
            return self
        found = KernelFit.of(field.kernel_at(self, row, col))
        place = ", ".join(repr(float(at)) for at in (row, col) if at is not None)
        return dataclasses.replace(found, call=(f"{self.reproduce()}.at({place})",))

    def sum_map(self) -> Array:
        """Return the sum of the kernel at each pixel of the image: by which factor light there gets brighter.

        Returns
        -------
        ndarray, shape (rows, cols), of signals (samples,)
            Of the image's shape, after axes of channels if there are any. `at` has the error at a place.

        Raises
        ------
        ValueError
            If the kernel is the same everywhere.
        """
        return as_map(self.labels, field.sum_map(self))  # type: ignore[no-any-return]

    def width_map(self, grid: int | Shape | None = None) -> Array:
        """Return the width of the kernel over the image, for kernels of one peak.

        Parameters
        ----------
        grid : int or (int, int), optional
            Number of places along rows and columns, from edge to edge; by default nine along the longer side.

        Returns
        -------
        ndarray, shape of the grid
            Full width at half maximum in pixels, the geometric mean of the two axes; NaN where there is none. `at` has
            the error at a place.

        Raises
        ------
        ValueError
            If the kernel is the same everywhere, or there are several channels.
        """
        return as_map(self.labels, field.width_map(self, grid), field.places(self, grid))  # type: ignore[no-any-return]

    def psf(self) -> PsfMeasurements | VolumePsfMeasurements:
        """Measure the kernel as a point spread function: sum, shift, widths, shape, encircled energy, MTF50.

        Returns
        -------
        PsfMeasurements or VolumePsfMeasurements
            The numbers with their errors, as `measure_psf` gives them; of a kernel that varies over the image those at
            its middle.
        """
        return measure_psf(field.middle(self))

    def recognise(self, *, level: float = 1e-3) -> tuple[Candidate, ...]:
        """Name the filter that the kernel is, within its errors.

        Parameters
        ----------
        level : float, optional
            A filter whose chi-square is as large as this kernel's with a smaller probability is none, default 0.001.

        Returns
        -------
        tuple of Candidate
            The filters that fit, best first; empty where none does. See `kernelfit.recognise`.
        """
        return recognise(field.middle(self), level=level)

    def nearest(self) -> Candidate | None:
        """Return the named filter nearest to the kernel, whether it fits or not.

        Returns
        -------
        Candidate or None
            Its `p_value` says whether it fits, its `distance` how far off it is; None where the kernel is lost in its
            errors.
        """
        return nearest(field.middle(self))

    def as_integers(self) -> IntegerKernel | None:
        """Return the kernel over the smallest denominator for which every tap is a whole number within its error.

        Returns
        -------
        IntegerKernel or None
            `numerators`, `denominator`, and the `probability` that a kernel of arbitrary taps would have such a
            denominator; None if no denominator up to 65536 does.
        """
        return as_integers(field.middle(self))

    def polished(self) -> Self:
        """Return the fit with its kernel as the whole numbers that it is made of, which have no error.

        Returns
        -------
        KernelFit
            With the taps of `as_integers` where chance hardly makes such (its `probability` is below 1e-6); else this
            fit, with a note that says why not.
        """
        return dataclasses.replace(self, **polish(self), call=(f"{self.reproduce()}.polished()",))

    @of_any_dimension
    def export(self, tool: str) -> str:
        """Return text that lays the kernel on an image in another tool, and gives the target.

        Parameters
        ----------
        tool : {"scipy", "opencv", "torch", "imagemagick", "ffmpeg", "gimp", "imagej", "latex"}
            Source that defines ``apply(image)`` for the first three, with the fit's boundary, origin, stride, channels
            and constant background; a script of the shell that takes a file and the name of the result, or a macro,
            for the next four, of mode "same" and one kernel for all channels, with a stride for ImageMagick alone; a
            matrix for the last, one of each channel, of whole numbers where the taps are such. FFmpeg takes at most
            7 x 7 taps, or 49 in a line, rounded to 1 / 32767 of the largest. GIMP (2.10) adds up blocks of 5 x 5 taps,
            on the values in the file.

        Returns
        -------
        str
            The text.

        Raises
        ------
        ValueError
            If the tool is not known or cannot do what the kernel needs, the kernel or the background varies, or the
            mode is "crop".
        """
        return export(self, tool)

    def to_dataframe(self) -> Any:
        """Return a pandas table with a row for each tap.

        Returns
        -------
        pandas.DataFrame
            Columns ``row`` and ``column``, the lags of the tap (``lag`` for signals), before them ``channel`` or
            ``target_channel`` and ``image_channel`` where there are several kernels; ``tap``, ``stderr``, and ``low``
            and ``high``, the ends of its 95 % interval.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return to_dataframe(self)

    def to_xarray(self) -> Any:
        """Return the kernel as an array of xarray.

        Returns
        -------
        xarray.DataArray
            The kernel, its axes named after those of the image, ``y_lag`` of ``y`` (of plain arrays ``row_lag``,
            ``column_lag``), after axes of channels, or of the functions by which it varies, if there are any. The
            coordinates are `lags`: in the image's units where it has evenly spaced coordinates, else in pixels. The
            coordinate ``stderr`` has the standard errors.

        Raises
        ------
        ImportError
            If xarray is not installed.
        """
        return to_xarray(self)

    def plot(
        self, image: npt.ArrayLike | None = None, target: npt.ArrayLike | None = None, *, figure: Any = None
    ) -> Any:
        """Draw the one figure that answers "may I believe this?"; needs matplotlib, the extra "plot".

        Parameters
        ----------
        image, target : array_like, optional
            The pair the kernel was found in; with it the figure shows the residual, too.
        figure : matplotlib.figure.Figure, optional
            Where to draw; the default is a new figure.

        Returns
        -------
        matplotlib.figure.Figure
            The verdict, the kernel and its errors, cuts and frequency response, and what the kernel leaves unexplained.
        """
        from ..plotting.overview import overview

        return overview(self, image, target, figure=figure)

    def _repr_html_(self) -> str:
        """Return the result for a notebook: the verdict, the kernel as a picture, and the figures."""
        from ..plotting.text import fit_html

        return fit_html(self)

    def summary(self) -> str:
        """Return the result in words and figures, a screen long at most."""
        return summary(self)

    def reproduce(self) -> str:
        """Return the call that fits this model again, with all that was given or found of it written out.

        Returns
        -------
        str
            ``find_kernel(image, target, (rows, cols), ...)`` with the convention, the background and the channels, what
            says which pixels count, the noise and the solver. Executed where the names stand for what was given, it
            returns the same kernel: arrays go by the names of their keywords, such as ``mask=mask``. What another verb
            or a method made is that one's call.
        """
        if len(self.call) == 1:
            return self.call[0]
        verb, image, target, *given = self.call or ("find_kernel", "image", "target")
        if verb != "find_kernel":
            return f"{verb}({', '.join([image, target, *given])})"
        ndim = self.convention.ndim
        shape: Any = tuple(self.kernel.shape[-ndim:])
        default = Model(shape)
        fields = fields_of_model(self)
        same = {"origin": default_origin(shape), "stride": (1,) * ndim, "offset": (0,) * ndim}
        if self.curve is not None:
            fields |= {"curve": self.curve.family, "curve_side": self.curve.side}
        fields["register"] = None if self.registration is None else self.registration.kind
        same = {**{name: getattr(default, name) for name in fields}, **same}
        varies = fields.pop("variation")
        words = [f"{name}={v!r}" for name, v in fields.items() if v is not None and v != same[name]]
        if varies is not None:
            plain = isinstance(varies, Polynomial) and varies.flux == "free"
            words.append(f"variation={varies.degree if plain else f'kernelfit.{varies!r}'}")
        return f"find_kernel({', '.join([image, target, repr(shape), *words, *given])})"

    def _packed(self) -> npz.Packed:
        return serialization.packed(self)

    @classmethod
    def _unpacked(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Self:
        return cls.of(serialization.unpacked(header, arrays))


KernelFit.__doc__ = Estimate.__doc__
