"""The options that several commands share, and the words and numbers that options take; argparse alone."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

SOLVED, DOUBTFUL, BAD_CALL, STOPPED = 0, 1, 2, 130  # exit codes
MODES = ("same", "valid", "full")
BOUNDARIES = ("none", "fill", "wrap", "symm", "mirror", "nearest")
OPERATIONS = ("convolution", "correlation")
METHODS = ("auto", "direct", "fft", "cg", "wiener")
PENALTIES = ("ridge", "gradient", "laplacian", "biharmonic")
SOLVERS = ("auto", "least-squares", "gaussian-process", *PENALTIES, "non-negative", "sparse")
ROBUST = ("huber", "tukey", "clip")
ERRORS = ("plain", "sandwich")
CHANNELS = ("shared", "separate", "mixed")
CURVES, CURVE_SIDES = ("gamma", "srgb", "monotone"), ("both", "image", "target")
MOTIONS = ("shift", "rigid", "similarity", "affine", "homography")
SYMMETRIES = ("point", "rows", "columns", "both")
TOOLS = ("scipy", "opencv", "torch", "imagemagick", "ffmpeg", "gimp", "imagej", "latex")
USES = ("find", "auto", "weights", "colours", "large", "restore", "maps", "register")
WORDS = {*MODES, "crop", *BOUNDARIES, *OPERATIONS, *METHODS, *SOLVERS, *ROBUST, *ERRORS, *CHANNELS, *SYMMETRIES, *TOOLS}
WORDS |= {*MOTIONS, *CURVES, *CURVE_SIDES}


class BadCallError(Exception):
    """The caller's mistake, in one line."""


def printable(text: str) -> str:
    """Return a text in which control characters, and bytes that are no text, are escaped: files hold any."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say(*words: object, to: str = "stdout") -> None:
    """Print words on the standard output or "stderr", in characters that it has; nothing where it is closed."""
    stream = getattr(sys, to)
    if stream is not None:
        text, encoding = printable(" ".join(map(str, words))), getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def which(parser: Any, files: int) -> None:
    """Add the options that pick a plane; given twice they are for the first and the second file."""
    group = parser.add_argument_group("which plane of a file" + (", twice for IMAGE and TARGET" if files > 1 else ""))
    group.add_argument("--page", action="append", type=index, metavar="N", help="page of a TIFF or stack, from 0")
    group.add_argument("--hdu", action="append", type=number_or_name, metavar="N|NAME", help="HDU of a FITS file")
    group.add_argument("--dataset", action="append", metavar="NAME", help="array of an HDF5 or Zarr file")
    group.add_argument("--channel", action="append", type=number_or_name, metavar="C",
                       help="of a colour image: red, green, blue, luma (gray), or from 0")  # fmt: skip
    group.add_argument("--allow-external", action="store_true", help="read pixels in other files that a file names")


def edge(parser: Any, text: str, default: str | None = None) -> None:
    """Add what lies beyond the edge."""
    known = BOUNDARIES if default == "none" else BOUNDARIES[1:]
    parser.add_argument("--boundary", type=one_of(known), default=default, metavar="B", help=text)
    parser.add_argument("--fillvalue", type=number, metavar="V", help="value beyond the edge, with --boundary fill (0)")


def lattice(parser: Any, text: str, first: str) -> None:
    """Add which pixels there are of what the kernel makes."""
    parser.add_argument("--stride", type=pair(1, 3), metavar="N|R,C", help=text)
    parser.add_argument(
        "--offset", type=pair(0, 3), metavar="N|R,C", help=f"the pixel to begin with (default: {first})"
    )


def counted(group: Any) -> None:
    """Add which pixels count, and how noisy they are."""
    group.add_argument(
        "--mask", type=named, metavar="FILE", help="an image that is not zero where a target pixel is to be left out"
    )
    group.add_argument("--image-mask", type=named, metavar="FILE", help="the same for bad pixels of IMAGE")
    group.add_argument("--weights", type=named, metavar="FILE", help="inverse variance of each target pixel")
    group.add_argument("--nan", type=one_of(("error", "mask")), metavar="N",
                       help="pixels that are NaN: error (default), or mask to leave them out")  # fmt: skip
    group.add_argument("--noise", type=noise, metavar="N",
                       help="constant (default), poisson, or GAIN,READ_NOISE in electrons")  # fmt: skip
    group.add_argument("--saturated", type=saturated, default="auto", metavar="S",
                       help="target pixels to leave out: LOW,HIGH (at or beyond them), none, or auto (default), "
                       "the ends of an integer type's range")  # fmt: skip


def workers(parser: Any) -> None:
    """Add the number of threads."""
    parser.add_argument("--workers", type=count, metavar="N", help="number of threads (default: all cores)")


def machines(parser: Any) -> None:
    """Add the choice of JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON for machines instead of words")


def force(parser: Any) -> None:
    """Add the leave to replace files."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def choices(known: Sequence[str], default: str) -> str:
    """Say what can be chosen, and what is by default."""
    return f"{', '.join(known)} (default: {default})"


def one_of(known: Sequence[str]) -> Callable[[str], str]:
    """Parse one of the words."""

    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"got {text!r}, need one of {', '.join(known)}")
        return text

    return parse


def _plain(text: str) -> str:
    """Refuse the underscores that Python takes in numbers."""
    if "_" in text:
        raise ValueError
    return text


def pair(least: int | None, most: int = 2) -> Callable[[str], int | tuple[int, ...]]:
    """Parse ``5`` or ``5,7``, whole numbers of at least `least`, or any; up to `most` of them."""

    def parse(text: str) -> int | tuple[int, ...]:
        try:
            numbers = tuple(int(_plain(part)) for part in text.split(","))
        except ValueError:
            numbers = ()
        if not 1 <= len(numbers) <= most or (least is not None and min(numbers) < least):
            bound = "" if least is None else f" of at least {least}"
            need = f"one whole number{bound}, or two with a comma between"
            raise argparse.ArgumentTypeError(f"got {text!r}, need {need}")
        return numbers[0] if len(numbers) == 1 else numbers

    return parse


def window(text: str) -> tuple[int, int]:
    """Parse ``0,20000``, the first and the last lag."""
    found = pair(None)(text)
    if not isinstance(found, tuple) or found[1] < found[0]:
        raise argparse.ArgumentTypeError(f"got {text!r}, need FIRST,LAST, the first not above the last")
    return found[0], found[1]


def named(text: str) -> str:
    """Parse the name of a file."""
    if not text:
        raise argparse.ArgumentTypeError("got '', need a file's name")
    return text


def whole(text: str, least: int) -> int:
    """Parse a whole number of at least `least`."""
    try:
        number = int(_plain(text))
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"got {text!r}, need a whole number of at least {least}")
    return number


def count(text: str) -> int:
    """Parse a whole number from 1."""
    return whole(text, 1)


def index(text: str) -> int:
    """Parse a whole number from 0."""
    return whole(text, 0)


def number_or_name(text: str) -> int | str:
    """Parse a number, or take the word as a name."""
    return int(text) if text.isdecimal() else text


def number(text: str) -> float:
    """Parse a number."""
    try:
        return float(_plain(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, need a number") from None


def auto_or_number(text: str) -> float | str:
    """Parse a number or the word auto."""
    return text if text == "auto" else number(text)


def noise(text: str) -> str | tuple[float, float]:
    """Parse a model of the noise."""
    if text in ("constant", "poisson"):
        return text
    try:
        gain, read = (float(_plain(part)) for part in text.split(","))
    except ValueError:
        msg = f"got {text!r}, need constant, poisson, or two numbers GAIN,READ_NOISE"
        raise argparse.ArgumentTypeError(msg) from None
    return gain, read


def saturated(text: str) -> str | tuple[float | None, float | None] | None:
    """Parse the values from which on a pixel is saturated."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        low, high = (float(_plain(part)) if part.strip() else None for part in text.split(","))
    except ValueError:
        low = high = None
    if low is high is None or (low is not None and high is not None and not low < high):
        msg = f"got {text!r}, need auto, none, or LOW,HIGH with LOW below HIGH, one of which may be left out"
        raise argparse.ArgumentTypeError(msg)
    return low, high


def auto_or_index(text: str) -> int | str:
    """Parse a whole number from 0, or the word auto."""
    return text if text == "auto" else index(text)


def strength(text: str) -> float | str:
    """Parse a number or the word gcv."""
    return text if text == "gcv" else number(text)
