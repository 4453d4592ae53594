"""The command that holds a kernel against a pair of images."""

import argparse

import kernelfit

from ..imageio import kernels
from . import arguments
from .inspection import print_json
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
