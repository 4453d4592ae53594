"""Folders and patterns of files: which belong together, and what the command line makes of a series of pairs."""

import argparse
import dataclasses
import os
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kernelfit

from ..core.estimate import Estimate
from ..imageio import read, write
from ..imageio.series import is_series, pair_files
from . import arguments
from .options import BadCallError, printable, say
from .progress import Bar

#: Options of `find` that need all pixels at once, or more than one pass over them.
_WHOLE = "variation register curve curve_side noise robust image_noise errors balance tolerance report".split()


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
            read.kind_of(Path(path))  # a file that is no image is better known before the work than in the midst of it
        self.ends: list[str] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pixels = 0
        for number, (image, target, *more) in enumerate(self.files, 1):
            planes, self.ends = arguments.read_planes(self.args, image, target)
            pixels += int(np.prod(planes[1].shape))
            self.bar.n_pixels = pixels * len(self.files) // number
            item = {"image": planes[0], "target": planes[1]}
            for name, path in zip(self.kinds, more, strict=True):
                values = read.read_image(path, allow_external=self.args.allow_external)
                item[name] = values if name == "weights" else np.asarray(values) != 0
            yield item

    def named(self, message: str) -> str:
        """Return a message that names the files of a pair in the place of its number."""
        found = re.match(r"pair (\d+): ", message)
        return message if found is None else f"{', '.join(self.files[int(found[1])][:2])}: {message[found.end() :]}"

    def python(self, settings: dict[str, Any], solver: str) -> str:
        """Return Python that does the same."""
        names = ("image", "target", *self.kinds)
        ends = (*self.ends, *[")"] * len(self.kinds))
        marks = [" != 0" if name in ("mask", "image_mask") else "" for name in names]
        fields = ", ".join(
            f"{name!r}: read_image({name}{end}{mark}" for name, end, mark in zip(names, ends, marks, strict=True)
        )
        words = "".join(f", {name}={value!r}" for name, value in settings.items() if name != "workers")
        return "\n".join(
            [
                "import kernelfit",
                "from kernelfit.io import read_image",
                "from kernelfit.io import pair_files",
                "",
                f"files = pair_files({', '.join(map(repr, self.names))})",
                f"pairs = ({{{fields}}} for {', '.join(names)} in files)",
                f"fit = kernelfit.accumulate_stream(pairs, {self.args.shape!r}{words}).solve({solver})",
                "print(fit.summary())",
            ]
        )


class Found(NamedTuple):
    """What became of a call of `find`: the fit, its pixels in words, the same in Python, channels, a report."""

    fit: Estimate
    pixels: str
    python: str
    seconds: float
    names: tuple[str, ...] | None = None
    report: str = ""


def fit_pair(
    args: argparse.Namespace, pair: Any, shape: Any, words: dict[str, Any], pixels: str, call: str, **more: Any
) -> Found:
    """Find the kernel of a pair, and draw the report that is asked for; `more` has names of channels, and a note."""
    image, target = pair
    start = time.perf_counter()
    with Bar(int(np.prod(target.shape))) as bar:
        bar.note("starting")
        fit = kernelfit.find_kernel(image, target, shape, progress=bar, **words)
        if more.get("note"):
            fit = dataclasses.replace(fit, notes=(*fit.notes, more["note"]))
        seconds, page = time.perf_counter() - start, ""
        if args.report is not None:
            bar.note("drawing the report")
            ends = ("standard input" if path == "-" else Path(path).name for path in (args.image, args.target))
            title = printable(f"From {' to '.join(ends)}")
            page = kernelfit.report.report_html(fit, image, target, title=title, call=call, names=more.get("names"))
    return Found(fit, pixels, call, seconds, more.get("names"), page)


def find(args: argparse.Namespace, settings: dict[str, Any]) -> Found:
    """Find the kernel that a series of pairs shares."""
    for name in _WHOLE:
        if getattr(args, name) is not None:
            raise BadCallError(
                f"got --{name.replace('_', '-')} with --checkpoint or a series of pairs, whose pixels are read once; "
                "leave one of them out"
            )
    if args.method in ("cg", "wiener"):
        msg = f"got --method {args.method} with --checkpoint or a series of pairs, need auto, direct or fft"
        raise BadCallError(msg)
    if args.checkpoint is not None:
        file = write.check_output(args.checkpoint, (".npz",), "the checkpoint", overwrite=True)
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
        warnings.showwarning = lambda message, *_, **__: say(f"kernelfit: {message}", to="stderr")
        pairs = Pairs(args, bar)
        bar.note("starting")
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
