"""Apply a kernel: the independent check. It shares nothing with accumulation but the conventions."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core import geometry
from ..core.dimensions import of_any_dimension
from ..core.field import Pairs
from ..core.geometry import Convention, Geometry, Shape
from ..core.model import Model
from ..core.validation import Array, as_workers
from ..data.complex_parts import Part
from ..data.observation import NUMBERS, as_array, as_image, as_planes, source_reader
from ..data.reader import Reader, any_in_window
from ..data.volumes import as_volumes, lay_planes
from ..data.volumes import target_shape as lay_volume_shapes

_TILE = 1024
_FEWEST = 1 << 16  # pixels from which it pays to look for columns and rows
_BAND = 32  # rows
_SUMMED = 49  # taps up to which shifted images are added; from there on it is quicker to transform
# Nanoseconds for a pixel on one core: a transform, each cross of a column and a row, each of its taps. Measured with
# `benchmarks.apply` (2026-11, Intel Xeon, vectors of 512 bits) as 50, 1 and .05, those of the crosses doubled since
# other processors have vectors half as wide.
_TRANSFORM_NS, _CROSS_NS, _TAP_NS = 50.0, 2.0, 0.1


@of_any_dimension
def apply_kernel(
    image: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    mode: str = "same",
    boundary: str = "fill",
    fillvalue: float = 0.0,
    origin: int | tuple[int, ...] | None = None,
    operation: str = "convolution",
    stride: int | tuple[int, ...] = 1,
    offset: int | tuple[int, ...] = 0,
    size: tuple[int, ...] | None = None,
    channel_axis: int | None = None,
    workers: int | None = None,
) -> Array:
    """Lay a kernel on an image under any convention.

    ``result[t] = sum_p kernel[p] * image[t - (p - origin)]``, or ``image[t + (p - origin)]`` for correlation: what
    `scipy.signal.convolve2d` does for the boundaries "fill", "wrap" and "symm", and `scipy.ndimage.convolve` for
    "mirror" and "nearest" (and "reflect", which is "symm"). With a stride ``[offset::stride]`` of it along each axis.

    Parameters
    ----------
    image : array_like, shape (rows, cols)
        Any dtype of real or complex numbers; never changed. Three dimensions with `channel_axis`, and for volumes; four
        for volumes with channels.
    kernel : array_like, shape (rows, cols)
        The kernel, odd or even; without `channel_axis` one of three dimensions is for a volume. With
        `channel_axis` also one for each channel, shape (channels, rows, cols), or one for
        each pair of channels, shape (result's channels, image's channels, rows, cols); of volumes planes stand before
        the rows.
    mode : {"same", "valid", "full", "crop"}, optional
        Size of the result, default "same"; "crop" for that of `size`.
    boundary : {"fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lies beyond the edge, default "fill".
    fillvalue : float, optional
        The value beyond the edge for ``boundary="fill"``, default 0.
    origin : int or (int, int), optional
        The tap that multiplies the pixel under the output pixel, for the modes "same" and "crop". The default is SciPy
        signal's centre, ``(side - 1) // 2``.
    operation : {"convolution", "correlation"}, optional
        Whether the kernel is laid on the image flipped (default) or as it is.
    stride, offset : int or (int, int), optional
        Every how many pixels one is kept, along rows and columns, and which one first; all by default.
    size : (int, int), optional
        Rows and columns of the result, for mode "crop".
    channel_axis : int, optional
        The axis of the image that holds the channels, which is that of the result as well. The default None is for an
        image of one plane.
    workers : int, optional
        Number of threads; the default is every processor this process may use.

    Returns
    -------
    ndarray of float64, or of complex128
        The result, equal to that of the functions named above to rounding; NaN where a pixel under the kernel is NaN or
        infinite.

    Raises
    ------
    TypeError
        If a dtype is not one of numbers, or a keyword is of the wrong type.
    ValueError
        If an array is empty or not 2-D, a keyword's value is unknown, a tap is not finite, or the kernel is larger than
        the image allows.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> kernelfit.apply_kernel(np.eye(3), np.ones((1, 2)))
    array([[1., 1., 0.],
           [0., 1., 1.],
           [0., 0., 1.]])
    """
    given = kernel if hasattr(kernel, "shape") else as_array(kernel, "kernel", NUMBERS)
    axes = len(given.shape) if channel_axis is None else len(as_array(image, "image", NUMBERS).shape) - 1
    ndim = 3 if axes == 3 else 2
    taps = as_kernel(given, 0 if ndim == 3 else channel_axis)
    model = Model(
        taps.shape[-3:] if ndim == 3 else _sides(taps),
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    if mode is None:
        raise ValueError("got mode=None, need 'same', 'valid' or 'full', or 'crop' with a size")
    if boundary is None and mode != "valid":
        raise ValueError(
            "got boundary=None, need 'fill', 'wrap', 'symm', 'mirror' or 'nearest' (or mode='valid', which needs none)"
        )
    if (mode == "crop") != (size is not None):
        raise ValueError(f"got mode={mode!r} with size={size!r}, need a size for mode='crop' and for no other")
    size = None if size is None else geometry.kernel_shape(size, ndim)
    return predict(image, taps, model.convention(mode, size), channel_axis, workers)


def as_kernel(kernel: npt.ArrayLike, channel_axis: int | None) -> Array:
    """Return a kernel, or the kernels of channels, in double precision; refuse anything else."""
    given = kernel if hasattr(kernel, "shape") else as_array(kernel, "kernel", NUMBERS)
    flat = given
    if channel_axis is not None and len(given.shape) in (3, 4, 5):
        array = np.asarray(given)
        flat = array.reshape(-1, array.shape[-1]) if array.size else array[..., 0]
    taps = np.asarray(as_image(flat, "kernel", NUMBERS))
    wrong = ~np.isfinite(taps.reshape(given.shape))
    if wrong.any():  # a single one makes all pixels NaN
        first = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"got kernel with {int(wrong.sum())} of {wrong.size} taps NaN or infinite, the first at {first}; need "
            "finite ones: numpy.nan_to_num(kernel) leaves them out"
        )
    found: Any = taps.astype(np.complex128 if taps.dtype.kind == "c" else np.float64)
    return found.reshape(given.shape)  # type: ignore[no-any-return]


def predict(
    image: npt.ArrayLike, kernel: Array, conv: Convention, channel_axis: int | None = None, workers: int | None = None
) -> Array:
    """Apply a kernel, or those of channels, as `conv` says; NaN where nothing is assumed of what is needed."""
    read: Any = as_volumes if conv.ndim == 3 else as_planes
    filtered = functools.partial(
        _of_volume if conv.ndim == 3 else _filtered, axis=channel_axis, workers=as_workers(workers)
    )
    return _by_parts(filtered, read(image, "image", channel_axis, NUMBERS), kernel, conv)


def _by_parts(filtered: Callable[..., Array], sources: list[Any], kernel: Array, conv: Convention) -> Array:
    """Return what a function makes of planes, or volumes, and a kernel of which it takes real ones."""
    firsts = [source[0] if isinstance(source, list) else source for source in sources]
    if all(np.dtype(one.dtype).kind != "c" for one in (kernel, *firsts)):
        return filtered(sources, kernel, conv)

    def part_of(source: Any) -> Any:
        return [part_of(plane) for plane in source] if isinstance(source, list) else Part(source, imaginary=imaginary)

    total: Any = 0.0
    for unit, imaginary in ((1.0, False), (1j, True)):  # of the image, then of the kernel
        parts, own = part_of(sources), conv
        if imaginary:
            own = dataclasses.replace(conv, fillvalue=0.0)
        if not imaginary or any(np.dtype(one.dtype).kind == "c" for one in firsts):
            total = total + unit * filtered(parts, kernel.real, own)
            if kernel.dtype.kind == "c":
                total = total + 1j * unit * filtered(parts, kernel.imag, own)
    return np.asarray(total)


def _filtered(sources: list[Any], kernel: Array, conv: Convention, axis: int | None, workers: int) -> Array:
    """Return what real kernels make of real planes."""
    ndim = kernel.ndim - (conv.field is not None)
    n_sources = kernel.shape[ndim - 3] if ndim > 2 else len(sources)
    _require_channels(len(sources), n_sources, axis)
    plan = geometry.lay_out(tuple(sources[0].shape), _sides(kernel), conv)
    if conv.field is not None and conv.field.shape != plan.image_shape:
        raise ValueError(
            f"got an image of shape {plan.image_shape}, need {conv.field.shape}, over which the kernel was found to "
            "vary; fit.at(row, col) is the kernel at one place"
        )
    if ndim == 4:
        planes = [
            functools.reduce(np.add, [_varied(s, k, plan, workers) for s, k in zip(sources, row, strict=True)])
            for row in kernel
        ]
    else:
        each = [kernel] * n_sources if ndim == 2 else kernel
        planes = [_varied(s, k, plan, workers) for s, k in zip(sources, each, strict=True)]
    return planes[0] if axis is None else np.stack(planes, axis=axis)


def _of_volume(sources: list[Any], kernel: Array, conv: Convention, axis: int | None, workers: int) -> Array:
    """Return what kernels make of the channels of a volume, as `_filtered` does of planes."""
    n_sources = len(sources) if kernel.ndim == 3 else kernel.shape[-4]
    _require_channels(len(sources), n_sources, axis)
    shape = lay_volume_shapes((len(sources[0]), *sources[0][0].shape), kernel.shape[-3:], conv)
    rows = kernel[..., None, :, :, :] if kernel.ndim < 5 else kernel
    found = []
    for t in range(n_sources if kernel.ndim < 5 else len(kernel)):
        own = (sources[t : t + 1], rows if kernel.ndim == 3 else rows[t]) if kernel.ndim < 5 else (sources, kernel[t])
        out = np.full(shape, np.nan)
        for at, plane in _planes(*own, conv, shape, range(shape[0]), workers):
            out[at] = plane
        found.append(out)
    return found[0] if axis is None else np.stack(found, axis=axis)


def _require_channels(given: int, n_sources: int, axis: int | None) -> None:
    """Refuse an image of another number of channels than the kernels have."""
    if given != n_sources:
        need = f"{n_sources} channels" + ("; say which axis holds them (channel_axis)" if axis is None else "")
        raise ValueError(f"got an image of {given} channel{'s'[: given > 1]} and kernels for {n_sources}, need {need}")


def plane_of(sources: list[list[Any]], kernels: Array, conv: Convention, at: int, shape: tuple[int, ...]) -> Array:
    """Return one plane of what kernels make of volumes, whose target has a shape; NaN where nothing is assumed."""
    whole = lay_volume_shapes((len(sources[0]), *sources[0][0].shape), kernels.shape[1:], conv)
    if whole != tuple(shape):
        raise ValueError(f"got a target of shape {tuple(shape)}, need {whole} for this image and fit")

    def plane(images: list[list[Any]], kernels: Array, conv: Convention) -> Array:
        found = dict(_planes(images, kernels, conv, whole, (at,), as_workers(None)))
        return found.get(at, np.full(whole[1:], np.nan))

    return _by_parts(plane, sources, kernels, conv)


def _planes(
    sources: list[list[Any]],
    kernels: Array,
    conv: Convention,
    shape: tuple[int, int, int],
    wanted: Sequence[int],
    workers: int,
) -> Iterator[tuple[int, Array]]:
    """Yield some planes of what kernels, one for each source, make of volumes, each with its number."""
    blank = np.broadcast_to(np.float64(0), shape[1:])
    for one in lay_planes(sources, [[blank] * shape[0]], kernels.shape[1:], conv):
        assert one.plane is not None
        if one.plane.at in wanted:
            both = zip(one.sources, kernels.reshape(-1, *kernels.shape[2:]), strict=True)
            parts = [_plane(reader, taps, one.geometry, workers) for reader, taps in both]
            yield one.plane.at, functools.reduce(np.add, parts)


def _sides(kernel: Array) -> Shape:
    return kernel.shape[-2], kernel.shape[-1]


def _varied(source: object, kernel: Array, plan: Geometry, workers: int) -> Array:
    """Return what a kernel makes of one plane, or the kernels of the functions by which it varies."""
    field = plan.convention.field
    if field is None:
        return _plane(source_reader(source, plan), kernel, plan, workers)
    readers = [dataclasses.replace(source_reader(source, plan), weight=weight) for weight in field.weights]
    parts = [_plane(r, k, plan, workers) for r, k in zip(readers, kernel, strict=True)]
    return functools.reduce(np.add, parts)


def _plane(source: Reader, kernel: Array, plan: Geometry, workers: int) -> Array:
    used = apply_used(source, kernel, plan, workers)
    if plan.size == plan.target_shape:
        return used
    out = np.full(plan.target_shape, np.nan)
    out[plan.used] = used
    return out


def columns_and_rows(taps: Array) -> tuple[Array, Array] | None:
    """Return columns and rows whose products add up to the taps, to rounding; None where a transform is quicker."""
    # Each is a cross of the taps that are left, through the largest of them, so that whole numbers stay whole.
    left, size = np.array(taps, dtype=np.float64), float(np.abs(taps).max())
    columns, rows = [], []
    for _ in range(int(_TRANSFORM_NS / (_CROSS_NS + _TAP_NS * sum(taps.shape)))):
        i, j = np.unravel_index(int(np.argmax(np.abs(left))), left.shape)
        columns.append(left[:, j].copy())
        rows.append(left[i] / (left[i, j] or 1.0))
        left -= np.outer(columns[-1], rows[-1])
        if float(np.abs(left).max()) <= 4 * np.finfo(np.float64).eps * size:
            return np.array(columns), np.array(rows)
    return None


@np.errstate(over="ignore", invalid="ignore")
def _lay(block: Array, columns: Array, rows: Array, stride: Shape, out: Array, at: tuple[slice, slice]) -> bool:
    """Lay a kernel of few columns and rows on a block, for a part of `out`; say whether what comes out is finite."""
    from ..compiled.separable import correlate_separable  # compiled when first used

    zeros = np.zeros((len(columns), 3 * stride[0]))
    down, lag = np.concatenate([zeros, columns, zeros], axis=1), block.strides[0] // 8
    flat = np.lib.stride_tricks.as_strided(block, (lag * (len(block) - 1) + block.shape[1],), (8,))
    first, (height, width) = at[0].start * out.shape[1] + at[1].start, out[at].shape
    place, lines = (first, out.shape[1], height, width), np.zeros(5 * block.shape[1] + 64)
    return bool(correlate_separable(flat, lag, down, rows, *stride, out.reshape(-1), *place, lines) == 0.0)


def _tiles(plan: Geometry, tile: Shape, *, edges: bool) -> list[tuple[slice, slice]]:
    """Cut the target into tiles; with `edges` what needs pixels beyond the edge of the image apart."""
    axes = []
    sides = zip(plan.size, plan.image_shape, plan.kernel_shape, plan.stride, plan.before, tile, strict=True)
    for n, pixels, k, step, before, most in sides:
        low, high = max(0, -(-before // step)), min(n, (pixels + before - k) // step + 1)
        ends = sorted({0, low, high, n}) if edges and low < high else [0, n]
        cuts = [i for a, b in itertools.pairwise(ends) for i in range(a, b, max(1, most // step))]
        axes.append([slice(a, b) for a, b in itertools.pairwise([*cuts, n])])
    return [(rows, cols) for rows in axes[0] for cols in axes[1]]


@np.errstate(over="ignore", invalid="ignore")  # what is infinite then is refused where it is written
def correlated(block: Array, taps: Array, workers: int = 1) -> Array:
    """Return ``correlate(block, taps, "valid")`` by a cyclic transform; SciPy's takes half a second to import."""
    inside = tuple(n - k + 1 for n, k in zip(block.shape, taps.shape, strict=True))
    if taps.size > _SUMMED or block.ndim != 2:
        sides = [scipy.fft.next_fast_len(n, real=True) for n in block.shape]
        spectrum = scipy.fft.rfftn(block, sides, workers=workers)
        spectrum *= scipy.fft.rfftn(taps, sides, workers=workers).conj()
        return np.asarray(scipy.fft.irfftn(spectrum, sides, workers=workers)[tuple(map(slice, inside))])
    width, out, places = inside[1], np.zeros(inside), np.argwhere(taps).tolist()
    for row in range(0, inside[0], _BAND):  # what is read and written stays in the cache
        rows = out[row : row + _BAND]
        part = np.empty_like(rows)
        for i, j in places:
            rows += np.multiply(block[row + i : row + i + len(rows), j : j + width], taps[i, j], out=part)
    return out


def apply_used(reader: Reader, kernel: Array, plan: Geometry, workers: int) -> Array:
    """Return what a kernel makes of a source on the target pixels that are used, tile by tile."""
    taps = kernel[::-1, ::-1] if plan.flipped else kernel
    factors = columns_and_rows(taps) if plan.n_pixels >= _FEWEST else None
    out = np.empty(plan.size)
    (down, across), (rows, cols) = plan.stride, taps.shape

    def tile(at: tuple[slice, slice]) -> None:
        part, first = out[at], (down * at[0].start, across * at[1].start)
        shape = (down * (part.shape[0] - 1) + rows, across * (part.shape[1] - 1) + cols)
        seen = None if factors is None else reader.view(*first, shape)
        block = reader.block(*first, shape) if seen is None else seen
        if factors is not None and _lay(block, *factors, plan.stride, out, at):
            return
        known = np.isfinite(block)
        if not known.all():  # a transform would spread one bad pixel over the whole block
            block = np.where(known, block, 0.0)
        if factors is None:
            part[...] = correlated(block, taps)[::down, ::across]
        else:
            _lay(block, *factors, plan.stride, out, at)
        if not known.all():
            part[any_in_window(~known, taps.shape)[::down, ::across]] = np.nan

    each = (_TILE, _TILE) if factors is None else (_TILE // 4, _TILE)
    tiles = _tiles(plan, each, edges=factors is not None and reader.plain)
    with ThreadPoolExecutor(workers, thread_name_prefix="kernelfit") as pool:
        for _ in pool.map(tile, tiles):
            pass
    return out


def propagated(variance: npt.ArrayLike, kernel: Array, conv: Convention, workers: int | None = None) -> Array:
    """Return the variance of what a kernel makes of independent pixels, ``sum_p k[p]^2 variance[t - (p - origin)]``."""
    # NaN of pixels that are not known spreads; a fill value has no noise. Of a kernel that varies over the field it is
    # the square of the kernel at the pixel that is spread, a sum over the products of its functions.
    conv = dataclasses.replace(conv, fillvalue=0.0)
    if conv.field is None:
        squares = kernel**2
    else:
        pairs = Pairs(conv.field.variation)
        both = itertools.combinations_with_replacement(range(len(kernel)), 2)
        squares = np.stack([(1.0 + (i != j)) * kernel[i] * kernel[j] for i, j in both])
        conv = dataclasses.replace(conv, field=dataclasses.replace(conv.field, variation=pairs))
    return np.maximum(predict(variance, squares, conv, workers=workers), 0.0)
