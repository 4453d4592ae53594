"""Files of results: NPZ without pickle, written whole or not at all, never over an existing file unasked."""

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

FORMAT = 1


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, overwrite: bool) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path` in one step."""
    target = Path(path)
    if not overwrite and target.exists():
        msg = f"{target} exists; choose another name, or ask for it to be overwritten"
        raise FileExistsError(msg)
    if not target.parent.is_dir():
        msg = f"the folder {target.parent} does not exist; create it, or choose another"
        raise FileNotFoundError(msg)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


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
    write_atomically(
        path, lambda file: np.savez(file, allow_pickle=False, header=np.array(text), **arrays), overwrite=overwrite
    )


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
