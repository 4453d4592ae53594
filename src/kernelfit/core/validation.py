"""What may come in: numbers, counts, names and lists; and names that have changed, which still work."""

import dataclasses
import math
import numbers
import operator
import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt


def known(value: object, names: tuple[str | None, ...], keyword: str) -> str | None:
    """Return `value` if it is one of `names`; list them if it is not."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"got {keyword}={value!r}, need one of {', '.join(map(repr, names))}")
    if value not in names:
        raise ValueError(f"got {keyword}={value!r}, need one of {', '.join(map(repr, names))}")
    return value


Array = npt.NDArray[np.float64]


def as_float(value: Any) -> float:
    """Return a number as a float, infinite where it is beyond all floats, as long whole numbers may be."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def as_number(value: object, name: str) -> float:
    """Return a finite real number as a float, or say that a keyword is none."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"got {name}={value!r}, need one real number")
    if not math.isfinite(as_float(value)):
        beyond = "; if the pixels beyond the edge are unknown, leave boundary=None" if name == "fillvalue" else ""
        raise ValueError(f"got {name}={value!r}, need a finite number{beyond}")
    return float(value)


def as_count(value: object, name: str, need: str = "a whole number", least: int | None = None) -> int:
    """Return a whole number, of at least `least`, as an int, or say that a keyword is none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"got {name}={value!r}, need {need}") from None
    if least is not None and number < least:
        raise ValueError(f"got {name}={number}, need {need}")
    return number


def renamed(old: str, new: str) -> Any:
    """Return a property that gives the attribute of the new name, with a DeprecationWarning."""

    def value(self: Any) -> Any:
        warnings.warn(f"{old!r} is now called {new!r}; the old name goes in 1.0", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    value.__doc__ = f"Old name of `{new}`."
    return property(value)


_PLAIN: dict[Any, type] = {kind: kind for kind in (int, float, str, bool)}
_PLAIN |= {int | None: int, float | None: float, str | None: str}
_SIGNED = ("channel_axis", "r_squared", "log_evidence", "target_sum", "strength")


def require_fields(record: type[Any], fields: dict[str, Any], *, finite: bool = False) -> None:
    """Refuse stored plain fields of a dataclass of another type, negative where nothing can be, or not `finite`."""
    for field in dataclasses.fields(record):
        kind = _PLAIN.get(field.type)
        if field.name not in fields or kind is None:
            continue
        value, kinds = fields[field.name], (int, float) if kind is float else (kind,)
        if value is None and kind is not field.type:
            continue
        good = type(value) in kinds and (field.name in _SIGNED or kind is str or not value < 0)
        if not good or (finite and kind is float and not math.isfinite(value)):
            raise ValueError(f"got {field.name}={value!r:.60}, need a value that a {record.__name__} can have")


def as_workers(workers: object) -> int:
    """Return the number of threads to use; None means every processor this process may run on."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        count = operator.index(workers)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"got workers={workers!r}, need None or an int of at least 1") from None
    if count < 1:
        raise ValueError(f"got workers={workers!r}, need None or an int of at least 1")
    return count


def require_progress(progress: object) -> None:
    """Refuse what cannot be called to be told of progress."""
    if progress is not None and not callable(progress):
        raise TypeError(f"got progress={progress!r}, need a function of (stage, done, total), or None")


def require_checkpoint(checkpoint: object, every: object) -> None:
    """Refuse what names no file, and what is no number of seconds between two writings of it."""
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"got checkpoint={checkpoint!r}, need the name of a file, or None")
    if isinstance(every, bool) or not isinstance(every, numbers.Real):
        raise TypeError(f"got every={every!r}, need a number of seconds, at least 0")
    if not float(every) >= 0:
        raise ValueError(f"got every={every!r}, need a number of seconds, at least 0")


def as_list(value: object) -> list[Any] | None:
    """Return the items of a list or tuple of arrays of at least two dimensions; None for everything else."""
    if not isinstance(value, (list, tuple)):
        return None
    if len(value) > 0 and all(hasattr(item, "dtype") and len(getattr(item, "shape", ())) >= 2 for item in value):
        return list(value)
    return None


def require_finite(values: Any, name: str, remedy: str, known: Any = None) -> None:
    """Refuse an array with NaN or infinity, but for pixels that are `known` to be bad."""
    wrong = ~np.isfinite(values)
    if known is not None:
        wrong &= ~known
    if wrong.any():
        count, first = int(wrong.sum()), tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"got {name} with {count} pixel{'s' if count > 1 else ''} NaN or infinite, the first at (row, column) "
            f"{first}; need finite pixels; {remedy}"
        )


def complex_of(real: Array, imaginary: Array) -> Any:
    """Return complex numbers of two parts, which may be infinite: a product with 1j would make them NaN."""
    found = np.empty(np.shape(real), dtype=np.complex128)
    found.real, found.imag = real, imaginary
    return found
