"""The conventions of the problem, in integers only: what lies where, before any pixel is read.

Every mode, boundary and operation is reduced here to one problem, the *valid* correlation of an
extended image ``P`` with taps ``c``::

    target[offset + t] = sum_u c[u] * P[stride * t + u],    0 <= t < size,    0 <= u < side

``P`` starts ``before`` pixels ahead of the image and has ``stride * (size - 1) + side`` pixels along each axis.
Nothing past this door knows about modes, and nothing past `polyphase` about strides.
"""

import dataclasses
import operator
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .field import Field, field_from
from .validation import as_number, known

#: Characters of a value that an error repeats.
_LONGEST = 80
#: The modes whose size the shapes tell; a "crop" has a size of its own.
MODES = ("same", "valid", "full")
BOUNDARIES = (None, "fill", "wrap", "symm", "mirror", "nearest")
OPERATIONS = ("convolution", "correlation")
Shape = tuple[int, int]
#: (first element of the destination, first element of the image or None beyond it, length, step)
Run = tuple[int, int | None, int, int]


@dataclass(frozen=True)
class Convention:
    """How a kernel was, or is to be, laid on an image.

    Parameters
    ----------
    mode : {"same", "valid", "full", "crop"}
        Size of the target relative to the image, as in `scipy.signal.convolve2d`; "crop" for one of a size of its own,
        which `origin` lays anywhere.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}
        What lies beyond the edge of the image; None assumes nothing.
    fillvalue : float
        The value beyond the edge when `boundary` is "fill".
    origin : tuple of int
        (row, column) of the tap that multiplies the pixel under the output pixel; outside the kernel for a window of
        lags that does not hold 0.
    operation : {"convolution", "correlation"}
        Whether the kernel is laid on the image flipped (convolution) or as it is.
    stride, offset : tuple of int
        Which pixels of that make the target: ``[offset[0]::stride[0], offset[1]::stride[1]]``.
    size : tuple of int or None
        Rows and columns of the target in mode "crop".
    field : Field or None
        The functions by which the kernel varies over the image; None for one that is the same everywhere.
    ndim : int
        1 for signals, whose origin, stride, offset and size are tuples of one number; 2 for images; 3 for volumes,
        where they are tuples of three, (plane, row, column).
    numbers : {"real", "complex", "real of complex"}
        Whether images and kernel are real or complex, or the kernel of complex images is real.
    apart : bool
        Whether the real and imaginary parts of complex numbers are counted apart, each pixel as two and a complex
        kernel as two, as they are in statistics.
    """

    mode: str = "same"
    boundary: str | None = None
    fillvalue: float = 0.0
    origin: Shape = (0, 0)
    operation: str = "convolution"
    stride: Shape = (1, 1)
    offset: Shape = (0, 0)
    size: Shape | None = None
    field: Field | None = None
    ndim: int = 2
    numbers: str = "real"
    apart: bool = False

    @property
    def parts(self) -> tuple[int, int]:
        """Number of real numbers in what counts as one pixel, and as one tap."""
        if self.apart or self.numbers == "real":
            return 1, 1
        return 2, 1 + (self.numbers == "complex")

    @property
    def strided(self) -> bool:
        """Whether the target holds not every pixel."""
        return max(self.stride) > 1

    def stored(self) -> dict[str, Any]:
        """Return it as plain values, as files hold it; `convention_from` undoes it."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {**fields, "field": None if self.field is None else self.field.stored()}

    def keywords(self) -> dict[str, Any]:
        """Return the convention as keywords of `find_kernel`."""
        fields = {name: getattr(self, name) for name in ("mode", "boundary", "fillvalue", "operation")}
        origin = self.origin if self.mode in ("same", "crop") else None
        variation = None if self.field is None else self.field.variation
        return {**fields, "origin": origin, "stride": self.stride, "offset": self.offset, "variation": variation}

    def __str__(self) -> str:
        edge = "nothing assumed beyond the edge" if self.boundary is None else f"boundary {self.boundary!r}"
        if self.boundary == "fill":
            edge += f" with {self.fillvalue:g}"
        fields = (self.origin, self.stride, self.offset)
        origin, stride, offset = fields if self.ndim > 1 else (value[-1] for value in fields)
        lattice = f", stride {stride} from {'pixel' if self.ndim > 1 else 'sample'} {offset}" if self.strided else ""
        size = "" if self.size is None else f" of {'x'.join(map(str, self.size[-self.ndim :]))}"
        varies = "" if self.field is None else f", varying as a {self.field.variation}"
        numbers = "" if self.numbers == "real" else f", {self.numbers} numbers"
        return f"{self.operation}, mode {self.mode!r}{size}, {edge}, origin {origin}{lattice}{varies}{numbers}"


@dataclass(frozen=True)
class Geometry:
    """One pair of shapes reduced to the valid problem; made by `lay_out`."""

    #: image_shape, target_shape, kernel_shape: as the user gave them
    image_shape: Shape
    target_shape: Shape
    kernel_shape: Shape
    convention: Convention
    before: Shape  # pixels by which the extended image starts ahead of the image
    offset: Shape  # first target pixel used
    size: Shape  # rows and columns of target pixels used

    @property
    def n_taps(self) -> int:
        """Number of unknowns of one source image."""
        return self.kernel_shape[0] * self.kernel_shape[1]

    @property
    def n_pixels(self) -> int:
        """Number of target pixels used, that is of equations."""
        return self.size[0] * self.size[1]

    @property
    def used(self) -> tuple[slice, slice]:
        """Rows and columns of the target that are used."""
        (row, col), (rows, cols) = self.offset, self.size
        return slice(row, row + rows), slice(col, col + cols)

    @property
    def extended_shape(self) -> Shape:
        """Shape of the extended image."""
        rows, cols = (s * (n - 1) + k for s, n, k in zip(self.stride, self.size, self.kernel_shape, strict=True))
        return rows, cols

    @property
    def stride(self) -> Shape:
        """Pixels of the image from one pixel of the target to the next."""
        return self.convention.stride

    @property
    def phases(self) -> Shape:
        """Phases of the image along each axis that taps fall on: tap u falls on phase ``u % phases``."""
        return min(self.stride[0], self.kernel_shape[0]), min(self.stride[1], self.kernel_shape[1])

    @property
    def phase_shape(self) -> Shape:
        """Rows and columns of taps on each phase, for the last ones with taps that do not exist."""
        (rows, cols), (down, across) = self.kernel_shape, self.phases
        return -(-rows // down), -(-cols // across)

    @property
    def flipped(self) -> bool:
        """Whether the kernel is the valid problem's taps reversed along both axes."""
        return self.convention.operation == "convolution"


def as_pair(value: object, name: str, ndim: int = 2) -> Any:
    """Return an int or a pair of ints as a pair, of volumes a triple; refuse everything else."""
    need = "an int or " + ("a pair of ints (rows, columns)" if ndim == 2 else "three ints (planes, rows, columns)")
    try:
        if isinstance(value, bool | Set | Mapping):  # a set has no order: rows could pass for columns
            raise TypeError
        if isinstance(value, Sequence) or hasattr(value, "__len__"):
            items = [operator.index(v) for v in value]  # type: ignore[attr-defined]
        else:
            items = [operator.index(value)] * ndim  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"got {_said(name, value)}, need {need}") from None
    if len(items) != ndim:
        raise ValueError(f"got {_said(name, value)} of length {len(items)}, need {need}")
    return tuple(items)


def _said(name: str, value: object) -> str:
    """Say what was given, of much no more than of which type it is."""
    text = repr(value)
    return f"{name}={text}" if len(text) <= _LONGEST else f"{name} of type {type(value).__name__}"


def in_plane(value: object, name: str, ndim: int, across: int) -> Any:
    """Return a number along each axis as a tuple; that of a signal stands behind what it is across it."""
    if ndim > 1:
        return as_pair(value, name, ndim)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    single = not several or len(value) == 1  # type: ignore[arg-type]
    try:
        if isinstance(value, bool | Set | Mapping) or not single:
            raise TypeError
        return across, operator.index(value[0] if several else value)  # type: ignore[arg-type, index]
    except TypeError:
        message = f"got {name}={value!r} for signals, need one whole number"
        raise (TypeError if single else ValueError)(message) from None


def window(lags: object, ndim: int) -> tuple[tuple[int, int], ...]:
    """Return the first and the last lag along each axis."""
    several = f" for each axis: ({', '.join(['(first, last)'] * ndim)})" if ndim > 1 else ""
    need = f"(first, last), two whole numbers{several}"
    try:
        axes: list[Any] = [lags] if ndim == 1 else list(lags)  # type: ignore[call-overload]
        pairs = tuple((operator.index(first), operator.index(last)) for first, last in axes)
    except TypeError:
        raise TypeError(f"got lags={lags!r}, need {need}") from None
    except ValueError:
        pairs = ()
    if len(pairs) != ndim or any(last < first for first, last in pairs):
        raise ValueError(f"got lags={lags!r}, need {need}, the first not above the last")
    return pairs


def kernel_shape(shape: object, ndim: int = 2) -> Any:
    """Return the kernel's shape as a pair of positive ints, of volumes a triple."""
    sides = in_plane(shape, "shape", ndim, 1)
    if min(sides) < 1:
        need = ("tap", "row and one column of taps", "plane, row and column of taps")[ndim - 1]
        raise ValueError(f"got shape={shape!r}, need at least one {need}")
    return sides


def default_origin(shape: Any) -> Any:
    """Return the centre that `scipy.signal.convolve` and `correlate` give a kernel in mode "same"."""
    return tuple((side - 1) // 2 for side in shape)


def lattice(stride: object, offset: object, ndim: int = 2) -> tuple[Any, Any]:
    """Check which pixels are kept, and return stride and offset as tuples."""
    steps, first = in_plane(stride, "stride", ndim, 1), in_plane(offset, "offset", ndim, 0)
    if min(steps) < 1:
        raise ValueError(f"got stride={stride!r}, need at least 1 along each axis")
    if not all(0 <= o < s for o, s in zip(first, steps, strict=True)):
        raise ValueError(f"got offset={offset!r} with stride={stride!r}, need 0 <= offset < stride along each axis")
    return steps, first


def convention(
    shape: Shape,
    *,
    mode: str,
    boundary: str | None,
    fillvalue: float,
    origin: Shape | None,
    operation: str,
    stride: Shape = (1, 1),
    offset: Shape = (0, 0),
    ndim: int = 2,
) -> Convention:
    """Return the convention of values that were judged one by one; refuse an origin that does not fit the others."""
    centre = default_origin(shape)
    if origin is not None:
        if mode not in ("same", "crop") and origin != centre:
            raise ValueError(
                f"got origin={origin!r} with mode={mode!r}, where the shapes alone fix the alignment; "
                "leave origin out, or use mode='same'"
            )
        centre = origin
    return Convention(mode, boundary, fillvalue, centre, operation, stride, offset, ndim=ndim)


def whole_length(mode: str, n: int, side: int) -> int:
    """Return the length along an axis of what a kernel makes of an image, before any pixel is left out."""
    return {"same": n, "valid": n - side + 1, "full": n + side - 1}[mode]


def kept_length(whole: int, stride: int, offset: int) -> int:
    """Return the length of ``[offset::stride]``."""
    return -(-(whole - offset) // stride)


def leading(conv: Convention, side: int, origin: int) -> int:
    """Return by how many pixels the footprint of the first pixel starts ahead of the image, before any is left out."""
    tap = side - 1 - origin if conv.operation == "convolution" else origin  # the origin among the valid problem's taps
    return {"valid": 0, "full": side - 1}.get(conv.mode, tap)


def axis_lag(conv: Convention, side: int, origin: int, tap: int) -> int:
    """Return the lag of a tap along an axis: it multiplies ``image[stride t + offset - lag]`` in ``target[t]``."""
    lead = leading(conv, side, origin)
    return tap + lead - (side - 1) if conv.operation == "convolution" else lead - tap


def in_mode(conv: Convention, kernel: Shape, mode: str) -> Convention:
    """Return the convention of another mode whose target's pixels stand on the same pixels of the image."""
    # Of "same" the target is another part of the plane, and so with a stride it may begin with another pixel.
    other = dataclasses.replace(conv, mode=mode, size=None)
    axes = zip(kernel, conv.origin, conv.stride, conv.offset, strict=True)
    own: Any = tuple((f + leading(other, k, o) - leading(conv, k, o)) % s for k, o, s, f in axes)
    return dataclasses.replace(other, offset=own)


def lay_out(image: Shape, kernel: Shape, conv: Convention) -> Geometry:
    """Reduce shapes and a convention to the valid problem."""
    target = []
    before = []
    offset = []
    size = []
    own = conv.size or (0, 0)
    for n, k, o, step, kept, count in zip(image, kernel, conv.origin, conv.stride, conv.offset, own, strict=True):
        whole = kept + step * (count - 1) + 1 if conv.mode == "crop" else whole_length(conv.mode, n, k)
        lead = leading(conv, k, o)
        # the pixels that can be used of all there are, and the first of them that the stride leaves
        low, high = (max(lead, 0), min(lead + n - k + 1, whole)) if conv.boundary is None else (0, whole)
        first = max(0, kept_length(low, step, kept))
        target.append(kept_length(whole, step, kept))
        before.append(lead - kept - step * first)
        offset.append(first)
        size.append(kept_length(high, step, kept) - first)
        if whole - kept < 1 and whole > 0:
            msg = f"got offset={conv.offset} where there are {whole} pixels along an axis, need a smaller one"
            raise ValueError(msg)
        if conv.mode == "valid" and whole < 1:
            raise ValueError(
                f"got a kernel of {kernel[0]}x{kernel[1]}, larger than the image of {image[0]}x{image[1]}; "
                "ask for a smaller shape"
            )
        if conv.mode != "valid" and conv.boundary not in (None, "fill") and k > n:
            raise ValueError(
                f"got a kernel of {kernel[0]}x{kernel[1]}, larger than the image of {image[0]}x{image[1]}, "
                f"with boundary={conv.boundary!r}, which repeats the image only once; ask for a smaller shape"
            )
    first_row, first_col = before
    used = max(size[0], 0), max(size[1], 0)
    return Geometry(image, (target[0], target[1]), kernel, conv, (first_row, first_col), (offset[0], offset[1]), used)


def axis_runs(start: int, stop: int, n: int, boundary: str | None, every: int = 1) -> list[Run]:
    """Split the extended positions ``start..stop`` of an axis of `n` pixels into runs that can be sliced."""
    # Of the positions only ``start, start + every, ...`` are wanted.
    # Returns ``extended[start + every * (dst + i)] == image[src + step * i]`` for ``0 <= i < length``; `src` is None
    # where the fill value stands.
    runs: list[Run] = []
    position = start
    while position < stop:
        if boundary in (None, "fill", "nearest"):
            inside = 0 <= position < n
            end = min(stop, n) if inside else min(stop, 0) if position < 0 else stop
            src = position if inside else None if boundary != "nearest" else 0 if position < 0 else n - 1
            step = int(inside)
        elif boundary == "symm" or (boundary == "mirror" and n > 1):  # there and back, the ends twice or once
            twice = boundary == "symm"
            turn = n if twice else n - 1
            phase = position % (2 * turn)
            back = phase >= turn
            end = min(stop, position + (2 * turn if back else turn) - phase)
            src, step = (2 * turn - twice - phase, -1) if back else (phase, 1)
        else:  # wrap, and mirror of a single pixel
            phase = position % n
            end, src, step = min(stop, position + n - phase), phase, 1
        skip = (start - position) % every
        if position + skip < end:
            length = -(-(end - position - skip) // every)
            first = None if src is None else src + step * skip
            runs.append(((position + skip - start) // every, first, length, step * every))
        position = end
    return runs


def positions(start: int, count: int, step: int, n: int, boundary: str | None) -> npt.NDArray[np.intp]:
    """Return which pixel of an axis of `n` stands at each of some extended positions, or the nearest one beyond."""
    runs = axis_runs(start, start + count * step, n, "nearest" if boundary in (None, "fill") else boundary, step)
    found = np.empty(count, dtype=np.intp)
    for to, first, length, pace in runs:
        found[to : to + length] = first + pace * np.arange(length)  # type: ignore[operator]
    return found


def convention_from(fields: dict[str, Any]) -> Convention:
    """Rebuild a convention from its stored fields, and check them."""
    names = ("origin", "stride", "offset")
    ndim, size = fields.get("ndim", 2), fields.get("size")
    axes = {len(value) for value in (*(fields[name] for name in names if name in fields), size) if value is not None}
    fits = len(axes) < 2 and axes <= {1: {1, 2}, 2: {2}, 3: {3}}.get(ndim, set())
    if isinstance(ndim, bool) or ndim not in (1, 2, 3) or not fits:
        raise ValueError(f"got a convention of {ndim!r} dimensions, need 1 to 3, and as many numbers in each field")
    own = next(iter(axes), max(2, ndim))
    taken: dict[str, Any] = {n: in_plane(list(fields[n]), n, own, 0)[-own:] for n in names if n in fields}
    taken["size"] = None if size is None else kernel_shape(list(size), own)[-own:]
    found = Convention(**{**fields, **taken, "field": field_from(fields.get("field"))})
    known(found.mode, (*MODES, "crop"), "mode")
    known(found.numbers, ("real", "complex", "real of complex"), "numbers")
    if not isinstance(found.apart, bool):
        raise ValueError(f"got apart={found.apart!r}, need True or False")
    if (found.mode == "crop") != (found.size is not None):
        raise ValueError(f"got mode={found.mode!r} with size={found.size}, need a size for 'crop' and for no other")
    known(found.boundary, BOUNDARIES, "boundary")
    known(found.operation, OPERATIONS, "operation")
    as_number(found.fillvalue, "fillvalue")
    lattice(found.stride, found.offset, len(found.stride))
    return found
