"""The command that subtracts one exposure from another."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import kernelfit

from ..core.npz import write_together
from ..imageio import differences, fits_headers, kernels, read, write
from ..imageio.planes import Choice
from . import arguments
from .inspection import print_json
from .options import DOUBTFUL, SOLVED, BadCallError, say

_SOLVERS: dict[str, Any] = {"least-squares": None, "auto": "auto"}


def subtract(args: argparse.Namespace) -> int:
    """Subtract a reference from a science image, and keep the difference with its variance and mask."""
    if args.science == args.reference == "-":
        raise BadCallError("got - for both images, need a file for one of them: the standard input can be read once")
    if args.json and args.output == "-":
        raise BadCallError("got --json and -o -, need one of them: both write to the standard output")
    wanted = (args.output, "the difference", differences.SUFFIXES), (args.kernel, "the kernel", kernels.SUFFIXES)
    kept, kernel = arguments.check_outputs(args, *wanted)
    exposures, headers = [], []
    for at, path in enumerate((args.science, args.reference)):
        choice = arguments.choice_of(args, at)
        image = read.read_image(path, **choice)
        exposures.append(_exposure(args, image, at))
        headers.append(fits_headers.read_header(path, Choice(**choice)))
    apart = fits_headers.offset_of(headers[0], headers[1], exposures[0].mask.shape)
    if apart is not None and apart > 1:
        say(f"kernelfit: the headers put the two images {apart:.3g} pixels apart; are they aligned?", to="stderr")
    names = ("which", "variation", "clip", "decorrelate")
    words = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.boundary != "none":
        words["boundary"] = args.boundary
    start = time.perf_counter()
    made = kernelfit.subtract(
        exposures[0],
        exposures[1],
        args.shape,
        background=args.background,
        solver=_SOLVERS[args.solver],
        execution=kernelfit.Execution(workers=args.workers),
        **words,
    )
    seconds = time.perf_counter() - start
    outputs = [] if kept is None else [(kept, differences.difference_writer(kept, made, headers[0]), "the difference")]
    outputs += [] if kernel is None else [(kernel, kernels.kernel_writer(kernel, made.fit), "the kernel")]
    write_together(outputs, overwrite=args.force)
    if kept is None:
        write.write_stdout(made.image)
    if args.json:
        files = {"science": args.science, "reference": args.reference, "output": args.output}
        print_json({**files, **_facts(made), "fit": kernels.as_dict(made.fit), "seconds": seconds})
    else:
        stream = "stderr" if kept is None else "stdout"
        say(made.summary(), to=stream)
        notes = [f"{name} written to {path}" for path, _, name in outputs]
        say(f"\n{'; '.join([f'{seconds:.3g} s', *notes])}", to=stream)
    return SOLVED if made.verdict.ok else DOUBTFUL


def _exposure(args: argparse.Namespace, image: Any, at: int) -> kernelfit.Exposure:
    """Return the first or the second image with what the options say of it."""
    given = {}
    for name in ("noise", "variance", "mask", "saturated"):
        values = getattr(args, name) or []
        if len(values) > 2:
            raise BadCallError(f"got --{name} {len(values)} times, need it once or twice (SCIENCE, REFERENCE)")
        if values:
            own = values[min(at, len(values) - 1)]
            given[name] = None if own == "unknown" else own
    variance, mask = (_map(given.pop(name, None), args.allow_external) for name in ("variance", "mask"))
    if variance is not None and given.get("noise") is not None:
        raise BadCallError("got --noise and --variance, which both say how noisy a pixel is; need one of them")
    noise = given.get("noise") if variance is None else np.asarray(variance)
    masked = None if mask is None else np.asarray(mask) != 0
    return kernelfit.Exposure(np.asarray(image), noise, masked, given.get("saturated", "auto"))


def _map(name: str | None, allow_external: bool) -> Any:
    """Read an image named FILE or, of FITS files, FILE:HDU; None for none."""
    if name is None or name == "none":
        return None
    path, colon, hdu = name.rpartition(":")
    if colon and not Path(name).exists() and Path(path).exists():
        return read.read_image(path, hdu=int(hdu) if hdu.isdecimal() else hdu, allow_external=allow_external)
    return read.read_image(name, allow_external=allow_external)


def _facts(made: kernelfit.DifferenceImage) -> dict[str, Any]:
    return {
        "which": made.which,
        "factor": made.factor,
        "noise_std": list(made.noise_std),
        "scatter": made.scatter,
        "masked": int(np.count_nonzero(made.mask)),
        "rejected": int(np.count_nonzero(made.rejected)),
        "verdict": made.verdict.name,
        "findings": [{"verdict": one.verdict.name, "detail": one.detail} for one in made.findings],
    }
