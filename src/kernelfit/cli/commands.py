"""What the commands of the command line do: files in, the package's own functions, files and words out."""

import argparse
import dataclasses
import errno
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import kernelfit

from ..core.geometry import as_pair, in_mode
from ..core.npz import write_together
from ..core.validation import Array
from ..engines.forward import predict
from ..imageio import fits_headers, kernels, read, write
from ..imageio.planes import COLOURS, Choice
from ..plotting.text import summary
from . import arguments, series, signals, volumes
from .inspection import audit, compare, explain, export, inspect, measured, print_json, psf, subtract
from .options import DOUBTFUL, SOLVED, WORDS, BadCallError, say
from .progress import duration
from .serving import serve


def run(args: argparse.Namespace) -> int:
    """Run a command and return its exit code; every mistake of the caller becomes a `BadCallError`."""
    try:
        known = find, apply, deconvolve, inspect, compare, export, audit, psf, subtract, serve, explain, warm_up, demo
        return {command.__name__: command for command in known}[args.command.replace("-", "_")](args)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, MemoryError, read.MissingExtraError) as error:
        raise BadCallError(_in_options(_one_line(error), args)) from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{error.strerror}; make room there, or write somewhere else"
        return f"{error.filename}: {error.strerror}; check the name" if error.filename else error.strerror
    if isinstance(error, OSError) and "requested and" in str(error):  # NumPy's words for a file that was cut short
        return f"the file could not be written whole ({error}); make room there, or write somewhere else"
    if isinstance(error, MemoryError):
        said = f" ({error})" if str(error) else ""
        return f"got images too large for this machine's memory{said}; save them as NPY, which is read in blocks"
    return str(error) or type(error).__name__


def _in_options(text: str, args: argparse.Namespace) -> str:
    """Say the keywords of a message, such as boundary='fill', as the options that they are here."""
    value = r"('[^']*'|None|\(\d+, \d+\)|[-+.\w]+)?"
    for name in sorted(vars(args), key=len, reverse=True):
        option = f"--{name.replace('_', '-')}"
        if option in text:  # said both ways
            text = re.sub(rf",? \(?{name}={value}(?=[,)])", "", text)

        def words(found: re.Match[str], option: str = option) -> str:
            said = (found[1] or "").strip("'()").replace("None", "none").replace(", ", ",")
            return f"{option} {said}" if said or found.string[found.end() :][:1] in ("(", "[") else option

        text = re.sub(rf"\b(?<!-){name}={value}", words, text)
        if "_" in name:  # no word of plain speech, nor part of a file's name
            text = re.sub(rf"(?<![^ (]){name}(?=[ ,;)])", option, text)
    text = re.sub(rf"'({'|'.join(sorted(WORDS))})'", r"\1", text)
    return text.replace("overwrite=True", "--force")


def find(args: argparse.Namespace) -> int:
    """Find a kernel, say how well it is known, and keep it."""
    if args.fillvalue is not None and args.boundary != "fill":
        raise BadCallError(f"got --fillvalue with --boundary {args.boundary}, need --boundary fill; declare that")
    if args.image == args.target == "-":
        raise BadCallError("got - for both images, need a file for one of them: the standard input can be read once")
    if args.json and args.output == "-":
        raise BadCallError("got --json and -o -, need one of them: both write to the standard output")
    if args.channels in ("separate", "mixed") and (args.output or "").endswith((".csv", ".txt")):
        raise BadCallError(f"got {args.output} for kernels of several channels, need .npy, .npz, .json, .fits or .tif")
    wanted = (args.output, "the kernel", (*kernels.SUFFIXES, ".wav")), (args.report, "the report", (".html", ".htm"))
    kept, page = arguments.check_outputs(args, *wanted)
    if args.report is not None:
        read.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
    streamed, rate = series.wanted(args), None
    if volumes.wanted(args):
        made = volumes.find(args, _settings(args))
    elif signals.wanted(args):
        made, rate = signals.find(args, _settings(args))
    else:
        if streamed and args.shape is None:
            raise BadCallError("got many pairs or --checkpoint without --shape, need --shape; one pair alone tells it")
        made = series.find(args, _settings(args)) if streamed else _find_pair(args)
    fit, pixels, call, seconds, names, _ = made
    outputs = [] if kept is None else [(kept, kernels.kernel_writer(kept, fit, rate), "the kernel")]
    outputs += [] if page is None else [(page, lambda file: file.write(made.report.encode()), "the report")]
    write_together(outputs, overwrite=args.force)
    if args.output == "-":
        write.write_stdout(np.ascontiguousarray(fit.kernel))
    if args.json:
        more = {"image": args.image, "target": args.target, "output": args.output, "report": args.report}
        told = measured({} if fit.convention.ndim != 2 else kernelfit.split_channels(fit, names))
        print_json({**kernels.as_dict(fit), **told, **more, "seconds": seconds, "python": call})
    else:
        stream = "stderr" if args.output == "-" else "stdout"
        say(summary(fit), to=stream)
        if isinstance(fit, kernelfit.KernelFit) and fit.found:
            say(f"\nthe same with all of it given: kernelfit.{fit.reproduce()}", to=stream)
        notes = [f"kernel written to {args.output}"] if kept is not None else []
        notes += [f"report written to {args.report}"] if page is not None else []
        notes += [f"sums kept in {args.checkpoint}"] if args.checkpoint is not None else []
        notes += ["-o kernel.npz would keep the kernel"] if args.output is None else []
        say(f"\n{'; '.join([f'{duration(seconds)} for {pixels}', *notes])}", to=stream)
    return SOLVED if fit.verdict.ok else DOUBTFUL


#: The keywords of `find_kernel` that are options of the same name, as a call in Python tells them.
SETTINGS = (
    *("mode", "boundary", "fillvalue", "origin", "operation", "stride", "offset", "method", "balance", "tolerance"),
    *("background", "variation", "channels", "channel_axis", "nan", "noise", "robust", "image_noise"),
    *("register", "curve", "curve_side", "errors", "workers"),
)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords that options stand for, but for those left as they are."""
    boundary, axis = None if args.boundary == "none" else args.boundary, None if args.channels is None else -1
    given = {**vars(args), "boundary": boundary, "channel_axis": axis}
    defaults = {"operation": "convolution", "method": "auto"}
    settings = {name: given[name] for name in SETTINGS if given[name] not in (None, defaults.get(name))}
    if args.saturated != "auto":
        settings["saturated"] = args.saturated
    return settings


def _find_pair(args: argparse.Namespace) -> series.Found:
    """Find the kernel of one pair, and draw the report that is asked for."""
    (image, target), ends = arguments.read_planes(args, args.image, args.target)
    reading = [f"image = read_image({args.image!r}{ends[0]}", f"target = read_image({args.target!r}{ends[1]}"]
    if args.output not in (None, "-"):
        kernels.require_complex(args.output, image.dtype, target.dtype)
    solver, solver_code = arguments.solver(args, image)
    settings = _settings(args)
    maps, map_code = arguments.maps(args)
    spoiled, note = arguments.saturated_colours(args, reading)
    if spoiled is not None:
        given = "mask" in maps
        map_code["mask"] = f"saturated | ({map_code['mask']})" if given else "saturated"
        maps["mask"] = spoiled | maps["mask"] if given else spoiled
    names = COLOURS if args.channels is not None and target.shape[-1] == 3 else None
    call = arguments.python(args.shape, reading, settings, {**map_code, "solver": solver_code})
    words = {"solver": solver, **settings, **maps}
    pixels = f"{image.shape[0]} x {image.shape[1]} pixels"
    return series.fit_pair(args, (image, target), args.shape, words, pixels, call, names=names, note=note)


def apply(args: argparse.Namespace) -> int:
    """Lay a kernel on an image."""
    if volumes.wanted(args):
        return volumes.apply(args)
    if signals.wanted(args):
        return signals.apply(args)
    image, held, kept = _image_and_kernel(args)
    conv = held.convention
    words = arguments.laying(args, conv)
    mode, boundary = words["mode"], words["boundary"]
    if args.stride is not None:
        words |= {"stride": args.stride, "offset": args.offset or 0}
    elif conv is not None and conv.strided:
        first = in_mode(conv, (held.kernel.shape[-2], held.kernel.shape[-1]), mode).offset
        words |= {"stride": conv.stride, "offset": first if args.offset is None else args.offset}
    elif args.offset is not None:
        raise BadCallError("got --offset without a stride, need --stride N")
    as_large = mode == "same" and words.get("stride", 1) in (1, (1, 1))
    if conv is not None and conv.field is not None:
        if len(image.shape) != 2 or held.kernel.ndim != 3:
            raise BadCallError(f"{args.kernel}: got a kernel that varies over one plane, need one: pick a --channel")
        colours, alpha = np.asarray(image), None
        white = _white(kept, colours, None, held.kernel[0])
        words |= {name: as_pair(words[name], name) for name in ("origin", "stride", "offset") if name in words}
        made = predict(colours, held.kernel, dataclasses.replace(conv, **words), workers=args.workers)
    else:
        colours, alpha = _split(image, held.kernel, as_large)
        white = _white(kept, colours, alpha, held.kernel)
        words |= {"channel_axis": None if colours.ndim == 2 else -1}
        made = kernelfit.apply_kernel(colours, held.kernel, workers=args.workers, **words)
    made = made if args.no_background else _with_background(made, held)
    edge = f"boundary {boundary}" if mode != "valid" else "no boundary needed"
    header = _header(args, kept, held, words) if made.ndim == 2 else None
    return _write_image(args, kept, colours, _joined(made, alpha), white, edge, header)


def _header(args: argparse.Namespace, kept: Path | None, held: kernels.KernelFile, words: dict[str, Any]) -> Any:
    """Return the header of a FITS image, for the pixels that a kernel makes of it; None for other files."""
    if kept is None or kept.suffix.lower() != ".fits":
        return None
    header = fits_headers.read_header(args.image, Choice(**arguments.choice_of(args, 0)))
    if header is None:
        return None
    stride, offset = (as_pair(words.get(name, default), name) for name, default in (("stride", 1), ("offset", 0)))
    sides = held.kernel.shape[-2:]
    flips = words.get("operation", "convolution") == "convolution"
    grown = {"same": 0, "valid": 1, "full": -1}[words["mode"]]  # by how much of the kernel the first pixel lies inside
    before = [k - 1 - (k - 1) // 2 if flips == (grown == 1) else (k - 1) // 2 for k in sides]
    return fits_headers.moved(header, (grown * before[0] + offset[0], grown * before[1] + offset[1]), stride)


def _with_background(made: Any, held: kernels.KernelFile) -> Any:
    """Add the surface that was found beside a kernel, if it is that of one pair and of an image of this size."""
    background = None if held.fit is None else held.fit.background
    if background is None:
        return made
    if background.degree == 0 and len(background.shapes) == 1:
        return made + background.coefficients.reshape(-1)[-1 if made.ndim == 2 else slice(None)]
    surface = background.image(0)
    if len(background.shapes) == 1 and surface.shape == made.shape:
        return made + surface
    say("kernelfit: the background that was found is of another image, and left out", to="stderr")
    return made


def deconvolve(args: argparse.Namespace) -> int:
    """Restore what an image was before a kernel blurred it."""
    if signals.wanted(args):
        return signals.deconvolve(args)
    if volumes.wanted(args):
        return volumes.deconvolve(args)
    image, held, kept = _image_and_kernel(args)
    if held.convention is not None and held.convention.field is not None:
        raise BadCallError(
            f"{args.kernel}: got a kernel that varies over the image, need one that is the same everywhere"
        )
    if held.convention is not None and held.convention.strided:
        raise BadCallError(
            f"{args.kernel}: got a kernel of stride {held.convention.stride}, need one of an image that keeps its size"
        )
    sides = held.kernel.shape[-2:]
    if min(np.subtract(image.shape[:2], sides)) < 0:
        msg = f"got a kernel of {sides[0]} x {sides[1]} taps for an image of {image.shape[0]} x {image.shape[1]} pixels"
        raise BadCallError(f"{msg}, need one that is no larger; is it the right file?")
    words = {**arguments.restoring(args, held.convention), **arguments.maps(args)[0]}
    if held.kernel.ndim == 4:
        msg = f"{args.kernel}: got kernels of each channel from each, need one, or one for each channel"
        raise BadCallError(f"{msg}; find the kernel with --channels separate or shared")
    colours, alpha = _split(image, held.kernel, as_large=True)
    white = _white(kept, colours, alpha, held.kernel)
    planes = [colours] if colours.ndim == 2 else list(np.moveaxis(colours, -1, 0))
    kernels = [held.kernel] * len(planes) if held.kernel.ndim == 2 else list(held.kernel)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        both = zip(planes, kernels, strict=True)
        made = [kernelfit.deconvolve(plane, kernel, **words) for plane, kernel in both]
    for message in dict.fromkeys(str(one.message) for one in caught):
        say("kernelfit:", message.replace("mask=", "--mask"), to="stderr")
    restored = made[0] if colours.ndim == 2 else np.stack(made, axis=-1)
    fits = kept is not None and kept.suffix.lower() == ".fits" and restored.ndim == 2
    header = fits_headers.read_header(args.image, Choice(**arguments.choice_of(args, 0))) if fits else None
    return _write_image(args, kept, colours, _joined(restored, alpha), white, f"balance {args.balance}", header)


def _image_and_kernel(args: argparse.Namespace) -> tuple[Any, kernels.KernelFile, Path | None]:
    if args.image == args.kernel == "-":
        msg = "got - for both image and kernel, need a file for one of them: the standard input can be read once"
        raise BadCallError(msg)
    (kept,) = arguments.check_outputs(args, (args.output, "the image", write.IMAGE_SUFFIXES))
    image = read.read_image(args.image, colours=True, **arguments.choice_of(args, 0))
    return image, kernels.read_kernel(args.kernel), kept


def _split(image: Any, kernel: Array, as_large: bool) -> tuple[Any, Any]:
    """Return the channels that kernels are laid on, and an alpha channel that stays as it is, None without."""
    # Alpha is a channel like the others where there is a kernel for it, and where one kernel changes the size of all.
    if len(image.shape) == 2 and kernel.ndim == 2:
        return image, None
    image = np.asarray(image) if len(image.shape) == 3 else np.asarray(image)[..., None]
    n, wanted = image.shape[-1], kernel.shape[-3] if kernel.ndim > 2 else None
    n_colours = n if n == wanted or (wanted is None and not as_large) else {2: 1, 4: 3}.get(n, n)
    if wanted not in (None, n_colours):
        kinds = " x ".join(map(str, kernel.shape[:-2]))
        msg = f"got {kinds} kernels for an image of {n_colours} channel{'s'[: n_colours > 1]}, need one for each or one"
        raise BadCallError(f"{msg} in all; pick a channel of the image, or find the kernel with --channels separate")
    return image[..., :n_colours], image[..., n_colours:] if n_colours < n and as_large else None


def _white(kept: Path | None, colours: Any, alpha: Any, kernel: Array) -> int:
    """Return what stands for white in the file that is to be written, or refuse it."""
    made = kernel.shape[0] if kernel.ndim == 4 else 1 if colours.ndim == 2 else colours.shape[-1]
    return 0 if kept is None else write.white_of(kept, colours, made + (alpha is not None))


def _joined(made: Any, alpha: Any) -> Any:
    """Return what was made with the alpha channel beside it; a single channel is a plane."""
    made = made if alpha is None else np.concatenate([made, alpha], axis=-1)
    return made[..., 0] if made.ndim == 3 and made.shape[-1] == 1 else made


def _write_image(
    args: argparse.Namespace, kept: Path | None, image: Any, made: Any, white: int, how: str, header: Any = None
) -> int:
    nan = args.nan if isinstance(args.nan, float) else None
    made = write.representable(kept, made, white, holes=bool(np.isnan(image).any()), nan=nan)
    if kept is None:
        write.write_stdout(made)
        return SOLVED
    cut = write.write_image(kept, made, white, overwrite=args.force, header=header)
    note = f"; {cut} of {made.size} values beyond the file's range were cut off (.tif holds them)" if cut else ""
    say(f"{args.output}: {' x '.join(map(str, made.shape))} pixels, {how}{note}")
    return SOLVED


def warm_up(args: argparse.Namespace) -> int:
    """Compile everything, once."""
    seconds = kernelfit.warm_up(args.only, progress=lambda use: say(f"compiling what {use} needs", to="stderr"))
    say(f"ready after {duration(seconds)}")
    return SOLVED


def demo(args: argparse.Namespace) -> int:
    """Find two known kernels, or write a pair of pictures to try it on."""
    from . import demo

    if args.write is None:
        return demo.run(say)
    paths = demo.write_pair(args.write, overwrite=args.force)
    names = " ".join(str(path) for path in paths)
    say(f"wrote {names}: a photograph, and what a 5 x 7 kernel and some noise made of it. Find that kernel:")
    say(f"  kernelfit find {names} -o kernel.npz --report report.html")
    return SOLVED
