"""The command line: ``kernelfit demo`` and ``kernelfit find IMAGE TARGET --shape 5``.

The only place that prints. Nothing but argparse is imported until a command runs, so that ``--help`` is quick. A bad
call is one line on stderr and exit code 2, before anything is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kernelfit import KernelFit

__all__ = ["main"]

SOLVED, DOUBTFUL, BAD_CALL = 0, 1, 2  # exit codes

MODES = ("same", "valid", "full")
BOUNDARIES = ("none", "fill", "wrap", "symm", "mirror", "nearest")
OPERATIONS = ("convolution", "correlation")

# stackoverflow.com/questions/55560333: which 5 x 5 kernel makes the second matrix out of the first?
QUESTION = """94 166 76 106 152 232; 48 242 30 98 46 210; 52 60 86 60 216 248;
              52 236 116 240 224 184; 138 160 146 254 236 252; 94 100 224 246 152 74"""
ANSWERED = """15 49 23 105 0 0; 43 30 108 124 0 0; 58 120 112 92 0 0;
              73 127 118 126 0 0; 112 123 76 37 0 0; 0 0 0 0 0 0"""

# What the demo does to the photograph: a comet, not symmetric about any axis.
COMET = """0 0 0 0 0 1 2; 0 0 0 2 4 3 0; 0 2 6 9 4 0 0; 3 8 12 5 0 0 0; 2 5 3 0 0 0 0"""


class _BadCallError(Exception):
    """The caller's mistake, in one line."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line and never ends the process by itself."""

    def error(self, message: str) -> NoReturn:
        raise _BadCallError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process when omitted.

    Returns
    -------
    int
        0 solved, 1 solved with a doubtful verdict, 2 bad call or bad input (said in one line on stderr).
    """
    try:
        args = _parser().parse_args(argv)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except _BadCallError as error:
        print("kernelfit:", " ".join(str(error).split()), file=sys.stderr)
        return BAD_CALL
    except BrokenPipeError:  # `kernelfit demo | head`: whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kernelfit",
        description="Find the convolution kernel between two images.",
        epilog="exit codes: 0 solved, 1 solved with a doubtful verdict, 2 bad input",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="{demo,find}")

    demo = commands.add_parser(
        "demo",
        help="find two known kernels and show how well it went",
        description="Find the kernel between two 6 x 6 matrices, and between a photograph and a noisy blur of it.",
        allow_abbrev=False,
    )
    demo.set_defaults(run=_demo)

    find = commands.add_parser(
        "find",
        help="find the kernel between two image files",
        description="Find the kernel that turns IMAGE into TARGET. Both are gray PNG, TIFF or NPY files.",
        epilog="exit codes: 0 solved, 1 solved with a doubtful verdict, 2 bad input",
        allow_abbrev=False,
    )
    find.add_argument("image", metavar="IMAGE", help="what went in")
    find.add_argument("target", metavar="TARGET", help="what came out")
    find.add_argument("--shape", required=True, type=_pair(1), metavar="N|R,C", help="sides of the kernel: 5 or 5,7")
    find.add_argument("--mode", type=_one_of(MODES), metavar="MODE", help=_choices(MODES, "from the shapes"))
    find.add_argument(
        "--boundary",
        type=_one_of(BOUNDARIES),
        default="none",
        metavar="B",
        help="what lay beyond the edge: " + _choices(BOUNDARIES, "none, only the interior is used"),
    )
    find.add_argument("--fillvalue", type=_number, metavar="V", help="value beyond the edge, with --boundary fill (0)")
    find.add_argument("--origin", type=_pair(0), metavar="N|R,C", help="tap over the output pixel (default: SciPy's)")
    find.add_argument(
        "--operation",
        type=_one_of(OPERATIONS),
        default="convolution",
        metavar="OP",
        help=_choices(OPERATIONS, "convolution"),
    )
    find.add_argument("--method", default="auto", metavar="M", help="engine: auto, direct, fft (default: auto)")
    find.add_argument("--workers", type=_count, metavar="N", help="number of threads (default: all cores)")
    find.add_argument("-o", "--output", metavar="KERNEL.npy", help="write the kernel here, every digit of it")
    find.add_argument("--force", action="store_true", help="let -o replace an existing file")
    find.set_defaults(run=_find)
    return parser


class _Version(argparse.Action):
    """Print the version; looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from kernelfit import __version__

        print(f"kernelfit {__version__}")
        parser.exit()


# ---- arguments ---------------------------------------------------------------------------------------------------


def _choices(known: Sequence[str], default: str) -> str:
    return f"{', '.join(known)} (default: {default})"


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"got {text!r}, need one of {', '.join(known)}")
        return text

    return parse


def _pair(least: int) -> Callable[[str], int | tuple[int, int]]:
    """Parse ``5`` or ``5,7``, whole numbers of at least `least`."""

    def parse(text: str) -> int | tuple[int, int]:
        try:
            numbers = tuple(int(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 2) or min(numbers) < least:
            need = f"one whole number of at least {least}, or two with a comma between"
            raise argparse.ArgumentTypeError(f"got {text!r}, need {need}")
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])

    return parse


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, need a whole number of at least 1")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, need a number") from None


def _no_command(args: argparse.Namespace) -> int:
    raise _BadCallError("got no command, need demo or find; see kernelfit --help")


# ---- find --------------------------------------------------------------------------------------------------------


def _find(args: argparse.Namespace) -> int:
    from kernelfit import find_kernel, io

    try:
        if args.fillvalue is not None and args.boundary != "fill":
            raise ValueError(f"got --fillvalue with --boundary {args.boundary}, need --boundary fill; declare that")
        if args.output is not None:
            _protect_inputs(args)
            io.check_output(args.output, overwrite=args.force)
        image, target = io.read_image(args.image), io.read_image(args.target)
        start = time.perf_counter()
        fit = find_kernel(
            image,
            target,
            args.shape,
            mode=args.mode,
            boundary=None if args.boundary == "none" else args.boundary,
            fillvalue=0.0 if args.fillvalue is None else args.fillvalue,
            origin=args.origin,
            operation=args.operation,
            method=args.method,
            workers=args.workers,
        )
        seconds = time.perf_counter() - start
        if args.output is not None:
            io.write_npy(args.output, fit.kernel, overwrite=args.force)
    except (ValueError, TypeError, OSError, MemoryError, io.MissingExtraError) as error:
        raise _BadCallError(_one_line(error)) from error
    print(fit.summary())
    kept = "-o kernel.npy would keep the kernel" if args.output is None else f"kernel written to {args.output}"
    print(f"\n{_duration(seconds)} for {image.shape[0]} x {image.shape[1]} pixels; {kept}")
    return SOLVED if fit.verdict.ok else DOUBTFUL


def _protect_inputs(args: argparse.Namespace) -> None:
    """Refuse an output that is one of the inputs, which --force would destroy."""
    for source in (args.image, args.target):
        if os.path.exists(source) and os.path.exists(args.output) and os.path.samefile(source, args.output):
            raise ValueError(f"got {args.output} both as input and as output, need two files; choose another name")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}; check the name" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"got images too large for this machine's memory ({error}); save them as NPY, which is read in blocks"
    return str(error)


# ---- demo --------------------------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    import numpy as np
    from scipy.signal import convolve2d

    from kernelfit import __version__, find_kernel, io

    try:
        data = io.require("skimage.data", package="scikit-image", extra="cli", purpose="the demo's photograph")
    except io.MissingExtraError as error:
        raise _BadCallError(str(error)) from error
    photograph = data.camera()

    image, target = _matrix(QUESTION), _matrix(ANSWERED)
    print(f"kernelfit {__version__}\n")
    print("1. Two 6 x 6 matrices. Which 5 x 5 kernel makes the second out of the first, with zeros beyond the edge?\n")
    print('   fit = find_kernel(image, target, 5, boundary="fill")\n')
    fit, seconds, first = _timed(lambda: find_kernel(image, target, 5, boundary="fill"))
    truth = np.zeros((5, 5))
    truth[1, 0] = 0.5
    print(_table(fit.kernel))
    _report(fit, seconds, first)
    off = float(np.abs(fit.kernel - truth).max())
    print(f"   error    {off:.1e}  at most in any tap: it was a shift by one row and two columns, halved\n")
    codes = [SOLVED if fit.verdict.ok and off < 1e-9 else DOUBTFUL]

    truth = _matrix(COMET) / _matrix(COMET).sum()
    blurred = convolve2d(photograph, truth, mode="same", boundary="symm")
    noise = 0.01 * float(blurred.std())
    target = blurred + np.random.default_rng(0).normal(0.0, noise, blurred.shape)
    rows, columns = photograph.shape
    print(f"2. A photograph, {rows} x {columns}, blurred by a 5 x 7 comet, with 1 % noise. Its edges are left out.\n")
    print("   fit = find_kernel(photograph, target, (5, 7))\n")
    fit, seconds, first = _timed(lambda: find_kernel(photograph, target, (5, 7)))
    print(_table(fit.kernel))
    _report(fit, seconds, first)
    size = float(np.linalg.norm(truth))
    off, expected = float(np.linalg.norm(fit.kernel - truth)) / size, float(np.linalg.norm(fit.stderr)) / size
    print(f"   error    {off:.2%} of the kernel's size, where its error bars say {expected:.2%}")
    print(f"   noise    {fit.noise_std:.4f} found, {noise:.4f} put in")
    codes.append(SOLVED if fit.verdict.ok and off < 3 * expected else DOUBTFUL)
    return max(codes)


def _matrix(text: str) -> NDArray[np.float64]:
    import numpy as np

    return np.array([[float(number) for number in row.split()] for row in text.split(";")])


def _timed(solve: Callable[[], KernelFit]) -> tuple[KernelFit, float, float]:
    """Solve twice; return the fit, the seconds the second call took, and those of the first."""
    start = time.perf_counter()
    solve()
    middle = time.perf_counter()
    fit = solve()
    return fit, time.perf_counter() - middle, middle - start


def _report(fit: KernelFit, seconds: float, first: float) -> None:
    print(f"\n   verdict  {fit.verdict.value}")
    print(f"   time     {_duration(seconds)}  ({_duration(first)} the first time: machine code is loaded or compiled)")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _table(kernel: NDArray[Any]) -> str:
    """Print every tap to three decimals, one row per line, without minus signs before zero."""
    rows = ("  ".join(f"{tap:6.3f}".replace("-0.000", " 0.000") for tap in row) for row in kernel)
    return "\n".join(f"  {row}" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
