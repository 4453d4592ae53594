"""What the arguments of a call amount to: planes of files, a solver, files to be written, and the same in Python."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kernelfit

from ..core.model import as_ends
from ..data import masking
from ..imageio import read, write
from ..imageio.planes import NoChannelsError
from .options import PENALTIES, BadCallError

#: Arguments that are files, which no output may replace.
_INPUTS = ("image", "target", "kernel", "mask", "image_mask", "weights", "science", "reference", "variance")


def check_outputs(args: argparse.Namespace, *wanted: tuple[str | None, str, tuple[str, ...]]) -> list[Path | None]:
    """Judge every file to be written, (name, what, endings), before any work; return the paths, None for stdout."""
    given = [getattr(args, key, None) for key in _INPUTS]
    sources = [name for one in given for name in (one if isinstance(one, list) else [one])]
    paths: list[Path | None] = []
    for name, what, suffixes in wanted:
        if name is None:
            paths.append(None)
            continue
        for source in sources:
            if source is not None and os.path.exists(source) and os.path.exists(name):
                if os.path.samefile(source, name):
                    raise BadCallError(f"got {name} both as input and as output, need two files; choose another name")
        path = write.check_output(name, suffixes, what, overwrite=args.force)
        if path is not None:
            write.require_writer(path)
        paths.append(path)
    return paths


def choice_of(args: argparse.Namespace, at: int) -> dict[str, Any]:
    """Return which plane of a file is meant: the option's only value, or the one for this file."""
    found: dict[str, Any] = {"allow_external": True} if args.allow_external else {}
    for name in ("page", "hdu", "dataset", "channel"):
        values = getattr(args, name)
        files = 2 if args.command in ("find", "audit", "psf", "subtract") else 1
        if values is None:
            continue
        if len(values) > files:
            need = "once or twice (IMAGE, TARGET)" if files > 1 else "once"
            raise BadCallError(f"got --{name} {len(values)} times, need it {need}")
        found[name] = values[min(at, len(values) - 1)]
    return found


def read_planes(args: argparse.Namespace, *paths: str) -> tuple[list[Any], list[str]]:
    """Return the planes, and how the Python ends that reads each; one --channel is for the file that has them."""
    images: list[Any] = []
    ends = []
    gray = []
    for at, path in enumerate(paths):
        choice = choice_of(args, at)
        if args.channels is not None or (args.command == "find" and args.shape is None and "channel" not in choice):
            choice["colours"] = True
        try:
            image = read.read_image(path, **choice)
        except NoChannelsError:
            gray.append(path)
            if len(args.channel) > 1 or len(gray) > 1:
                raise
            del choice["channel"]
            image = read.read_image(path, **choice)
        cut = ""
        if args.channels is not None:
            image, cut = _colours(image, path, args.channels == "mixed" and at == 1)
        images.append(image)
        ends.append("".join(f", {name}={value!r}" for name, value in choice.items()) + f"){cut}")
    return images, ends


def maps(
    args: argparse.Namespace, reader: Callable[[str], Any] | None = None, python: str = "read_image({!r})"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the masks and weights that are given as files; return them, and the Python that does."""
    found: dict[str, Any] = {}
    code: dict[str, str] = {}
    for name in ("mask", "image_mask", "weights"):
        path = getattr(args, name, None)
        if path is None:
            continue
        if path == "-":
            raise BadCallError(f"got - for --{name.replace('_', '-')}, need a file: the standard input is for images")
        try:
            values = np.asarray(reader(path) if reader else read.read_image(path, allow_external=args.allow_external))
        except read.ImageFileError as error:  # whose remedies are for IMAGE and TARGET
            if reader:
                raise
            msg = f"{str(error).partition(';')[0]}; save --{name.replace('_', '-')} as one gray plane"
            raise BadCallError(msg) from error
        found[name] = values if name == "weights" else values != 0
        code[name] = python.format(path) + ("" if name == "weights" else " != 0")
    return found, code


def saturated_colours(args: argparse.Namespace, reading: list[str]) -> tuple[Any, str]:
    """Return where a colour of the target is saturated whose luma is taken, and a note; None if none or most are."""
    choice = choice_of(args, 1)
    if choice.get("channel") != "luma" or "channel='luma'" not in reading[1]:
        return None, ""
    colours = read.read_image(args.target, **{**choice, "channel": None, "colours": True})
    ends = as_ends(args.saturated, colours.dtype) if colours.shape[-1] > 2 else None
    if ends is None:
        return None, ""
    hit = masking.at_ends(np.asarray(colours)[..., :3], ends)
    if hit is None:
        return None, ""
    found = hit.any(axis=-1)
    count = f"{np.count_nonzero(found)} of {found.size} pixels of the target's luma are of a saturated colour"
    if args.saturated == "auto" and np.count_nonzero(~found) < 0.05 * found.size:
        return None, f"{count}; they are used, being nearly all of it"
    code = reading[1].removeprefix("target = ").replace("channel='luma'", "colours=True")
    low, high = (f"float('{end}')" if math.isinf(end) else repr(end) for end in ends)
    reading.append(f"colours = {code}[..., :3]\nsaturated = ((colours <= {low}) | (colours >= {high})).any(axis=-1)")
    return found, f"{count}, and so masked"


def _colours(image: Any, path: str, gray_will_do: bool) -> tuple[Any, str]:
    """Return the colours of an image without its alpha channel, and the Python that leaves it out."""
    if len(image.shape) != 3:
        if gray_will_do:
            return np.asarray(image)[..., None], "[..., None]"
        raise BadCallError(f"{path}: got an image of one plane with --channels, need colours; leave --channels out")
    count = {2: 1, 4: 3}.get(image.shape[-1], image.shape[-1])
    return (image, "") if count == image.shape[-1] else (image[..., :count], f"[..., :{count}]")


def solver(args: argparse.Namespace, image: Any) -> tuple[Any, str]:
    """Return the solver that the options describe for an image, or a series, and the Python that makes it."""
    name, strength, total, symmetric = args.solver, args.strength, args.total, args.symmetric
    if args.method in ("wiener", "cg"):
        for option in ("solver", "strength", "total", "symmetric"):
            if getattr(args, option) is not None:
                msg = f"got --{option} with --method {args.method}, which is a solver of its own; leave one of them out"
                raise BadCallError(msg)
        return None, ""
    if strength is not None and name not in (*PENALTIES, None):
        raise BadCallError(f"got --strength with --solver {name}, need one of {', '.join(PENALTIES)}")
    if symmetric is not None and name is not None:
        raise BadCallError(f"got --symmetric with --solver {name}, need one or the other")
    if total is not None and name not in (None, "non-negative"):
        raise BadCallError(f"got --total with --solver {name}, need --solver non-negative or none")
    if name is None and (total is not None or symmetric is not None):
        if strength is not None:
            raise BadCallError("got --strength with --total or --symmetric, need one or the other")
        words = [f"{key}={value!r}" for key, value in (("total", total), ("symmetric", symmetric)) if value is not None]
        return kernelfit.Constrained(total=total, symmetric=symmetric), f"kernelfit.Constrained({', '.join(words)})"
    if name is None and strength is not None:
        name = "biharmonic"
    if name in PENALTIES:
        given = "gcv" if strength is None else strength
        code = f"kernelfit.Penalized({name!r}{'' if given == 'gcv' else f', {given!r}'})"
        return kernelfit.Penalized(name, given), code
    if name == "non-negative":
        return kernelfit.NonNegative(
            total=total
        ), f"kernelfit.NonNegative({'' if total is None else f'total={total!r}'})"
    if name == "gaussian-process":
        return kernelfit.GaussianProcess(), "kernelfit.GaussianProcess()"
    if name == "sparse":
        return kernelfit.Sparse(), "kernelfit.Sparse()"
    if name == "least-squares":
        return None, ""
    if (
        name is None
        and args.method == "auto"
        and args.shape is not None
        and image is not None
        and len(image.shape) == 2
        and min(image.shape) > 0
    ):
        sides = args.shape if isinstance(args.shape, tuple) else (args.shape, args.shape)
        fits = min(np.subtract(image.shape, sides)) >= 0
        if fits and kernelfit.choose_method(image.shape, sides, args.stride or 1).method == "cg":
            return None, ""  # thousands of taps: conjugate gradients are a solver of their own
    return "auto", "'auto'"


def python(
    shape: Any, reading: Sequence[str], settings: dict[str, Any], how: dict[str, str], verb: str = "read_image"
) -> str:
    """Return Python that does the same; `how` holds the code of arguments that is not their repr."""
    words = [f"{name}={value!r}" for name, value in settings.items() if name != "workers"]
    words += [f"{name}={code}" for name, code in how.items() if code]
    sides = [] if shape is None else [repr(shape)]
    call = f"fit = kernelfit.find_kernel({', '.join(['image', 'target', *sides, *words])})"
    lines = ["import kernelfit", f"from kernelfit.io import {verb}", "", *reading, call, "print(fit.summary())"]
    return "\n".join(lines)


def read_one(
    args: argparse.Namespace, name: str, at: int, reader: Callable[..., Any], verb: str, keys: tuple[str, ...]
) -> tuple[Any, str]:
    """Return a signal or a volume, and the Python that reads it."""
    path = getattr(args, name)
    if path == "-":
        raise BadCallError(f"got - for a {verb.partition('_')[2]}, need a file: the standard input is for images")
    words = {key: value for key, value in choice_of(args, at).items() if key in keys}
    given = [repr(path), *(f"{key}={value!r}" for key, value in words.items())]
    return reader(path, **words), f"{name} = {verb}({', '.join(given)})"


def laying(args: argparse.Namespace, conv: Any, beyond: str = "symm") -> dict[str, Any]:
    """Return how a kernel is laid on what there is: as the options say, else as the file, else with this boundary."""
    boundary = args.boundary or (conv.boundary if conv is not None else None) or beyond
    if args.fillvalue is not None and boundary != "fill":
        raise BadCallError(f"got --fillvalue with --boundary {boundary}, need --boundary fill; declare that")
    fill = args.fillvalue if args.fillvalue is not None else conv.fillvalue if conv is not None else 0.0
    mode = args.mode or "same"
    words = {"mode": mode, "boundary": boundary, "fillvalue": fill if boundary == "fill" else 0.0}
    return {**words, **_laid(args, conv, mode)}


def restoring(args: argparse.Namespace, conv: Any) -> dict[str, Any]:
    """Return how a kernel is taken out of what there is."""
    words = {name: getattr(args, name) for name in ("balance", "penalty", "edges", "nan", "workers")}
    return {**words, "boundary": None if args.boundary == "none" else args.boundary, **_laid(args, conv, "same")}


def _laid(args: argparse.Namespace, conv: Any, mode: str) -> dict[str, Any]:
    """Return origin and operation: those of the options, else those of the file."""
    given = {"operation": args.operation, "origin": args.origin}
    if conv is not None:
        known = {"operation": conv.operation, "origin": conv.origin if mode == "same" else None}
        given = {name: known[name] if value is None else value for name, value in given.items()}
    return {name: value for name, value in given.items() if value is not None}
