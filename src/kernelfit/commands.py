"""What the commands of the command line do: files in, the package's own functions, files and words out."""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import kernelfit

from . import cli, io, kernel_files, output
from .cli import BadCallError
from .geometry import in_mode
from .progress import Bar
from .result import KernelFit

_PENALTIES = ("ridge", "gradient", "laplacian", "biharmonic")


def run(args: argparse.Namespace) -> int:
    """Run a command and return its exit code; every mistake of the caller becomes a `BadCallError`."""
    try:
        return {
            "find": find,
            "apply": apply,
            "deconvolve": deconvolve,
            "inspect": inspect,
            "compare": compare,
            "demo": demo,
        }[args.command](args)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, MemoryError, io.MissingExtraError) as error:
        raise BadCallError(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}; check the name" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"got images too large for this machine's memory ({error}); save them as NPY, which is read in blocks"
    return str(error) or type(error).__name__


# ---- find ----------------------------------------------------------------------------------------------------------


def find(args: argparse.Namespace) -> int:
    """Find a kernel, say how well it is known, and keep it."""
    if args.fillvalue is not None and args.boundary != "fill":
        msg = f"got --fillvalue with --boundary {args.boundary}, need --boundary fill; declare that"
        raise BadCallError(msg)
    if args.image == args.target == "-":
        msg = "got - for both images, need a file for one of them: the standard input can be read once"
        raise BadCallError(msg)
    if args.json and args.output == "-":
        msg = "got --json and -o -, need one of them: both write to the standard output"
        raise BadCallError(msg)
    if args.report is not None and args.channels in ("separate", "mixed"):
        msg = f"got --report with --channels {args.channels}, need one plane for the pictures; pick it with --channel"
        raise BadCallError(msg)
    if args.channels in ("separate", "mixed") and (args.output or "").endswith((".csv", ".txt")):
        msg = f"got {args.output} for kernels of several channels, need .npy, .npz, .json, .fits or .tif"
        raise BadCallError(msg)
    kept = _check_outputs(args, {args.output: ("the kernel", kernel_files.SUFFIXES), args.report: ("the report", HTML)})
    if args.report is not None:
        io.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
    choices = [_plane(args, 0), _plane(args, 1)]
    if args.channels is not None:
        choices = [{**choice, "colours": True} for choice in choices]
    image, target = io.read_image(args.image, **choices[0]), io.read_image(args.target, **choices[1])
    cuts = ["", ""]
    if args.channels is not None:
        (image, cuts[0]), (target, cuts[1]) = _colours(image, args.image), _colours(target, args.target)
    solver, solver_code = _solver(args, image, target)
    settings: dict[str, Any] = {
        "mode": args.mode,
        "boundary": None if args.boundary == "none" else args.boundary,
        "fillvalue": args.fillvalue,
        "origin": args.origin,
        "operation": args.operation,
        "stride": args.stride,
        "offset": args.offset,
        "method": args.method,
        "balance": args.balance,
        "tolerance": args.tolerance,
        "background": args.background,
        "channels": args.channels,
        "channel_axis": None if args.channels is None else -1,
        "nan": args.nan,
        "noise": args.noise,
        "robust": args.robust,
        "image_noise": args.image_noise,
        "errors": args.errors,
        "workers": args.workers,
    }
    defaults = {"operation": "convolution", "method": "auto"}
    settings = {name: value for name, value in settings.items() if value is not None and defaults.get(name) != value}
    if args.saturated == "none":
        settings["saturated"] = None
    maps, map_code = _maps(args)
    start = time.perf_counter()
    with Bar(int(np.prod(target.shape))) as bar:
        bar.note("starting (the very first run compiles, once)")
        fit = kernelfit.find_kernel(image, target, args.shape, solver=solver, progress=bar, **settings, **maps)
    seconds = time.perf_counter() - start
    call = _call(args, choices, cuts, settings, solver_code, map_code)
    if args.report is not None:
        title = f"From {_name(args.image)} to {_name(args.target)}"
        shown, pair = fit, (image, target)
        if args.channels is not None:  # one kernel for all channels: the pictures are those of the first
            shown = dataclasses.replace(fit, channels=None, channel_axis=None, background=_of_first(fit.background))
            pair = (image[..., 0], target[..., 0])
        kernelfit.report.write_report(kept[args.report], shown, *pair, title=title, call=call, overwrite=args.force)
    if args.output == "-":
        output.write_stdout(np.ascontiguousarray(fit.kernel))
    elif args.output is not None:
        kernel_files.write_kernel(kept[args.output], fit, overwrite=args.force)
    if args.json:
        more = {"image": args.image, "target": args.target, "output": args.output, "report": args.report}
        flat = fit.kernel.ndim == 2
        psf = fit.psf().to_dict() if flat else None
        _print_json({**kernel_files.as_dict(fit), "psf": psf, **more, "seconds": seconds, "python": call})
    else:
        say = sys.stderr if args.output == "-" else sys.stdout
        print(fit.summary(), file=say)
        notes = [f"kernel written to {args.output}"] if args.output not in (None, "-") else []
        notes += [f"report written to {args.report}"] if args.report is not None else []
        if args.output is None:
            notes.append("-o kernel.npz would keep the kernel")
        pixels = f"{image.shape[0]} x {image.shape[1]} pixels"
        print(f"\n{_duration(seconds)} for {pixels}; {'; '.join(notes)}", file=say)
    return cli.SOLVED if fit.verdict.ok else cli.DOUBTFUL


HTML = (".html", ".htm")


def _maps(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the masks and weights that are given as files; return them, and the Python that does."""
    found: dict[str, Any] = {}
    code: dict[str, str] = {}
    for name in ("mask", "image_mask", "weights"):
        path = getattr(args, name)
        if path is None:
            continue
        if path == "-":
            msg = f"got - for --{name.replace('_', '-')}, need a file: the standard input is for images"
            raise BadCallError(msg)
        values = np.asarray(io.read_image(path))
        found[name] = values if name == "weights" else values != 0
        code[name] = f"read_image({path!r})" + ("" if name == "weights" else " != 0")
    return found, code


def _of_first(background: Any) -> Any:
    """Return the background of the first channel."""
    if background is None:
        return None
    tables = {name: getattr(background, name) for name in ("coefficients", "stderr")}
    first = {name: table.reshape(-1, table.shape[-1])[0] for name, table in tables.items()}
    return dataclasses.replace(background, channel_axis=None, **first)


def _check_outputs(args: argparse.Namespace, wanted: dict[str | None, tuple[str, tuple[str, ...]]]) -> dict[str, Path]:
    """Judge every file that is to be written before any work is done; return where each is to go."""
    paths: dict[str, Path] = {}
    for name, (what, suffixes) in wanted.items():
        if name is None:
            continue
        sources = [getattr(args, key, None) for key in ("image", "target", "kernel", "mask", "image_mask", "weights")]
        for source in sources:
            if (
                source is not None
                and os.path.exists(source)
                and os.path.exists(name)
                and os.path.samefile(source, name)
            ):
                msg = f"got {name} both as input and as output, need two files; choose another name"
                raise BadCallError(msg)
        path = output.check_output(name, suffixes, what, overwrite=args.force)
        if path is not None:
            output.require_writer(path)
            paths[name] = path
    return paths


def _plane(args: argparse.Namespace, at: int) -> dict[str, Any]:
    """Return which plane of a file is meant: the option's only value, or the one for this file."""
    found = {}
    for name in ("page", "hdu", "dataset", "channel"):
        values = getattr(args, name)
        files = 2 if args.command == "find" else 1
        if values is None:
            continue
        if len(values) > files:
            msg = (
                f"got --{name} {len(values)} times, need it {'once or twice (IMAGE, TARGET)' if files > 1 else 'once'}"
            )
            raise BadCallError(msg)
        found[name] = values[min(at, len(values) - 1)]
    return found


def _solver(args: argparse.Namespace, image: Any, target: Any) -> tuple[Any, str]:
    """Return the solver that the options describe, and the Python that makes it."""
    name, strength, total, symmetric = args.solver, args.strength, args.total, args.symmetric
    if args.method in ("wiener", "cg"):
        for option in ("solver", "strength", "total", "symmetric"):
            if getattr(args, option) is not None:
                msg = f"got --{option} with --method {args.method}, which is a solver of its own; leave one of them out"
                raise BadCallError(msg)
        return None, ""
    if strength is not None and name not in (*_PENALTIES, None):
        msg = f"got --strength with --solver {name}, need one of {', '.join(_PENALTIES)}"
        raise BadCallError(msg)
    if symmetric is not None and name is not None:
        msg = f"got --symmetric with --solver {name}, need one or the other"
        raise BadCallError(msg)
    if total is not None and name not in (None, "non-negative"):
        msg = f"got --total with --solver {name}, need --solver non-negative or none"
        raise BadCallError(msg)
    if name is None and (total is not None or symmetric is not None):
        if strength is not None:
            msg = "got --strength with --total or --symmetric, need one or the other"
            raise BadCallError(msg)
        words = [f"{key}={value!r}" for key, value in (("total", total), ("symmetric", symmetric)) if value is not None]
        return kernelfit.Constrained(total=total, symmetric=symmetric), f"kernelfit.Constrained({', '.join(words)})"
    if name is None and strength is not None:
        name = "biharmonic"
    if name in _PENALTIES:
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
    if name is None and args.method == "auto" and len(image.shape) == 2 and min(image.shape) > 0:
        sides = args.shape if isinstance(args.shape, tuple) else (args.shape, args.shape)
        if (
            min(np.subtract(image.shape, sides)) >= 0
            and kernelfit.choose_method(image.shape, sides, args.stride or 1).method == "cg"
        ):
            return None, ""  # thousands of taps: conjugate gradients are a solver of their own
    return "auto", "'auto'"


def _colours(image: Any, path: str) -> tuple[Any, str]:
    """Return the colours of an image without its alpha channel, and the Python that leaves it out."""
    if len(image.shape) != 3:
        msg = f"{path}: got an image of one plane with --channels, need colours; leave --channels out"
        raise BadCallError(msg)
    colours = {2: 1, 4: 3}.get(image.shape[-1], image.shape[-1])
    return (image, "") if colours == image.shape[-1] else (image[..., :colours], f"[..., :{colours}]")


def _call(
    args: argparse.Namespace,
    choices: list[dict[str, Any]],
    cuts: list[str],
    settings: dict[str, Any],
    solver: str,
    maps: dict[str, str],
) -> str:
    """Return Python that does the same."""
    lines = ["import kernelfit", "from kernelfit.io import read_image", ""]
    for name, path, choice, cut in zip(("image", "target"), (args.image, args.target), choices, cuts, strict=True):
        words = [repr(path), *(f"{k}={v!r}" for k, v in choice.items())]
        lines.append(f"{name} = read_image({', '.join(words)}){cut}")
    words = [f"{name}={value!r}" for name, value in settings.items() if name != "workers"]
    words += [f"{name}={code}" for name, code in maps.items()]
    words += [f"solver={solver}"] if solver else []
    lines.append(f"fit = kernelfit.find_kernel({', '.join(['image', 'target', repr(args.shape), *words])})")
    return "\n".join([*lines, "print(fit.summary())"])


def _name(path: str) -> str:
    return "standard input" if path == "-" else Path(path).name


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields, indent=1, allow_nan=False))


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


# ---- apply and deconvolve ------------------------------------------------------------------------------------------


def apply(args: argparse.Namespace) -> int:
    """Lay a kernel on an image."""
    image, held, kept = _image_and_kernel(args)
    conv = held.convention
    boundary = args.boundary or (conv.boundary if conv is not None else None) or "symm"
    if args.fillvalue is not None and boundary != "fill":
        msg = f"got --fillvalue with --boundary {boundary}, need --boundary fill; declare that"
        raise BadCallError(msg)
    fill = args.fillvalue if args.fillvalue is not None else conv.fillvalue if conv is not None else 0.0
    mode = args.mode or "same"
    words: dict[str, Any] = {"mode": mode, "boundary": boundary, "fillvalue": fill if boundary == "fill" else 0.0}
    words |= _laid(args, held, mode)
    if args.stride is not None:
        words |= {"stride": args.stride, "offset": args.offset or 0}
    elif conv is not None and conv.strided:
        first = in_mode(conv, (held.kernel.shape[-2], held.kernel.shape[-1]), mode).offset
        words |= {"stride": conv.stride, "offset": first if args.offset is None else args.offset}
    elif args.offset is not None:
        msg = "got --offset without a stride, need --stride N"
        raise BadCallError(msg)
    as_large = mode == "same" and words.get("stride", 1) in (1, (1, 1))
    made = _each_channel(
        image, lambda plane: kernelfit.apply_kernel(plane, held.kernel, workers=args.workers, **words), as_large
    )
    edge = f"boundary {boundary}" if mode != "valid" else "no boundary needed"
    return _write_image(args, kept, made, image, edge)


def deconvolve(args: argparse.Namespace) -> int:
    """Restore what an image was before a kernel blurred it."""
    image, held, kept = _image_and_kernel(args)
    if held.convention is not None and held.convention.strided:
        msg = (
            f"{args.kernel}: got a kernel of stride {held.convention.stride}, need one of an image that keeps its size"
        )
        raise BadCallError(msg)
    words = {
        "balance": args.balance,
        "boundary": None if args.boundary == "none" else args.boundary,
        "penalty": args.penalty,
        **_laid(args, held, "same"),
    }
    made = _each_channel(
        image, lambda plane: kernelfit.deconvolve(plane, held.kernel, workers=args.workers, **words), True
    )
    return _write_image(args, kept, made, image, f"balance {args.balance}")


def _image_and_kernel(args: argparse.Namespace) -> tuple[Any, kernel_files.KernelFile, dict[str, Path]]:
    if args.image == args.kernel == "-":
        msg = "got - for both image and kernel, need a file for one of them: the standard input can be read once"
        raise BadCallError(msg)
    kept = _check_outputs(args, {args.output: ("the image", output.IMAGE_SUFFIXES)})
    image = io.read_image(args.image, colours=True, **_plane(args, 0))
    return image, kernel_files.read_kernel(args.kernel), kept


def _laid(args: argparse.Namespace, held: kernel_files.KernelFile, mode: str) -> dict[str, Any]:
    """Return origin and operation: those of the options, else those of the file."""
    found: dict[str, Any] = {}
    if args.operation is not None:
        found["operation"] = args.operation
    elif held.convention is not None:
        found["operation"] = held.convention.operation
    if args.origin is not None:
        found["origin"] = args.origin
    elif held.convention is not None and mode == "same":
        found["origin"] = held.convention.origin
    return found


def _each_channel(image: Any, make: Any, keep_alpha: bool) -> Any:
    """Treat each channel of a colour image by itself; an alpha channel stays as it is where the size does."""
    if len(image.shape) == 2:
        return make(image)
    planes = [image[..., at] for at in range(image.shape[-1])]
    colours = len(planes) - 1 if len(planes) in (2, 4) and keep_alpha else len(planes)
    return np.stack([make(plane) for plane in planes[:colours]] + planes[colours:], axis=-1)


def _write_image(args: argparse.Namespace, kept: dict[str, Path], made: Any, image: Any, how: str) -> int:
    if args.output == "-":
        output.write_stdout(made)
        return cli.SOLVED
    cut = output.write_image(kept[args.output], made, np.dtype(image.dtype), overwrite=args.force)
    note = f"; {cut} of {made.size} values beyond the file's range were cut off (.tif holds them)" if cut else ""
    print(f"{args.output}: {' x '.join(map(str, made.shape))} pixels, {how}{note}")
    return cli.SOLVED


# ---- inspect and compare -------------------------------------------------------------------------------------------


def _with_errors(held: kernel_files.KernelFile, path: str) -> KernelFit | None:
    """Return the whole result if the file has it, or one made of the taps' own errors."""
    if held.fit is not None or held.kernel.ndim != 2:
        return held.fit
    if held.stderr is None and held.convention is None:
        return None
    conv = held.convention
    if conv is None:
        conv = kernelfit.Convention(origin=((held.kernel.shape[0] - 1) // 2, (held.kernel.shape[1] - 1) // 2))
    return KernelFit(
        kernel=held.kernel,
        factor=None if held.stderr is None else np.diag(held.stderr.ravel()),
        noise_std=np.nan,
        rank=held.kernel.size,
        condition=np.nan,
        rss=np.nan,
        r_squared=np.nan,
        n_pixels=0,
        convention=conv,
        uncertainty="posterior",
    )


def inspect(args: argparse.Namespace) -> int:
    """Say what a kernel's file holds."""
    kept = _check_outputs(args, {args.plot: ("the picture", (".png",))})
    if args.plot is not None:
        io.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="--plot")
    held = kernel_files.read_kernel(args.kernel)
    if held.kernel.ndim != 2:
        msg = f"{args.kernel}: got a kernel of shape {held.kernel.shape}, need rows and columns; save one plane"
        raise BadCallError(msg)
    fit = _with_errors(held, args.kernel)
    psf = kernelfit.measure_psf(held.kernel if fit is None else fit)
    if args.plot is not None:
        _draw(kept[args.plot], fit, held, args.force)
    rows, cols = held.kernel.shape
    if args.json:
        conv = None if held.convention is None else dataclasses.asdict(held.convention)
        fields = {"file": args.kernel, "shape": [rows, cols], "kernel": held.kernel.tolist(), "convention": conv}
        errors = None if held.stderr is None else kernel_files.finite(held.stderr.tolist())
        _print_json({**fields, "stderr": errors, "verdict": held.verdict or None, "psf": psf.to_dict()})
        return cli.SOLVED
    if held.fit is not None:
        print(held.fit.summary())
    else:
        peak = np.unravel_index(int(np.argmax(np.abs(held.kernel))), held.kernel.shape)
        place = f"({int(peak[0])}, {int(peak[1])})"
        print(f"kernel      {rows} x {cols}, largest tap {held.kernel[peak]:.6g} at {place}")
        unknown = "not in the file: taken as a convolution with SciPy's centre"
        print(f"convention  {held.convention if held.convention is not None else unknown}")
        print(f"errors      {'yes, of each tap' if held.stderr is not None else 'none in the file'}")
        if held.verdict:
            print(f"verdict     {held.verdict}")
        if max(rows, cols) <= 11:
            print("\n" + np.array2string(held.kernel, precision=4, suppress_small=True, max_line_width=120))
    print(f"\n{psf}")
    return cli.SOLVED


def _draw(path: Path, fit: KernelFit | None, held: kernel_files.KernelFile, overwrite: bool) -> None:
    figure_of = io.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="--plot")
    if fit is None or held.stderr is None:
        bare = dataclasses.replace(held, convention=kernelfit.Convention(
            origin=((held.kernel.shape[0] - 1) // 2, (held.kernel.shape[1] - 1) // 2)))  # fmt: skip
        fit = fit or _with_errors(bare, "")
        assert fit is not None
        figure = figure_of.Figure(figsize=(5.2, 4.2), layout="constrained")
        kernelfit.plot.kernel(fit, figure.subplots())
    else:
        figure = figure_of.Figure(figsize=(9.6, 7.6), layout="constrained")
        axes = figure.subplots(2, 2)
        kernelfit.plot.kernel_and_error(fit, (axes[0, 0], axes[0, 1]))
        kernelfit.plot.cuts(fit, axes[1, 0])
        kernelfit.plot.frequency_response(fit, axes[1, 1])
    output.write_whole(
        path, lambda file: figure.savefig(file, format="png", dpi=130), "the picture", overwrite=overwrite
    )


def compare(args: argparse.Namespace) -> int:
    """Say whether two kernels differ."""
    held = [kernel_files.read_kernel(path) for path in (args.first, args.second)]
    fits = [_with_errors(each, path) for each, path in zip(held, (args.first, args.second), strict=True)]
    one, other = (each.kernel if fit is None else fit for each, fit in zip(held, fits, strict=True))
    found = kernelfit.compare_kernels(one, other)
    if args.json:
        finite = kernel_files.finite
        fields = {
            "first": args.first,
            "second": args.second,
            "differ": found.differ,
            "relative": finite(found.relative),
        }
        fields |= {"largest": list(found.largest), "chi2": finite(found.chi2), "freedom": found.freedom}
        fields |= {"p_value": finite(found.p_value), "difference": found.difference.tolist()}
        _print_json({**fields, "stderr": finite(found.stderr.tolist()), "origin": list(found.origin)})
    else:
        print(found)
    return 1 if found.differ else 0


def demo(args: argparse.Namespace) -> int:
    """Find two known kernels, or write a pair of pictures to try it on."""
    from . import demo as shown

    if args.write is None:
        return shown.run(print)
    paths = shown.write_pair(args.write, overwrite=args.force)
    names = " ".join(str(path) for path in paths)
    print(f"wrote {names}: a photograph, and what a 5 x 7 kernel and some noise made of it. Find that kernel:")
    print(f"  kernelfit find {names} --shape 9 -o kernel.npz --report report.html")
    return cli.SOLVED
