"""Commands that hold a kernel against a pair of images, or find that of a camera in a capture of a target."""

import argparse
from typing import Any

import kernelfit

from ..imageio import kernels, read
from . import arguments
from .inspection import draw, print_json
from .options import DOUBTFUL, SOLVED, BadCallError, say


def audit(args: argparse.Namespace) -> int:
    """Say whether a kernel explains a pair."""
    if [args.image, args.target, args.kernel].count("-") > 1:
        raise BadCallError("got - more than once, need files: the standard input can be read once")
    (image, target), _ = arguments.read_planes(args, args.image, args.target)
    held = kernels.read_kernel(args.kernel)
    names = "mode origin operation stride offset background nan noise saturated workers".split()
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given = held.kernel if held.convention is None else held.as_fit()
    found = kernelfit.audit(image, target, given, **settings, **arguments.maps(args)[0])
    if args.json:
        print_json({"image": args.image, "target": args.target, "kernel_file": args.kernel, **found.to_dict()})
    else:
        say(found)
    return SOLVED if found.explains else DOUBTFUL


def psf(args: argparse.Namespace) -> int:
    """Find a camera's point spread function."""
    if args.image == args.target == "-":
        raise BadCallError("got - for both images, need a file for one of them: the standard input can be read once")
    wanted = (args.output, "the kernel", kernels.SUFFIXES), (args.plot, "the picture", (".png",))
    kept, picture = arguments.check_outputs(args, *wanted)
    if picture is not None:
        read.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="--plot")
    (image, pattern), _ = arguments.read_planes(args, args.image, args.target)
    solver: Any = {"non-negative": kernelfit.NonNegative(), "auto": "auto"}.get(args.solver)
    names = "corners shape distortion illumination saturated workers".split()
    settings = {name: getattr(args, name) for name in names} | {"mask": arguments.maps(args)[0].get("mask")}
    found = kernelfit.find_psf(image, pattern, args.oversample, solver=solver, **settings)
    if kept is not None:
        kernels.write_kernel(kept, found.fit, overwrite=args.force)
    if picture is not None:
        draw(picture, {"": kernels.KernelFile(found.fit.kernel, found.fit.stderr, fit=found.fit)}, args.force)
    if args.json:
        print_json({"image": args.image, "target": args.target, "output": args.output, **found.to_dict()})
    else:
        say(f"{found}{f'{chr(10)}kernel written to {args.output}' if kept is not None else ''}")
    return SOLVED if found.fit.verdict.ok else DOUBTFUL
