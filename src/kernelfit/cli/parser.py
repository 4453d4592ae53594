"""The command line: ``kernelfit find IMAGE TARGET --shape 5`` and its sisters.

Only the parser is here, and only argparse is imported until a command runs, so that ``--help`` is quick; what the
commands do is in `commands`. A bad call is one line on stderr and exit code 2, before anything is written.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .options import (
    BAD_CALL,
    BOUNDARIES,
    CHANNELS,
    CURVE_SIDES,
    CURVES,
    ERRORS,
    METHODS,
    MODES,
    MOTIONS,
    OPERATIONS,
    ROBUST,
    SOLVED,
    SOLVERS,
    STOPPED,
    SYMMETRIES,
    TOOLS,
    USES,
    BadCallError,
    auto_or_index,
    auto_or_number,
    choices,
    counted,
    edge,
    force,
    index,
    lattice,
    machines,
    named,
    number,
    one_of,
    pair,
    say,
    strength,
    which,
    window,
    workers,
)
from .pair_parsers import IMAGES, KERNELS, audit, psf, serve, subtract

__all__ = ["main"]
COMMANDS = "find apply deconvolve inspect compare export audit psf subtract serve explain warm-up demo".split()
_SERIES = "many pairs that share a kernel: two folders, or patterns in quotes ('sharp/*.png'), paired by name"
_CODES = "exit codes: 0 solved, 1 solved with a doubtful verdict, 2 bad input, 130 stopped by Ctrl-C"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line and never ends the process by itself."""

    def error(self, message: str) -> NoReturn:
        if "unrecognized arguments: " in message and " -" not in message:
            message += " (a pattern of files needs quotes: 'folder/*.png')"
        raise BadCallError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    # `argv`: the arguments without the program's name; those of the process when omitted. Returns 0 solved, 1 solved
    # with a doubtful verdict, 2 bad call or bad input (said in one line on stderr), 130 stopped.
    if None in (sys.stdin, sys.stdout, sys.stderr):  # closed: no file that is opened later may take their place
        while os.open(os.devnull, os.O_RDWR) < 2:
            pass
    code = SOLVED
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # `kernelfit demo | head`: whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code != BAD_CALL:
            say(f"kernelfit: got a standard output that cannot be written to ({error.strerror})", to="stderr")
        return BAD_CALL


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        if args.command is None:
            raise BadCallError(f"got no command, need one of {', '.join(COMMANDS)}; see kernelfit --help")
        from . import commands

        return int(commands.run(args))
    except BadCallError as error:
        say("kernelfit:", " ".join(str(error).split()), to="stderr")
        return BAD_CALL
    except KeyboardInterrupt as stop:
        say("kernelfit:", *(stop.args or ("stopped, nothing half done is left behind",)), to="stderr")
        return STOPPED


def _joined(words: Sequence[str]) -> list[str]:
    """Join values such as -100,100 to their option: argparse would take them for an option themselves."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and re.match(r"-[\d.].*,", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kernelfit",
        description="Find the convolution kernel between two images, see whether to believe it, and use it.",
        epilog=f"first steps:\n"
        "  kernelfit demo --write .                    a pair of pictures to try it on: before.png, after.png\n"
        "  kernelfit find before.png after.png -o kernel.npz --report report.html\n"
        "  kernelfit deconvolve after.png kernel.npz -o sharp.png\n\n"
        f"kernelfit COMMAND --help tells more, with examples.\n{_CODES}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    told = "print a script that completes commands and options"
    parser.add_argument("--completion", action=_Completion, choices=("bash", "zsh", "tcsh"), help=told)
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="{" + ",".join(COMMANDS) + "}")
    for name, add in (
        ("find", _find),
        ("apply", _apply),
        ("deconvolve", _deconvolve),
        ("inspect", _inspect),
        ("compare", _compare),
        ("export", _export),
        ("explain", _explain),
        ("warm-up", _warm_up),
        ("audit", audit),
        ("psf", psf),
        ("subtract", subtract),
        ("serve", lambda add: serve(add, main)),
        ("demo", _demo),
    ):
        add(lambda name=name, **words: _command(commands, name, **words))
    return parser


def _command(commands: Any, name: str, *, help: str, description: str, examples: str) -> _Parser:  # noqa: A002
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    made: _Parser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"examples:\n{lines}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=name)
    return made


_Adder = Callable[..., _Parser]


def _find(add: _Adder) -> None:
    find = add(
        help="find the kernel between two image files",
        description="Find the kernel that turns IMAGE into TARGET, with its errors.\n"
        f"{IMAGES}\n{_SERIES}\n{KERNELS}\n{_CODES}",
        examples="""
        kernelfit find before.png after.png
        kernelfit find before.png after.png --shape 7
        kernelfit find before.png after.png --shape 9 -o kernel.npz --report report.html
        kernelfit find a.tif b.tif --shape 5,7 --boundary symm --solver least-squares -o kernel.csv
        kernelfit find photo.jpg filtered.jpg --shape 7 --channel green
        kernelfit find colour.jpg gray.jpg --shape 7 --channel luma
        kernelfit find large.png small.png --shape 12 --stride 2 --offset 1 -o kernel.npz
        kernelfit find photo.png filtered.png --shape 7 --channels separate --background 0 -o kernels.npz
        kernelfit find before.tif after.tif --shape 9 --mask bad.png --robust huber --noise 1.8,5
        kernelfit find night.fits night.fits --hdu 1 --hdu 2 --shape 21 -o psf.fits
        kernelfit find data.h5 data.h5 --dataset /before --dataset /after --shape 11 --json
        kernelfit find 'sharp/*.png' 'blurred/*.png' --shape 15 -o kernel.npz
        kernelfit find dry.wav wet.wav --lags 0,20000 -o response.wav --report room.html
        kernelfit find sharp.tif blurred.tif --volume --shape 5,9,9 --boundary symm -o kernel.npz
        kernelfit find log.csv log.csv --channel voltage --channel force --lags 0,60 -o response.csv
        kernelfit find huge.zarr target.zarr --shape 15 --checkpoint sums.npz -o kernel.npz
        cat before.npy | kernelfit find - after.npy --shape 5 -o - > kernel.npy
        """,
    )
    find.add_argument("image", type=named, metavar="IMAGE", help="what went in")
    find.add_argument("target", type=named, metavar="TARGET", help="what came out")
    find.add_argument("--shape", type=pair(1, 3), metavar="N|R,C",
                      help="sides of the kernel: 5 or 5,7 (default: found, and all that goes with it)")  # fmt: skip
    find.add_argument("--lags", type=window, metavar="FIRST,LAST",
                      help="instead, for signals: first and last lag of the kernel: 0,20000")  # fmt: skip
    find.add_argument("--volume", action="store_true",
                      help="IMAGE and TARGET are stacks of planes, and --shape has three numbers: 5,9,9")  # fmt: skip
    which(find, 2)
    lie = find.add_argument_group("how the kernel lies on the image")
    lie.add_argument("--mode", type=one_of((*MODES, "crop")), metavar="MODE",
                     help=choices((*MODES, "crop"), "from the shapes"))  # fmt: skip
    inside = "none, only the interior is used"
    edge(lie, "what lay beyond the edge: " + choices(BOUNDARIES, inside), default="none")
    lie.add_argument(
        "--origin", type=pair(None, 3), metavar="N|R,C", help="tap over the output pixel (default: SciPy's)"
    )
    lie.add_argument("--operation", type=one_of(OPERATIONS), default="convolution", metavar="OP",
                     help=choices(OPERATIONS, "convolution"))  # fmt: skip
    lattice(lie, "TARGET holds one in N pixels of what the kernel makes, as after downsampling (default: 1)", "0")
    how = find.add_argument_group("how it is found")
    how.add_argument("--solver", type=one_of(SOLVERS), metavar="S",
                     help=choices(SOLVERS, "auto; ridge to biharmonic are penalties"))  # fmt: skip
    how.add_argument("--strength", type=strength, metavar="X", help="strength of the penalty, or gcv (default)")
    how.add_argument("--total", type=number, metavar="T", help="what the taps add up to, such as 1")
    how.add_argument("--symmetric", type=one_of(SYMMETRIES), metavar="SYM", help=choices(SYMMETRIES, "none"))
    how.add_argument("--background", type=index, metavar="DEGREE",
                     help="fit a polynomial surface, too: 0 a constant, 1 a plane (default: none)")  # fmt: skip
    how.add_argument("--variation", type=auto_or_index, metavar="D|auto",
                     help="let the kernel vary over the image: degree of a polynomial (default: none)")  # fmt: skip
    how.add_argument("--register", type=one_of(MOTIONS), metavar="MOTION",
                     help="find a motion of IMAGE against TARGET, too: " + ", ".join(MOTIONS))  # fmt: skip
    how.add_argument("--curve", type=one_of(CURVES), metavar="CURVE",
                     help="find the curve between file values and light, too: " + ", ".join(CURVES))  # fmt: skip
    how.add_argument("--curve-side", type=one_of(CURVE_SIDES), metavar="SIDE",
                     help="whose values it belongs to: " + choices(CURVE_SIDES, "both"))  # fmt: skip
    how.add_argument("--channels", type=one_of(CHANNELS), metavar="C",
                     help="of colour images (not alpha): shared (one kernel), separate or mixed")  # fmt: skip
    how.add_argument("--method", type=one_of(METHODS), default="auto", metavar="M", help=choices(METHODS, "auto"))
    how.add_argument("--balance", type=auto_or_number, metavar="B", help="of --method wiener: a number (default: auto)")
    how.add_argument("--tolerance", type=number, metavar="T", help="of --method cg: when to stop (default: 0.01)")
    workers(how)
    how.add_argument("--checkpoint", type=named, metavar="FILE.npz",
                     help="stream the pixels and keep the sums here; the same call goes on from there")  # fmt: skip
    pixels = find.add_argument_group("which pixels count, and how much")
    counted(pixels)
    pixels.add_argument("--image-noise", type=number, metavar="S",
                        help="noise of IMAGE itself (standard deviation), to be taken off (default: 0)")  # fmt: skip
    pixels.add_argument("--errors", type=one_of(ERRORS), metavar="E",
                        help=choices(ERRORS, "plain") + ": error bars for noise that is correlated")  # fmt: skip
    pixels.add_argument("--robust", type=one_of(ROBUST), metavar="R", help=choices(ROBUST, "none") + ": outliers")
    out = find.add_argument_group("what comes out")
    out.add_argument(
        "-o", "--output", type=named, metavar="KERNEL", help="write the kernel here; - is NPY on the standard output"
    )
    out.add_argument("--report", type=named, metavar="PAGE.html", help="write a page of pictures and numbers here")
    machines(out)
    force(out)


def _apply(add: _Adder) -> None:
    apply = add(
        help="lay a kernel on an image",
        description="Lay KERNEL on IMAGE and write the result. The kernel's file says how it lies (.json, .npz, .fits, "
        f".tif) unless options do.\n{IMAGES}\n{KERNELS}\n"
        "PNG and JPEG hold whole numbers, so the result is rounded; .tif, .npy and .fits hold it as it is.",
        examples="""
        kernelfit apply photo.png kernel.npz -o filtered.png
        kernelfit apply photo.png kernel.csv --boundary symm -o filtered.tif
        kernelfit apply stack.tif kernel.npz --volume -o filtered.tif
        kernelfit apply photo.png kernel.csv --stride 2 --offset 1 -o half.png
        kernelfit apply stack.tif kernel.json --page 3 -o - > filtered.npy
        """,
    )
    apply.add_argument("image", type=named, metavar="IMAGE", help="the image, gray or colour")
    apply.add_argument("kernel", type=named, metavar="KERNEL", help="the kernel's file")
    apply.add_argument("--volume", action="store_true", help="IMAGE is a stack of planes, KERNEL that of a volume")
    which(apply, 1)
    apply.add_argument("--mode", type=one_of(MODES), metavar="MODE", help=choices(MODES, "same"))
    edge(apply, "what lies beyond the edge: " + choices(BOUNDARIES[1:], "as the file says, else symm"))
    apply.add_argument("--origin", type=pair(None, 3), metavar="N|R,C", help="tap over the output pixel")
    apply.add_argument("--operation", type=one_of(OPERATIONS), metavar="OP", help=choices(OPERATIONS, "convolution"))
    apply.add_argument("--no-background", action="store_true", help="leave out the surface that was found beside it")
    apply.add_argument("--nan", type=number, metavar="VALUE", help="what to write for pixels that are NaN")
    lattice(apply, "keep one in N pixels (default: as the file says, else 1)", "as the file says, else 0")
    workers(apply)
    apply.add_argument(
        "-o", "--output", required=True, type=named, metavar="FILE", help="the result; - is NPY on standard output"
    )
    force(apply)


def _deconvolve(add: _Adder) -> None:
    deconvolve = add(
        help="take a kernel's blur out of an image",
        description=f"Restore what IMAGE was before KERNEL blurred it.\n{IMAGES}\n{KERNELS}",
        examples="""
        kernelfit deconvolve after.png kernel.npz -o sharp.png
        kernelfit deconvolve after.png kernel.npz --balance 0.01 -o sharp.tif
        kernelfit deconvolve periodic.npy kernel.npy --boundary wrap -o restored.npy
        kernelfit deconvolve after.tif kernel.npz --mask dead.png -o sharp.tif
        kernelfit deconvolve stack.tif kernel.npz --volume -o sharp.tif
        """,
    )
    deconvolve.add_argument("image", type=named, metavar="IMAGE", help="the blurred image, gray or colour")
    deconvolve.add_argument("kernel", type=named, metavar="KERNEL", help="the kernel's file")
    deconvolve.add_argument("--volume", action="store_true", help="IMAGE is a stack of planes, KERNEL that of a volume")
    which(deconvolve, 1)
    deconvolve.add_argument("--balance", type=auto_or_number, default="auto", metavar="B",
                            help="how much smoothness counts: a number, or auto (default)")  # fmt: skip
    deconvolve.add_argument("--boundary", type=one_of(("none", "wrap")), default="none", metavar="B",
                            help="none (default), or wrap for periodic images")  # fmt: skip
    deconvolve.add_argument("--penalty", type=one_of(("laplacian", "identity")), default="laplacian", metavar="P",
                            help="what is held small: laplacian (default) or identity")  # fmt: skip
    deconvolve.add_argument("--edges", type=one_of(("auto", "fade", "solve")), default="auto", metavar="E",
                            help="unknown edges: fade (quick), solve (no ringing), or auto (default)")  # fmt: skip
    deconvolve.add_argument("--mask", type=named, metavar="FILE",
                            help="an image, not zero where pixels are dead: restored from the others")  # fmt: skip
    deconvolve.add_argument("--nan", type=one_of(("error", "mask")), default="error", metavar="N",
                            help="pixels that are NaN: error (default), or mask to restore them, too")  # fmt: skip
    deconvolve.add_argument("--origin", type=pair(None, 3), metavar="N|R,C", help="tap over the output pixel")
    deconvolve.add_argument(
        "--operation", type=one_of(OPERATIONS), metavar="OP", help=choices(OPERATIONS, "convolution")
    )
    workers(deconvolve)
    deconvolve.add_argument(
        "-o", "--output", required=True, type=named, metavar="FILE", help="the result; - is NPY on stdout"
    )
    force(deconvolve)


def _inspect(add: _Adder) -> None:
    inspect = add(
        help="say what is in a kernel's file",
        description="Say what KERNEL holds: taps, conventions, and what it is as a point spread function (sum, shift,\n"
        f"widths, shape, MTF50), with errors where the file has them.\n{KERNELS}",
        examples="""
        kernelfit inspect kernel.npz
        kernelfit inspect kernel.csv --json
        kernelfit inspect kernel.npz --plot kernel.png
        """,
    )
    inspect.add_argument("kernel", type=named, metavar="KERNEL", help="the kernel's file")
    inspect.add_argument("--plot", type=named, metavar="FILE.png", help="draw the kernel here")
    machines(inspect)
    force(inspect)


def _compare(add: _Adder) -> None:
    compare = add(
        help="say whether two kernels differ",
        description="Compare two kernels: their difference, and whether it is more than their errors explain.\n"
        f"{KERNELS}\nexit codes: 0 no difference, 1 they differ, 2 bad input",
        examples="""
        kernelfit compare monday.npz tuesday.npz
        kernelfit compare measured.npz theory.csv --json
        """,
    )
    compare.add_argument("first", type=named, metavar="FIRST", help="a kernel's file")
    compare.add_argument("second", type=named, metavar="SECOND", help="another")
    machines(compare)


def _export(add: _Adder) -> None:
    export = add(
        help="write a kernel as text that another tool runs",
        description="Write KERNEL as a program, a script or a matrix for another tool, which gives the target there.\n"
        f"{KERNELS}",
        examples="""
        kernelfit export kernel.npz --to opencv -o sharpen.py
        kernelfit export kernel.npz --to imagemagick -o blur.sh
        kernelfit export kernel.csv --to latex
        """,
    )
    export.add_argument("kernel", type=named, metavar="KERNEL", help="the kernel's file")
    export.add_argument("--to", type=one_of(TOOLS), required=True, metavar="TOOL", help=", ".join(TOOLS))
    export.add_argument("--plane", type=named, metavar="NAME", help="of several kernels in the file: which one")
    export.add_argument("-o", "--output", type=named, metavar="FILE", help="write here (default: show it)")
    force(export)


def _explain(add: _Adder) -> None:
    explain = add(
        help="say what a verdict or a word means, and what to do",
        description="Show what the documentation says of WORD: a verdict, a word of the glossary, or prepare: how\n"
        "to prepare a pair of images.",
        examples="""
        kernelfit explain misaligned
        kernelfit explain prepare
        kernelfit explain tap evidence
        """,
    )
    explain.add_argument("words", nargs="+", metavar="WORD", help="a verdict, a word, or prepare")


def _warm_up(add: _Adder) -> None:
    warm = add(
        help="compile everything now, so that no later call has to",
        description="Compile the loops once, for a container's image or before time counts. The machine code is kept\n"
        "beside the package, or in the folder that NUMBA_CACHE_DIR names, and read from there by whoever runs it.",
        examples="""
        kernelfit warm-up
        kernelfit warm-up --only find --only restore
        """,
    )
    warm.add_argument("--only", type=one_of(USES), action="append", metavar="USE", help=", ".join(USES))


def _demo(add: _Adder) -> None:
    demo = add(
        help="find two known kernels and show how well it went",
        description="Find the kernel between two 6 x 6 matrices, and between a photograph and a noisy blur of it.",
        examples="""
        kernelfit demo
        kernelfit demo --write .     a pair of pictures to try it on: before.png and after.png
        """,
    )
    demo.add_argument("--write", type=named, metavar="FOLDER", help="write before.png and after.png there instead")
    force(demo)


class _Version(argparse.Action):
    """Print the version; looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"kernelfit {__version__}")
        parser.exit()


class _Completion(argparse.Action):
    """Print what makes a shell complete our words."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, values: Any, *__: object) -> None:
        from ..imageio.planes import require

        shtab = require("shtab", package="shtab", extra="cli", purpose="completion")
        print(shtab.complete(parser, values))
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
