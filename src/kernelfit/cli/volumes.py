"""What the commands do with volumes: stacks of TIFF pages and arrays of three axes, where --volume is given."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import kernelfit

from ..core.npz import write_whole
from ..imageio import kernels, volumes, write
from ..imageio.volumes import read_volume
from . import arguments
from .options import SOLVED, BadCallError, say
from .series import Found, fit_pair

_ADVICE = "planes, rows and columns: --shape 5,9,9"


def wanted(args: argparse.Namespace) -> bool:
    """Say whether a call is about volumes."""
    for name in ("shape", "origin", "stride", "offset"):
        value = getattr(args, name, None)
        if isinstance(value, tuple) and len(value) == 3 and not args.volume:
            raise BadCallError(f"got --{name} of three numbers, which are for volumes; need --volume, or two numbers")
    return bool(args.volume)


def find(args: argparse.Namespace, settings: dict[str, Any]) -> Found:
    """Find the kernel of a pair of volumes."""
    for name in ("page", "channel", "channels", "checkpoint", "lags", "variation"):
        if getattr(args, name) is not None:
            raise BadCallError(f"got --{name} with --volume, need it left out")
    if args.shape is None:
        raise BadCallError(f"got no --shape with --volume, need three numbers, {_ADVICE}")
    shape = (args.shape,) * 3 if isinstance(args.shape, int) else args.shape
    if len(shape) != 3:
        raise BadCallError(f"got --shape of {len(shape)} numbers with --volume, need three, {_ADVICE}")
    solver, solver_code = arguments.solver(args, None) if _chosen(args) else (None, "")
    (image, first), (target, second) = (_read(args, name, at) for at, name in enumerate(("image", "target")))
    maps, code = arguments.maps(args, _whole(args), "read_volume({!r})[:]")
    call = arguments.python(shape, [first, second], settings, {"solver": solver_code, **code}, "read_volume")
    words, pixels = {"solver": solver, **settings, **maps}, " x ".join(map(str, image.shape))
    return fit_pair(args, (image, target), shape, words, f"{pixels} pixels", call)


def _whole(args: argparse.Namespace) -> Callable[[str], Any]:
    return lambda path: read_volume(path, allow_external=args.allow_external)[:]


def _chosen(args: argparse.Namespace) -> bool:
    """Say whether the options name a solver: of volumes least squares is the default."""
    return any(getattr(args, name) is not None for name in ("solver", "strength", "total", "symmetric"))


def _read(args: argparse.Namespace, name: str, at: int) -> tuple[Any, str]:
    return arguments.read_one(args, name, at, read_volume, "read_volume", ("hdu", "dataset", "allow_external"))


def _kernel(args: argparse.Namespace) -> kernels.KernelFile:
    held = kernels.read_kernel(args.kernel)
    if not held.of_volumes:
        raise BadCallError(f"{args.kernel}: got a kernel of shape {held.kernel.shape}, need one of a volume")
    return held


def deconvolve(args: argparse.Namespace) -> int:
    """Restore what a volume was before a kernel blurred it."""
    held = _kernel(args)
    (kept,) = arguments.check_outputs(args, (args.output, "the volume", volumes.SUFFIXES))
    target, conv = np.asarray(_read(args, "image", 0)[0][:]), held.convention
    if conv is not None and conv.strided:
        raise BadCallError(
            f"{args.kernel}: got a kernel of stride {conv.stride}, need one of a volume that keeps its size"
        )
    words = {**arguments.restoring(args, conv), **arguments.maps(args, _whole(args))[0]}
    made = kernelfit.deconvolve(target, held.kernel, **words)
    return _written(args, kept, made, f"balance {args.balance}")


def apply(args: argparse.Namespace) -> int:
    """Lay a kernel on a volume."""
    held = _kernel(args)
    (kept,) = arguments.check_outputs(args, (args.output, "the volume", volumes.SUFFIXES))
    image, _ = _read(args, "image", 0)
    conv = held.convention
    words = arguments.laying(args, conv)
    for name in ("stride", "offset"):
        value = getattr(args, name) if conv is None or getattr(args, name) is not None else getattr(conv, name)
        words |= {} if value is None else {name: value}
    made = kernelfit.apply_kernel(image, held.kernel, workers=args.workers, **words)
    background = None if held.fit is None else held.fit.background
    if background is not None and not args.no_background and len(background.shapes) == 1:
        surface = background.coefficients.reshape(1, 1, -1) if background.degree == 0 else background.image()
        if background.degree and surface.shape != made.shape:
            sides = (" x ".join(map(str, some)) for some in (made.shape, surface.shape))
            raise BadCallError("got a volume of {} and a background of {}, need --no-background".format(*sides))
        made = made + surface
    if args.nan is not None:
        made = np.where(np.isnan(made), args.nan, made)
    return _written(args, kept, made, f"boundary {words['boundary']}")


def _written(args: argparse.Namespace, kept: Path | None, made: Any, how: str) -> int:
    if kept is None:
        write.write_stdout(made)
        return SOLVED
    write_whole(kept, write.array_writer(kept, made), "the volume", overwrite=args.force)
    say(f"{args.output}: {' x '.join(map(str, made.shape))} pixels, {how}")
    return SOLVED
