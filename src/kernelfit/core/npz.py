"""Files written whole or not at all, never over an existing one; their errors; results as NPZ without pickle."""

import contextlib
import glob
import hashlib
import json
import math
import os
import secrets
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

#: Of the files: 1 had no checksum, or one of its arrays alone; 2 ends with one of all bytes before it.
FORMAT = 2
_SEAL = b"kernelfit sha256 "  # then 64 digits: the comment of a ZIP file, which is at its end
_SEAL_LENGTH = len(_SEAL) + 64
Writer = Callable[[BinaryIO], object]
#: A header of plain values, and arrays.
Packed = tuple[dict[str, Any], dict[str, Any]]
_Record = TypeVar("_Record")
#: What the header holds of its own.
_OWN = ("kernelfit", "version_of_kernelfit", "kind")
_NEWEST_NPY = (3, 0)
_STEM = 50  # characters of a file's name that are in those of its temporary files


class ImageFileError(ValueError):
    """A file is damaged, of another format, or not what was asked for; the message names it and says what to do."""


@contextlib.contextmanager
def reading(path: object, what: str, need: str, *, memory: bool = False) -> Iterator[None]:
    """Turn what decoders raise over a file's contents (with `memory`, lack of memory too) into an `ImageFileError`."""
    try:
        yield
    except (ImageFileError, ImportError):
        raise
    except Exception as error:
        named = isinstance(error, OSError) and error.errno is not None and error.filename is not None
        if named or (isinstance(error, MemoryError) and not memory):
            raise
        cause = str(error) or type(error).__name__
        raise ImageFileError(f"{path}: got {what} ({cause[:300]}), need {need}") from error


def require_plain(path: str | os.PathLike[str]) -> None:
    """Refuse what is no plain file: to open a pipe would wait until somebody writes to it."""
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise ImageFileError(f"{path}: got a pipe or a device, need a file; or - for NPY on the standard input")


def write_whole(path: str | os.PathLike[str], write: Writer, what: str, *, overwrite: bool = False) -> None:
    """Let `write` fill a new file beside `path`, which then takes its name in one step; links are written through."""
    # A failure leaves what was there before; without `overwrite` an existing file is refused, also one just appeared.
    write_together([(path, write, what)], overwrite=overwrite)


def write_together(files: Sequence[tuple[str | os.PathLike[str], Writer, str]], *, overwrite: bool = False) -> None:
    """Write several files as `write_whole` does one; none takes its name before all are written."""
    made: list[tuple[Path, Path, str]] = []
    placed: list[Path] = []
    try:
        for name, write, what in files:
            path = Path(os.path.realpath(name))
            if not overwrite and path.exists():
                raise FileExistsError(exists(path, what))
            if not path.parent.is_dir():
                raise FileNotFoundError(f"got {path} for {what}, but there is no folder {path.parent}; make it first")
            made.append((path.with_name(f".{path.name[:_STEM]}.{secrets.token_hex(4)}.tmp"), path, what))
            with made[-1][0].open("x+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path, what in made:
            if overwrite:
                os.replace(temporary, path)
            else:
                _take_free_name(temporary, path, what)
                placed.append(path)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise
    finally:
        for temporary, _, _ in made:
            temporary.unlink(missing_ok=True)


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote this file left beside it."""
    path = Path(os.path.realpath(path))
    if len(path.name) <= _STEM:  # of longer names it may be another's
        for one in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
            with contextlib.suppress(OSError):
                one.unlink()


def _take_free_name(temporary: Path, path: Path, what: str) -> None:
    """Give `temporary` the name `path` unless that is taken, in one step where the file system has hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(exists(path, what)) from None
    except OSError:
        if path.exists():
            raise FileExistsError(exists(path, what)) from None
        os.replace(temporary, path)


def exists(path: Path, what: str) -> str:
    """Return the message that a file is there already."""
    return f"got {path} for {what}, which exists already; choose another name or pass overwrite=True"


def npy_length(file: BinaryIO) -> int:
    """Read the header of an NPY file, and return how many bytes it promises; refuse objects and what is no NPY."""
    version = np.lib.format.read_magic(file)
    if version > _NEWEST_NPY:
        raise ValueError(f"format version {version}, need one up to {_NEWEST_NPY}")
    old = version == (1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("Python objects (allow_pickle=False)" if dtype.hasobject else f"a shape of {shape}")
    return file.tell() + math.prod(shape) * dtype.itemsize


def require_length(file: BinaryIO, length: int) -> None:
    """Refuse an NPY file that is shorter than its header says, before memory is taken for it."""
    if (need := npy_length(file)) > length:
        raise ValueError(f"{length} bytes of {need}, the file was cut short")
    file.seek(0)


def writer(kind: str, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Writer:
    """Return what writes arrays and a JSON header as an NPZ file of the given kind, sealed with a checksum."""
    from .. import __version__

    known = {"kernelfit": FORMAT, "version_of_kernelfit": __version__, "kind": kind}
    members: dict[str, Any] = {"header": np.array(json.dumps(known | dict(header))), **arrays}

    def write(file: BinaryIO) -> None:
        np.savez(file, allow_pickle=False, **members)
        file.seek(-2, os.SEEK_END)  # the last field of a ZIP file without a comment is the comment's length
        file.write(_SEAL_LENGTH.to_bytes(2, "little"))
        digest = _digest(file, file.tell())
        file.write(_SEAL + digest)

    return write


def _digest(file: BinaryIO, length: int) -> bytes:
    """Return the checksum of the first bytes of a file, and leave it after them."""
    digest = hashlib.sha256()
    file.seek(0)
    while length and (part := file.read(min(length, 2**20))):
        digest.update(part)
        length -= len(part)
    return digest.hexdigest().encode()


def save(
    path: str | os.PathLike[str],
    kind: str,
    header: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    overwrite: bool,
) -> None:
    """Write arrays and a JSON header as an NPZ file of the given kind."""
    write_whole(path, writer(kind, header, arrays), f"a {kind}", overwrite=overwrite)


def _checksum(members: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the checksum that files of format 1 hold of their arrays."""
    digest = hashlib.sha256()
    for name in sorted(members):
        array = np.ascontiguousarray(members[name])
        digest.update(f"{name} {array.dtype.str} {members[name].shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def load(
    path: str | os.PathLike[str], kind: str, build: Callable[[dict[str, Any], dict[str, npt.NDArray[Any]]], _Record]
) -> _Record:
    """Read what `save` wrote and `build` a record of header and arrays; an `ImageFileError` refuses anything else."""
    require_plain(path)
    whole = reading(path, "no complete file saved by kernelfit", f"a {kind}; save it anew", memory=True)
    with whole, np.errstate(all="ignore"):  # values that overflow are judged by what comes of them
        members, sealed = _members(path)
        checksum = members.pop("checksum", None)  # of format 1, from 0.14 on
        header = json.loads(str(members["header"]))
        header = header if isinstance(header, dict) else {}
        if header.get("kernelfit") not in range(1, FORMAT + 1) or header.get("kind") != kind:
            held, by = header.get("kind", "something else"), header.get("version_of_kernelfit", "an older version")
            need = f"need a {kind!r} saved by this version of kernelfit"
            raise ImageFileError(f"{path} holds {held!r}, {need}; it was written by {by}")
        if header["kernelfit"] > 1 and not sealed:
            raise ValueError("without the checksum at its end")
        if checksum is not None and str(checksum) != _checksum(members):
            raise ValueError("its checksum differs")
        fields = {name: value for name, value in header.items() if name not in _OWN}
        return build(fields, {name: array for name, array in members.items() if name != "header"})


def _require_seal(raw: BinaryIO, length: int) -> bool:
    """Return whether a file ends with a checksum, which must be that of all before it."""
    start = max(0, length - _SEAL_LENGTH)
    raw.seek(start)
    seal = raw.read()
    if not seal.startswith(_SEAL):
        return False
    if seal != _SEAL + _digest(raw, start):
        raise ValueError("its checksum differs: something was changed after it was saved")
    return True


def _members(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], bool]:
    """Return the arrays of an NPZ file, plain ones that are no larger than the file, and if a checksum holds."""
    with open(path, "rb") as raw:
        length = os.fstat(raw.fileno()).st_size
        sealed = _require_seal(raw, length)
        with zipfile.ZipFile(raw) as archive:
            infos = archive.infolist()
            plain = all(info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1 for info in infos)
            if not plain or sum(info.file_size for info in infos) > length:
                raise ValueError("its members are packed, encrypted or overlap")
            found = {}
            for info in infos:
                with archive.open(info) as file:
                    require_length(file, info.file_size)  # type: ignore[arg-type]
                    found[info.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
            return found, sealed
