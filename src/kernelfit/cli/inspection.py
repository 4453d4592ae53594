"""Commands that say what a kernel's file holds, write it for other tools, and hold kernels against pairs."""

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import kernelfit

from ..analysis.export import SUFFIXES
from ..analysis.export import export as exported
from ..analysis.recognition import in_words
from ..core.estimate import Estimate
from ..core.npz import write_together, write_whole
from ..imageio import fits_headers, kernels, read, write
from ..imageio.planes import Choice
from ..plotting.text import explain as explained
from ..plotting.text import filled, summary
from . import arguments
from .options import DOUBTFUL, SOLVED, BadCallError, say


def inspect(args: argparse.Namespace) -> int:
    """Say what a kernel's file holds."""
    (picture,) = arguments.check_outputs(args, (args.plot, "the picture", (".png",)))
    if args.plot is not None:
        read.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="--plot")
    held = kernels.read_kernel(args.kernel)
    planes = held.planes()
    deep = held.of_volumes and held.convention is not None
    fits = {} if held.of_signals else {name: one.as_fit() for name, one in planes.items()}
    if picture is not None:
        draw(picture, planes, args.force)
    if args.json:
        conv = None if held.convention is None else held.convention.stored()
        fields = {
            "file": args.kernel,
            "shape": list(held.kernel.shape),
            "kernel": held.kernel.tolist(),
            "convention": conv,
        }
        errors = None if held.stderr is None else kernels.finite(held.stderr.tolist())
        print_json({**fields, "stderr": errors, "verdict": held.verdict or None, **measured(fits)})
        return SOLVED
    if held.fit is not None:
        say(summary(held.fit))
    else:
        many, largest = held.kernel.ndim - (1 if held.of_signals else 2), max(held.kernel.shape)
        place = tuple(map(int, np.unravel_index(int(np.argmax(np.abs(held.kernel))), held.kernel.shape)))
        sides = " x ".join(map(str, held.kernel.shape))
        say(f"kernel      {sides}, largest tap {held.kernel[place]:.6g} at {place}")
        unknown = "not in the file: taken as a convolution with SciPy's centre"
        say(f"convention  {held.convention if held.convention is not None else unknown}")
        say(f"errors      {'yes, of each tap' if held.stderr is not None else 'none in the file'}")
        if held.verdict:
            say(f"verdict     {held.verdict}")
        if largest <= 11 and not many:
            say("\n" + np.array2string(held.kernel, precision=4, suppress_small=True, max_line_width=120))
    for name, fit in fits.items():
        filter_name = "" if deep or (held.fit is not None and not name) else in_words(fit)
        said = f"filter        {filter_name}\n" if filter_name else ""
        say(f"\n{f'{name}:' if name else ''}\n{said}{kernelfit.measure_psf(fit)}".replace("\n\n", "\n"))
    return SOLVED


def explain(args: argparse.Namespace) -> int:
    """Show what the documentation says of verdicts and words."""
    texts = [explained(word) for word in args.words]
    say("\n\n".join(filled(text, min(100, shutil.get_terminal_size().columns)) for text in texts))
    return SOLVED


def draw(path: Path, planes: dict[str, kernels.KernelFile], overwrite: bool) -> None:
    """Draw each kernel and, where there are errors, how well it is known."""
    figure_of = read.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="--plot")
    known = all(each.stderr is not None for each in planes.values())
    deep = [each.as_fit() for each in planes.values() if each.kernel.ndim == 3 and each.of_volumes]
    if deep:
        figure = kernelfit.plot.overview(deep[0], figure=figure_of.Figure(figsize=(13.5, 11.2), layout="constrained"))
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=130), "the picture", overwrite=overwrite)
        return
    figure = figure_of.Figure(figsize=(15.5 if known else 5.2, 3.9 * len(planes)), layout="constrained")
    axes = figure.subplots(len(planes), 4 if known else 1, squeeze=False)
    for row, (name, each) in zip(axes, planes.items(), strict=True):
        fit = each.as_fit()
        kernelfit.plot.kernel(fit, row[0], title=name or None)
        if known:
            kernelfit.plot.error(fit, row[1])
            kernelfit.plot.cuts(fit, row[2])
            kernelfit.plot.frequency_response(fit, row[3])
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=130), "the picture", overwrite=overwrite)


def compare(args: argparse.Namespace) -> int:
    """Say whether two kernels differ."""
    if args.first == args.second == "-":
        raise BadCallError("got - for both kernels, need a file for one of them: the standard input can be read once")
    first, second = (kernels.read_kernel(path) for path in (args.first, args.second))
    one, other = first.like(second).planes(), second.like(first).planes()
    if len(one) != len(other):
        raise BadCallError(f"got {len(one)} kernel{'s'[: len(one) > 1]} and {len(other)}, need as many in both files")
    pairs = zip(one.items(), other.values(), strict=True)
    found = {name: kernelfit.compare_kernels(a.as_fit(), b.as_fit()) for (name, a), b in pairs}
    differ = any(each.differ for each in found.values())
    if args.json:
        fields = {name: _difference(each) for name, each in found.items()}
        some = fields[""] if "" in fields else {"differ": differ, "channels": fields}
        print_json({"first": args.first, "second": args.second, **some})
    else:
        say("\n\n".join(f"{name}:\n{each}".removeprefix(":\n") for name, each in found.items()))
    return 1 if differ else 0


def _difference(found: kernelfit.Difference) -> dict[str, Any]:
    finite = kernels.finite
    fields = {"differ": found.differ, "relative": finite(found.relative), "largest": list(found.largest)}
    fields |= {"chi2": finite(found.chi2), "freedom": found.dof, "p_value": finite(found.p_value)}
    fields |= {"difference": found.difference.tolist(), "stderr": finite(found.stderr.tolist())}
    return {**fields, "origin": list(found.origin), "exact": found.exact}


def export(args: argparse.Namespace) -> int:
    """Write a kernel as text that another tool runs."""
    (kept,) = arguments.check_outputs(args, (args.output, "the text", (SUFFIXES[args.to],)))
    held = kernels.read_kernel(args.kernel)
    planes = held.planes()
    whole = args.plane is None and held.fit is not None and held.fit.channel_axis is not None
    if args.plane is None and len(planes) > 1 and not whole:
        raise BadCallError(f"got {len(planes)} kernels, need one; say --plane {', '.join(planes)}")
    if args.plane is not None and args.plane not in planes:
        names = ", ".join(planes) if len(planes) > 1 else "none of them, the file has one kernel"
        raise BadCallError(f"got --plane {args.plane}, need {names}")
    one = held if whole else next(iter(planes.values())) if args.plane is None else planes[args.plane]
    text = exported(one.as_fit(), args.to)
    if kept is None:
        say(text.rstrip("\n"))
    else:
        write_whole(kept, lambda file: file.write(text.encode()), "the text", overwrite=args.force)
    return SOLVED


def print_json(fields: dict[str, Any]) -> None:
    """Print plain types as JSON."""
    say(json.dumps(fields, indent=1, allow_nan=False).replace("\x7f", "\\u007f"))


def measured(planes: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return the numbers of kernels, and the named filters that they may be, as plain types for JSON."""
    psfs = {name: kernelfit.measure_psf(one).to_dict() for name, one in planes.items()}
    flat = {name: plane for name, plane in planes.items() if plane.convention.ndim < 3}
    filters = {name: [one.to_dict() for one in kernelfit.recognise(plane)] for name, plane in flat.items()}
    return {"psf": psfs.get("", psfs), "filter": kernels.finite(filters.get("", filters))}


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


_SOLVERS: dict[str, Any] = {"least-squares": None, "auto": "auto"}


def subtract(args: argparse.Namespace) -> int:
    """Subtract a reference from a science image, and keep the difference with its variance and mask."""
    if args.science == args.reference == "-":
        raise BadCallError("got - for both images, need a file for one of them: the standard input can be read once")
    if args.json and args.output == "-":
        raise BadCallError("got --json and -o -, need one of them: both write to the standard output")
    wanted = (args.output, "the difference", write.DIFFERENCE_SUFFIXES), (args.kernel, "the kernel", kernels.SUFFIXES)
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
    outputs = [] if kept is None else [(kept, write.difference_writer(kept, made, headers[0]), "the difference")]
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
