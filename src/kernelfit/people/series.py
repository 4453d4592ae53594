"""Folders and patterns of files: which belong together, and what the command line makes of a series of pairs."""

import argparse
import glob
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kernelfit

from .. import io
from ..result import KernelFit
from . import arguments, output
from .options import BadCallError
from .progress import Bar

#: Options of `find` that need all pixels at once, or more than one pass over them.
_WHOLE = ("background", "channels", "noise", "robust", "image_noise", "errors", "balance", "tolerance", "report")


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
    >>> from kernelfit.people.series import pair_files
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
                msg = f"got the several files of {name!r} for a single pair, need one file"
                raise ValueError(msg)
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
        return not io.is_zarr(Path(name))
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
        if os.path.isdir(path) and not io.is_zarr(Path(path)):
            continue
        if key in found:
            msg = f"got {found[key]} and {path}, which are called the same but for the ending, need one of them"
            raise ValueError(msg)
        found[key] = path
    if not found:
        what = f"an empty folder {name}" if os.path.isdir(name) else f"a pattern {name!r} that no file matches"
        msg = f"got {what}, need at least one image file"
        raise ValueError(msg)
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


def wanted(args: argparse.Namespace) -> bool:
    """Say whether a call of `find` asks for pairs to be streamed."""
    return args.checkpoint is not None or is_series(args.image) or is_series(args.target)


class Pairs:
    """The pairs of a call, read one after the other as they are asked for."""

    def __init__(self, args: argparse.Namespace, bar: Bar) -> None:
        self.args, self.bar = args, bar
        self.kinds = [name for name in ("mask", "image_mask", "weights") if getattr(args, name) is not None]
        self.names = (args.image, args.target, *(getattr(args, name) for name in self.kinds))
        if "-" in self.names:
            msg = "got - with --checkpoint or a series of pairs, need files: they may be read more than once"
            raise BadCallError(msg)
        self.files = pair_files(*self.names)
        for path in dict.fromkeys(path for files in self.files for path in files):
            io.kind_of(Path(path))  # a file that is no image is better known before the work than in the midst of it
        self.words: list[str] = []

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the next pair."""
        pixels = 0
        for number, (image, target, *more) in enumerate(self.files, 1):
            planes, choices = arguments.read_planes(self.args, image, target)
            self.words = [", ".join(f"{k}={v!r}" for k, v in choice.items()) for choice in choices]
            pixels += int(np.prod(planes[1].shape))
            self.bar.n_pixels = pixels * len(self.files) // number
            item = {"image": planes[0], "target": planes[1]}
            for name, path in zip(self.kinds, more, strict=True):
                values = io.read_image(path)
                item[name] = values if name == "weights" else np.asarray(values) != 0
            yield item

    def named(self, message: str) -> str:
        """Return a message that names the files of a pair in the place of its number."""
        found = re.match(r"pair (\d+): ", message)
        return message if found is None else f"{', '.join(self.files[int(found[1])][:2])}: {message[found.end() :]}"

    def python(self, settings: dict[str, Any], solver: str) -> str:
        """Return Python that does the same."""
        names = ("image", "target", *self.kinds)
        ends = [", " + words if words else "" for words in (*self.words, *[""] * len(self.kinds))]
        marks = [" != 0" if name in ("mask", "image_mask") else "" for name in names]
        fields = ", ".join(
            f"{name!r}: read_image({name}{end}){mark}" for name, end, mark in zip(names, ends, marks, strict=True)
        )
        words = "".join(f", {name}={value!r}" for name, value in settings.items() if name != "workers")
        return "\n".join(
            [
                "import kernelfit",
                "from kernelfit.io import read_image",
                "from kernelfit.people.series import pair_files",
                "",
                f"files = pair_files({', '.join(map(repr, self.names))})",
                f"pairs = ({{{fields}}} for {', '.join(names)} in files)",
                f"fit = kernelfit.accumulate_stream(pairs, {self.args.shape!r}{words}).solve({solver})",
                "print(fit.summary())",
            ]
        )


class Found(NamedTuple):
    """What became of a call of `find`: the fit, its pixels in words, the same in Python, and names of channels."""

    fit: KernelFit
    pixels: str
    python: str
    seconds: float
    names: tuple[str, ...] | None = None


def find(args: argparse.Namespace, settings: dict[str, Any]) -> Found:
    """Find the kernel that a series of pairs shares."""
    for name in _WHOLE:
        if getattr(args, name) is not None:
            msg = (
                f"got --{name.replace('_', '-')} with --checkpoint or a series of pairs, whose pixels are read once; "
                "leave one of them out"
            )
            raise BadCallError(msg)
    if args.method in ("cg", "wiener"):
        msg = f"got --method {args.method} with --checkpoint or a series of pairs, need auto, direct or fft"
        raise BadCallError(msg)
    if args.checkpoint is not None:
        file = output.check_output(args.checkpoint, (".npz",), "the checkpoint", overwrite=True)
        if args.output is not None and Path(os.path.realpath(args.output)) == file:
            msg = f"got {args.checkpoint} both as checkpoint and as output, need two files; choose another name"
            raise BadCallError(msg)
        settings = {**settings, "checkpoint": args.checkpoint}
    if "saturated" not in settings:
        settings = {**settings, "saturated": "auto"}
    solver, code = arguments.solver(args, None)
    start = time.perf_counter()
    with Bar(0) as bar, warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = _say
        pairs = Pairs(args, bar)
        bar.note("starting (the very first run compiles, once)")
        try:
            stats = kernelfit.accumulate_stream(pairs, args.shape, progress=bar, **settings)
        except KeyboardInterrupt:
            if args.checkpoint is None:
                raise
            raise KeyboardInterrupt(f"stopped; the same call goes on from {args.checkpoint}") from None
        except (TypeError, ValueError) as error:
            raise type(error)(pairs.named(str(error))) from error
        fit = stats.solve(solver)
    many = f"{stats.n_pixels} target pixels of {len(pairs)} pair{'s'[: len(pairs) > 1]}"
    return Found(fit, many, pairs.python(settings, code or "None"), time.perf_counter() - start)


def _say(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"kernelfit: {message}\n")
