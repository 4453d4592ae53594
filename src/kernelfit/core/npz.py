"""Files written whole or not at all, never over an existing one unasked; results as NPZ without pickle."""

import json
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

FORMAT = 1


def write_whole(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object], what: str, *, overwrite: bool = False
) -> None:
    """Let `write` fill a new file beside `path`, which then takes its name in one step.

    No reader sees half a file, and a failure leaves what was there before. A link is written through. Without
    `overwrite` an existing file is refused, also one that appeared meanwhile; `what` names the contents in messages.
    """
    path = Path(os.path.realpath(path))
    if not overwrite and path.exists():
        raise FileExistsError(exists(path, what))
    if not path.parent.is_dir():
        msg = f"got {path} for {what}, but there is no folder {path.parent}; make it first"
        raise FileNotFoundError(msg)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _take_free_name(temporary, path, what)
    finally:
        temporary.unlink(missing_ok=True)


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


def save(
    path: str | os.PathLike[str],
    kind: str,
    header: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    overwrite: bool,
) -> None:
    """Write arrays and a JSON header as an NPZ file of the given kind."""
    text = json.dumps({"kernelfit": FORMAT, "kind": kind, **header})

    def write(file: BinaryIO) -> None:
        np.savez(file, allow_pickle=False, header=np.array(text), **arrays)

    write_whole(path, write, f"a {kind}", overwrite=overwrite)


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read what `save` wrote; refuse anything else."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if not isinstance(header, dict) or header.get("kind") != kind or header.get("kernelfit") != FORMAT:
                msg = (
                    f"{path} holds {header.get('kind', 'something else')!r}, need a {kind!r} saved by this "
                    "version of kernelfit"
                )
                raise ValueError(msg)
            return header, {name: file[name] for name in file.files if name != "header"}
    except (KeyError, zipfile.BadZipFile, EOFError, json.JSONDecodeError, AttributeError, TypeError) as error:
        msg = f"{path} is no complete file saved by kernelfit ({type(error).__name__}: {error})"
        raise ValueError(msg) from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        msg = f"{path} is no complete file saved by kernelfit ({error})"
        raise ValueError(msg) from error
