"""Two folders or patterns of files, paired by name."""

import glob
import os
import re
from pathlib import Path

from .read import is_zarr


def pair_files(images: str, targets: str, *more: str) -> list[tuple[str, ...]]:
    """Return the files of folders or patterns that belong together, sorted by name.

    Files of folders belong together if their names are the same but for the ending, those of patterns such as
    ``"night1/*_raw.tif"`` if what the wildcards stand for is the same.

    Parameters
    ----------
    images, targets : str
        Two folders or patterns, or a folder and a pattern; or two files, which are the only pair.
    *more : str
        What else belongs to each pair, such as its mask; a single file belongs to all pairs.

    Returns
    -------
    list of tuple of str
        For each pair the names of its files.

    Raises
    ------
    ValueError
        If a file has no partner, or there are no files at all.

    Examples
    --------
    >>> from kernelfit.io import pair_files
    >>> pair_files("before.png", "after.png")
    [('before.png', 'after.png')]
    """
    names = (images, targets, *more)
    many = [is_series(name) for name in names]
    if many[0] != many[1]:
        single, series = (targets, images) if many[0] else (images, targets)
        msg = f"got a single file {single} with the several of {series!r}, need two folders or patterns, or two files"
        raise ValueError(msg)
    if not many[0]:
        for name, several in zip(more, many[2:], strict=True):
            if several:
                raise ValueError(f"got the several files of {name!r} for a single pair, need one file")
        return [names]
    found = [_files(name) if several else None for name, several in zip(names, many, strict=True)]
    first = found[0]
    assert first is not None
    for name, files in zip(names[1:], found[1:], strict=True):
        if files is not None and files.keys() != first.keys():
            raise ValueError(_unpaired(images, first, name, files))
    return [
        tuple(name if files is None else files[key] for name, files in zip(names, found, strict=True))
        for key in sorted(first)
    ]


def is_series(name: str) -> bool:
    """Say whether a name stands for several files: a folder that is no Zarr array, or a pattern."""
    if os.path.isdir(name):
        return not is_zarr(Path(name))
    return glob.has_magic(name) and not os.path.exists(name)


def _files(name: str) -> dict[tuple[str, ...], str]:
    """Return the files of a folder or pattern by what tells them apart."""
    found: dict[tuple[str, ...], str] = {}
    if os.path.isdir(name):
        paths = sorted(os.path.join(name, own) for own in os.listdir(name) if not own.startswith("."))
        stems = [re.sub(r"\.[^.]*(\.gz|\.zip)?$", "", os.path.basename(path)) for path in paths]
        keys: list[tuple[str, ...]] = [(stem,) for stem in stems]
    else:
        paths, wanted = sorted(glob.glob(name)), _open_part(name)
        matches = [wanted.fullmatch(path) for path in paths]
        keys = [(path,) if match is None else match.groups() for match, path in zip(matches, paths, strict=True)]
    for key, path in zip(keys, paths, strict=True):
        if os.path.isdir(path) and not is_zarr(Path(path)):
            continue
        if key in found:
            msg = f"got {found[key]} and {path}, which are called the same but for the ending, need one of them"
            raise ValueError(msg)
        found[key] = path
    if not found:
        what = f"an empty folder {name}" if os.path.isdir(name) else f"a pattern {name!r} that no file matches"
        raise ValueError(f"got {what}, need at least one image file")
    return found


def _open_part(pattern: str) -> re.Pattern[str]:
    """Return the expression of a pattern whose groups are what its wildcards stand for, neighbours together."""
    parts = re.findall(r"(?:\*|\?|\[!?[^]]+\])+|.", pattern, re.DOTALL)
    kinds = {"*": f"[^{re.escape(os.sep)}]*", "?": f"[^{re.escape(os.sep)}]"}
    expression = ""
    for part in parts:
        if not glob.has_magic(part) or part == "[":
            expression += re.escape(part)
            continue
        each = re.findall(r"\*|\?|\[[^]]+\]", part)
        expression += "(" + "".join(kinds.get(one, one.replace("[!", "[^")) for one in each) + ")"
    return re.compile(expression, re.DOTALL)


def _unpaired(images: str, first: dict[tuple[str, ...], str], name: str, files: dict[tuple[str, ...], str]) -> str:
    """Say which files have no partner."""
    alone = sorted([path for key, path in first.items() if key not in files])
    others = sorted([path for key, path in files.items() if key not in first])
    lonely, where = (alone[0], name) if alone else (others[0], images)
    counts = f"{len(first)} files of {images!r} and {len(files)} of {name!r}"
    return (
        f"got {counts}, where nothing in {where!r} belongs to {lonely}; need files whose names, or what the wildcards "
        "of the patterns stand for, are the same: write the rest of the names out, as in 'folder/*_sharp.png'"
    )
