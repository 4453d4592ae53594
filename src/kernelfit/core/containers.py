"""Containers of other libraries: what they hold, and how an array is put into one like it.

xarray's DataArrays, astropy's NDData and Quantities, pandas' Series and DataFrames, PyTorch's tensors. No library is
imported here: who has an array of one has imported it. DataArrays are read as they are, block by block; the others are
the NumPy arrays that they hold.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .labels import Axis, even_step

#: For each axis of a result where its first pixel stands in the array it comes of, maybe between pixels, and the step.
Places = Sequence[tuple[float, int]]
#: Arrays without a way into main memory that is plain from here, and what to pass instead.
_ELSEWHERE = {
    "cupy": "cupy.asnumpy({})",
    "jax": "numpy.asarray({})",
    "jaxlib": "numpy.asarray({})",
    "tensorflow": "{}.numpy()",
}
_LIBRARIES = ("xarray", "astropy", "pandas", "torch", *_ELSEWHERE)
#: How weights follow from an uncertainty: the power of the value, and that of its unit in the data's.
_POWERS = {"std": (-2, 1), "var": (-1, 2), "ivar": (1, -2)}


@dataclass(frozen=True, eq=False)
class Opened:
    """What came in a container; `filled` puts an array into one like it, with its places, unit and channel axis."""

    value: Any
    filled: Callable[[npt.NDArray[Any], Places, str, "Axis | None"], Any]
    mask: Any = None
    unit: str = ""
    axes: tuple[Axis, ...] = ()


def library_of(value: object) -> str | None:
    """Return the name of the library that an array is of, None of NumPy's and unknown ones."""
    if type(value) is np.ndarray or isinstance(value, str | int | float | None):
        return None
    roots = (base.__module__.partition(".")[0] for base in type(value).__mro__)
    found = next((root for root in roots if root in _LIBRARIES), None)
    return "torch" if found is None and all(hasattr(value, n) for n in ("requires_grad", "detach", "device")) else found


def _on_device(value: Any) -> bool:
    """Say whether an array of an unknown library lies elsewhere than in main memory."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__cuda_array_interface__") or hasattr(value, "addressable_shards"):
        return True
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] not in (1, 3)  # of a CPU, pinned or not


def open_container(value: Any, name: str) -> Opened | None:
    """Return what a container holds; None if it is none, and refuse what cannot be read from here."""
    library = library_of(value)
    if library == "torch":
        return _tensor(value, name)
    if library in _ELSEWHERE or (library is None and _on_device(value)):
        remedy = _ELSEWHERE.get(library or "", "a copy of {} in main memory, as copy_to_host() makes one").format(name)
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        raise TypeError(f"got {name} as {kind}, need an array of NumPy in main memory; pass {remedy}")
    if library == "xarray":
        return _data_array(value, name)
    if library == "pandas" and hasattr(value, "iloc"):
        return _frame(value)
    if library == "astropy":
        if hasattr(value, "uncertainty"):
            return _nddata(value, name)
        if hasattr(value, "unmasked"):
            plain = open_container(value.unmasked, name)
            mask = np.asarray(value.mask)
            return None if plain is None else dataclasses.replace(plain, mask=mask if mask.any() else None)
        if hasattr(value, "to_value"):
            quantity = sys.modules["astropy.units"].Quantity
            return Opened(
                value.value, lambda array, _, unit, __: quantity(array, unit, copy=False), unit=value.unit.to_string()
            )
    return None


def _tensor(value: Any, name: str) -> Opened | None:
    if not hasattr(value, "requires_grad"):
        return None
    if value.requires_grad:
        raise TypeError(
            f"got {name} as a tensor that requires grad, through which no gradient goes; pass {name}.detach()"
        )
    if getattr(value.device, "type", str(value.device).partition(":")[0]) != "cpu":
        raise TypeError(f"got {name} as a tensor on {value.device}, need one in main memory; pass {name}.cpu()")
    try:
        plain = value.resolve_conj().resolve_neg() if hasattr(value, "resolve_conj") else value
        array = plain.numpy()
    except (TypeError, RuntimeError) as error:  # sparse ones, and bfloat16, which NumPy has not
        msg = f"got {name} as a tensor that NumPy cannot read ({error}); pass {name}.to_dense() or {name}.float()"
        raise TypeError(msg) from None

    def filled(array: npt.NDArray[Any], places: Places, unit: str, channels: Axis | None) -> Any:
        torch = sys.modules.get("torch")
        return array if torch is None else torch.from_numpy(np.ascontiguousarray(array))

    return Opened(array, filled)


def _data_array(value: Any, name: str) -> Opened | None:
    if not hasattr(value, "dims"):
        return None
    if hasattr(value, "data_vars"):
        names = ", ".join(map(repr, list(value.data_vars)[:5]))
        raise TypeError(f"got {name} as a Dataset, need one of its arrays ({names}); pass dataset[name]")
    if not hasattr(value, "isel"):
        return None
    axes = tuple(
        Axis(str(dim), _coordinates(value.coords[dim].values), str(value.coords[dim].attrs.get("units", "")))
        if dim in value.coords
        else Axis(str(dim))
        for dim in value.dims
    )

    def filled(array: npt.NDArray[Any], places: Places, unit: str, channels: Axis | None) -> Any:
        found, lost = value, []
        for dim, (first, step), n, own in zip(value.dims, places, array.shape, value.shape, strict=True):
            if (whole := _inside(first, step, n, own)) is not None:
                found = found.isel({dim: whole})
            else:
                found = found.isel({dim: np.zeros(n, dtype=np.intp)})
                lost.append((dim, first, step, n))
        found = found.copy(data=array)
        for dim, first, step, n in lost:
            beyond = _extended(value.coords[dim].values, first, step, n) if dim in value.coords else None
            attrs = value.coords[dim].attrs if dim in value.coords else {}
            found = found.drop_vars([key for key, coord in found.coords.items() if dim in coord.dims])
            if channels is not None and channels.name == dim and channels.values is not None:
                beyond = channels.values
            if beyond is not None:
                found = found.assign_coords({dim: (dim, beyond, attrs)})
        return found

    return Opened(value, filled, axes=axes)


def _frame(value: Any) -> Opened | None:
    one = value.ndim == 1
    if not one and value.ndim != 2:
        return None
    array = value.to_numpy()
    if array.dtype.kind == "O":  # of nullable numbers, whose gaps are NaN
        array = value.to_numpy(dtype=np.float64, na_value=np.nan)
    whole = type(value.index).__name__ == "RangeIndex" and (value.index.start, value.index.step) == (0, 1)
    rows = Axis(str(value.index.name or "index"), None if whole else _coordinates(_moments(value.index)))
    axes = (rows,) if one else (rows, Axis(str(value.columns.name or "column"), _coordinates(value.columns.to_numpy())))

    def filled(array: npt.NDArray[Any], places: Places, unit: str, channels: Axis | None) -> Any:
        pandas, (first, step), n = sys.modules["pandas"], places[0], len(array)
        if (whole := _inside(first, step, n, len(value))) is not None:
            index = value.index[whole]
        else:
            index = _extended(_moments(value.index), first, step, n)
            index = pandas.Index(first + step * np.arange(n) if index is None else index, name=value.index.name)
            zone = getattr(value.index, "tz", None)
            index = index if zone is None or index.dtype.kind != "M" else index.tz_localize("UTC").tz_convert(zone)
        if array.ndim == 1:
            return pandas.Series(array, index, name=value.name if one else None)
        same = not one and array.shape[1] == value.shape[1]
        columns = channels.values if channels is not None else value.columns if same else None
        return pandas.DataFrame(array, index, columns)

    return Opened(array, filled, axes=axes)


def _moments(index: Any) -> Any:
    """Return the values of an index; times of a zone in universal time, where they are evenly spaced."""
    return (index if getattr(index, "tz", None) is None else index.tz_convert(None)).to_numpy()


def _nddata(value: Any, name: str) -> Opened:
    data = value.data if hasattr(value.data, "shape") else np.asarray(value.data)
    mask = None if value.mask is None else np.broadcast_to(np.asarray(value.mask, dtype=bool), data.shape)
    mask = None if mask is None or not mask.any() else mask
    unit = "" if value.unit is None else value.unit.to_string()

    def filled(array: npt.NDArray[Any], places: Places, unit: str, channels: Axis | None) -> Any:
        unknown = ~np.isfinite(array)
        fields = {"mask": unknown if unknown.any() else None, "unit": unit or None, "meta": dict(value.meta)}
        if hasattr(value, "header"):
            fields["meta"] = value.header.copy()
        wcs = value.wcs if array.shape == data.shape and set(places) <= {(0, 1)} else _moved(value.wcs, places)
        return type(value)(array, wcs=wcs, **fields)

    return Opened(data, filled, mask=mask, unit=unit)


def inverse_variance(value: Any, mask: Any, name: str) -> npt.NDArray[np.float64] | None:
    """Return the inverse variances that an NDData holds, zero where it is masked; None if it holds none."""
    found = getattr(value, "uncertainty", None)
    if found is None:
        return None
    if found.uncertainty_type not in _POWERS:
        raise ValueError(
            f"got {name} with an uncertainty of type {found.uncertainty_type!r}, need StdDevUncertainty, "
            f"VarianceUncertainty or InverseVariance; say which it is, or set {name}.uncertainty = None"
        )
    power, of_unit = _POWERS[found.uncertainty_type]
    given = np.asarray(found.array, dtype=np.float64)
    if found.unit is not None and value.unit is not None:
        given = given * float(found.unit.to(value.unit**of_unit))
    weights = np.array(np.broadcast_to(given, value.data.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        weights **= power
    if mask is not None:
        weights[mask] = 0.0
    bad = ~(weights >= 0) | np.isinf(weights) | (np.broadcast_to(given, weights.shape) < 0)
    if mask is not None:
        bad &= ~mask
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"got {name} with {int(bad.sum())} uncertainties that are zero, negative or NaN, the first at {first}; "
            f"need positive ones: mask these pixels in {name}.mask"
        )
    return weights


def _moved(wcs: Any, places: Places) -> Any:
    """Return the WCS of pixels that begin elsewhere, or of every so many; None where it cannot be told."""
    if wcs is None or not hasattr(wcs, "wcs") or wcs.naxis != len(places):
        return None
    moved, axes = wcs.deepcopy(), list(reversed(list(places)))  # FITS counts its axes from the last
    for axis, (first, step) in enumerate(axes):
        moved.wcs.crpix[axis] = (wcs.wcs.crpix[axis] - 1 - first) / step + 1
        if wcs.wcs.has_cd():
            moved.wcs.cd[:, axis] *= step
        else:
            moved.wcs.cdelt[axis] *= step
    if len(axes) == 2:
        _distort(moved, wcs, axes)
    moved.pixel_shape = None
    moved.wcs.set()
    return moved


def _distort(moved: Any, wcs: Any, axes: "Sequence[tuple[float, int]]") -> None:
    """Take the distortions of a WCS along: polynomials of pixels (SIP), and tables of corrections in pixels."""
    kinds = sys.modules["astropy.wcs"]

    def of(at: Any) -> list[float]:
        return [(value - 1 - first) / step + 1 for value, (first, step) in zip(at, axes, strict=True)]

    steps = [float(step) for _, step in axes]
    if getattr(wcs, "sip", None) is not None:
        tables = []
        for name, own in zip(("a", "b", "ap", "bp"), steps * 2, strict=True):
            table = getattr(wcs.sip, name)
            if table is not None:  # u^p v^q in pixels of the new size, of a correction in such pixels
                powers = np.arange(len(table))
                table = table * np.multiply.outer(steps[0] ** powers, steps[1] ** powers) / own
            tables.append(table)
        moved.sip = kinds.Sip(*tables, of(wcs.sip.crpix))
    for name, own in zip(("cpdis1", "cpdis2", "det2im1", "det2im2"), steps * 2, strict=True):
        table = getattr(wcs, name, None)
        if table is not None:
            spacing = tuple(c / step for c, step in zip(table.cdelt, steps, strict=True))
            data = (np.asarray(table.data) / own).astype(np.float32)
            setattr(moved, name, kinds.DistortionLookupTable(data, tuple(table.crpix), tuple(of(table.crval)), spacing))


def _coordinates(values: Any) -> npt.NDArray[Any] | None:
    """Return coordinates as a plain array, None where they are of no kind that a file can hold."""
    found = np.asarray(values)
    if found.dtype.kind == "O" and all(isinstance(one, str) for one in found.ravel()):
        found = found.astype(str)
    return found if found.ndim == 1 and found.dtype.kind in "biufmMU" else None


def _inside(first: float, step: int, n: int, own: int) -> slice | None:
    """Return the slice of an axis of `own` pixels where a result stands; None if it does not stand on pixels of it."""
    last = first + step * (n - 1)
    return slice(int(first), int(last) + 1, step) if 0 <= first <= last < own and first == int(first) else None


def _extended(values: Any, first: float, step: int, n: int) -> Any:
    """Return evenly spaced coordinates at places that may lie beyond them; None where they are not such."""
    pace = even_step(values)
    if pace is None:
        return None
    places = first + step * np.arange(n)
    return values[0] + (
        np.round(places * float(pace.astype(np.float64))).astype(pace.dtype)
        if pace.dtype.kind == "m"
        else places * pace
    )
