"""Signals in files: WAV, NPY of one or two axes, columns of a table, HDF5 and Zarr; samples along the first axis."""

import io
import itertools
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when first used: some take a second

from ..core.npz import ImageFileError, Writer, reading, require_length, require_plain
from .planes import Choice
from .read import kind_of, quiet, read_table
from .scientific import read_hdf5, read_zarr

_TABLES = ".csv", ".txt"
SUFFIXES = (".wav", ".npy", *_TABLES)
_NUMBER = re.compile(r"\s*[-+]?(\d|\.\d|nan|inf)", re.IGNORECASE)


class Signal(NamedTuple):
    """What a file holds: samples, shape (n,) or (n, channels), and how many there are in a second, None if unknown."""

    samples: Any
    rate: int | None = None


def read_signal(path: str | os.PathLike[str], *, channel: int | str | None = None, dataset: str | None = None) -> Any:
    """Read a signal from a file, in the type it is stored in.

    Parameters
    ----------
    path : path-like
        The file: WAV, NPY, a table of numbers whose columns are channels (CSV, TXT; with names in the first line or
        without), HDF5, or Zarr.
    channel : int or str, optional
        Which channel, from 0, or which column by its name; the default is all.
    dataset : str, optional
        Which array of an HDF5 or Zarr file; the default is the only one.

    Returns
    -------
    array, shape (n,) or (n, channels)
        NPY files are memory-mapped read-only, HDF5 and Zarr are read when they are used. WAV of 8 bits comes without
        its offset of 128.

    Raises
    ------
    OSError
        The file cannot be opened.
    ImageFileError
        It is damaged, of another format, or holds no signal.
    """
    return load(path, channel=channel, dataset=dataset).samples


def load(path: str | os.PathLike[str], *, channel: int | str | None = None, dataset: str | None = None) -> Signal:
    """Read what `read_signal` reads, with its rate."""
    path = Path(path)
    require_plain(path) if not path.is_dir() else None
    with reading(str(path), "no signal that can be read", "WAV, NPY, a table, HDF5 or Zarr", memory=True), quiet():
        names: list[str] = []
        if is_wav(path):
            found = _read_wav(path)
        elif path.suffix.lower() in _TABLES:
            names, table = _columns(path)
            found = Signal(table)
        else:
            found = Signal(_read_array(path, kind_of(path), Choice(dataset=dataset)))
        shape = tuple(found.samples.shape)
        if len(shape) not in (1, 2) or 0 in shape:
            msg = f"{path}: got an array of shape {shape}, need samples, or samples and channels; is it an image?"
            raise ImageFileError(msg)
        if len(shape) == 2 and shape[1] == 1:  # a file of one channel
            found = found._replace(samples=found.samples[:, 0])
        return found if channel is None else found._replace(samples=_pick(path, found.samples, channel, names))


def is_wav(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a WAV file, by its first bytes."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(12)
    return head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE"


def is_signal(path: str | os.PathLike[str]) -> bool:
    """Say whether a file cannot be but a signal: WAV, or NPY of one axis."""
    if is_wav(path):
        return True
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            return False
    try:
        return bool(np.load(path, mmap_mode="r", allow_pickle=False).ndim == 1)
    except (ValueError, OSError):
        return False


def is_column(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a table of one column, by its first lines."""
    path = Path(path)
    if path.suffix.lower() not in _TABLES or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line for line in itertools.islice(file, 16) if line.strip() and not line.lstrip().startswith("#")]
    return len(lines) > 1 and not any(re.search(r"[;,\s]", line.strip()) for line in lines)


def _read_wav(path: Path) -> Signal:
    with warnings.catch_warnings():  # of chunks that are not read
        warnings.simplefilter("ignore")
        rate, samples = scipy.io.wavfile.read(path)
    samples = samples.astype(np.int16) - 128 if samples.dtype == np.uint8 else samples
    return Signal(samples, int(rate))


def _columns(path: Path) -> tuple[list[str], npt.NDArray[Any]]:
    """Return the columns of a table, and the names in its first line if there are any."""
    text = path.read_text(encoding="utf-8-sig")
    first, _, rest = text.partition("\n")
    if not first.strip() or first.lstrip().startswith("#") or _NUMBER.match(first):
        return [], read_table(path)
    mark = next((mark for mark in ";,\t" if mark in first), None)
    rest = rest.replace(",", ".") if mark == ";" else rest
    return [name.strip().strip('"') for name in first.split(mark)], np.loadtxt(
        io.StringIO(rest), delimiter=mark, ndmin=2, dtype=np.float64
    )


def _read_array(path: Path, kind: str, choice: Choice) -> Any:
    if kind == "NPY":
        with path.open("rb") as file:
            require_length(file, os.fstat(file.fileno()).st_size)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if kind in ("HDF5", "Zarr"):
        return (read_hdf5 if kind == "HDF5" else read_zarr)(path, choice)
    if kind == "table":
        return read_table(path)
    raise ImageFileError(f"{path}: got {kind}, need WAV, NPY, a table of numbers, HDF5 or Zarr for a signal")


def _pick(path: Path, samples: Any, channel: int | str, names: list[str]) -> Any:
    count = samples.shape[1] if len(samples.shape) == 2 else 1
    at = names.index(channel) if channel in names else channel
    if not isinstance(at, int) or not 0 <= at < count:
        known = ", ".join([*names, f"0 to {count - 1}"])
        raise ImageFileError(f"{path}: got channel={channel!r}, need one of {known}")
    return samples[:, at] if len(samples.shape) == 2 else samples


def number_format(table: npt.NDArray[Any]) -> str | list[str]:
    """Return how numbers are written in a table of text; complex ones as ``1.5-2j``."""
    if table.dtype.kind != "c":
        return "%.17g"
    return ["%.17g%+.17gj"] * (table.shape[1] if table.ndim == 2 else 1)


def signal_writer(path: Path, samples: npt.NDArray[Any], rate: int | None) -> Writer:
    """Return what writes samples, (n,) or (n, channels), in the format that the name says; WAV holds float32."""
    if path.suffix.lower() == ".wav":
        if samples.dtype.kind == "c":
            raise ValueError(f"got complex samples for {path.name}, which holds real ones; write .npy or .csv")
        if rate is None:
            raise ValueError(f"got {path.name} for samples of unknown rate, need WAV files to begin with; write .npy")
        largest = float(np.abs(samples).max(initial=0))
        if not largest <= np.finfo(np.float32).max or not math.isfinite(largest):
            raise ValueError(f"got samples up to {largest:.3g} for {path.name}, which holds float32; write .npy")
        data = io.BytesIO()
        scipy.io.wavfile.write(data, rate, np.ascontiguousarray(samples, dtype=np.float32))
        return lambda file: file.write(data.getvalue())
    if path.suffix.lower() in (".csv", ".txt"):
        mark = "," if path.suffix.lower() == ".csv" else " "

        def write(file: BinaryIO) -> None:
            np.savetxt(file, samples, fmt=number_format(samples), delimiter=mark)

        return write
    return lambda file: np.save(file, samples, allow_pickle=False)
