"""The parsers of commands that judge or measure a pair of files, or serve a page for them; argparse alone."""

import argparse
from collections.abc import Callable
from typing import Any

from .options import (
    BOUNDARIES,
    MODES,
    OPERATIONS,
    choices,
    count,
    counted,
    force,
    index,
    lattice,
    machines,
    named,
    noise,
    number,
    one_of,
    pair,
    saturated,
    which,
)
from .options import workers as add_workers

KERNELS = "KERNEL: .npy, .csv, .txt (numbers); .json, .fits, .tif (with conventions); .npz (the whole result)"
IMAGES = "images: PNG, JPEG, BMP, WebP, PGM, TIFF, NPY, FITS, HDF5, Zarr, CSV, TXT; - is NPY on the standard input"


def audit(add: Callable[..., Any]) -> None:
    """Add the command that holds a kernel against a pair."""
    parser = add(
        help="say whether a kernel explains a pair of images",
        description="Say whether KERNEL explains how IMAGE became TARGET: the shift, factor and constant with which\n"
        "it fits best, with errors, how its array has to be turned, and how much better the best kernel fits.\n"
        f"{IMAGES}\n{KERNELS}\n"
        "exit codes: 0 it explains the pair as it is given, 1 only adjusted, in part or not at all, 2 bad input",
        examples="""
        kernelfit audit before.png after.png kernel.npz
        kernelfit audit large.png small.png published.npy --stride 2
        kernelfit audit before.png after.png weights.csv --operation correlation --json
        """,
    )
    parser.add_argument("image", type=named, metavar="IMAGE", help="what went in")
    parser.add_argument("target", type=named, metavar="TARGET", help="what came out")
    parser.add_argument("kernel", type=named, metavar="KERNEL", help="the kernel's file")
    which(parser, 2)
    lie = parser.add_argument_group("how the kernel is said to lie on the image (default: as its file says)")
    lie.add_argument("--mode", type=one_of((*MODES, "crop")), metavar="MODE",
                     help=choices((*MODES, "crop"), "from the shapes"))  # fmt: skip
    lie.add_argument("--origin", type=pair(None), metavar="N|R,C", help="tap over the output pixel (default: SciPy's)")
    lie.add_argument("--operation", type=one_of(OPERATIONS), metavar="OP", help=choices(OPERATIONS, "convolution"))
    lattice(lie, "TARGET holds one in N pixels of what the kernel makes (default: from the sizes)", "0")
    pixels = parser.add_argument_group("which pixels count, and what lies beside the kernel")
    pixels.add_argument("--background", type=index, default=0, metavar="DEGREE",
                        help="polynomial surface beside it: 0 a constant (default), 1 a plane")  # fmt: skip
    counted(pixels)
    add_workers(parser)
    machines(parser)
    parser.set_defaults(channels=None, shape=None)


def psf(add: Callable[..., Any]) -> None:
    """Add the command that measures a camera with a printed target."""
    parser = add(
        help="find a camera's point spread function from a printed target",
        description="Find the point spread function of a camera, finer than its pixels, in a capture of a printed\n"
        "target, which is looked for unless its corners are given. Perspective, distortion and light are fitted.\n"
        f"{IMAGES}\n"
        "exit codes: 0 solved, 1 solved with a doubtful verdict, 2 bad input",
        examples="""
        kernelfit psf capture.png --target pattern.png --oversample 4 -o psf.npz
        kernelfit psf capture.tif --target pattern.png --corners 84,113,83,205,174,207,176,115
        kernelfit psf capture.png --target pattern.png --channel green --plot psf.png --json
        """,
    )
    parser.add_argument("image", type=named, metavar="CAPTURE", help="the photograph, proportional to light")
    parser.add_argument("--target", required=True, type=named, metavar="PATTERN", help="what was printed, cell by cell")
    parser.add_argument("--oversample", type=count, default=4, metavar="N", help="taps to a pixel (default: 4)")
    parser.add_argument("--corners", type=corners, metavar="R,C,R,C,R,C,R,C",
                        help="the pattern's corners in CAPTURE: top left, top right, bottom right, bottom left "
                        "(default: looked for)")  # fmt: skip
    which(parser, 2)
    how = parser.add_argument_group("how it is found")
    how.add_argument("--shape", type=count, metavar="N", help="taps along an axis, odd (default: 5 pixels)")
    how.add_argument("--solver", type=one_of(("gaussian-process", "non-negative", "auto")), metavar="S",
                     help=choices(("gaussian-process", "non-negative", "auto"), "gaussian-process"))  # fmt: skip
    how.add_argument("--distortion", type=index, default=3, metavar="DEGREE",
                     help="of a displacement beside the homography (default: 3; 0 for none)")  # fmt: skip
    how.add_argument("--illumination", type=index, default=2, metavar="DEGREE",
                     help="of the brightness over the target (default: 2)")  # fmt: skip
    how.add_argument("--mask", type=named, metavar="FILE", help="an image, not zero where a pixel is left out")
    how.add_argument("--saturated", type=saturated, default="auto", metavar="S",
                     help="pixels to leave out: LOW,HIGH, none, or auto (default)")  # fmt: skip
    add_workers(how)
    out = parser.add_argument_group("what comes out")
    out.add_argument("-o", "--output", type=named, metavar="KERNEL", help="write the kernel here")
    out.add_argument("--plot", type=named, metavar="FILE.png", help="draw kernel, errors, cuts and response here")
    machines(out)
    force(out)
    parser.set_defaults(channels=None)


def serve(add: Callable[..., Any], main: Callable[..., int]) -> None:
    """Add the command that serves a page; `main` is what runs a command, which the page has to do."""
    parser = add(
        help="open a page in the browser, on which two pictures are dropped",
        description="Open a page in the browser: drop two pictures, and the report comes back. Ctrl-C ends it.\n"
        "The address is of this machine alone (127.0.0.1) and holds a random token. Files never leave the\n"
        "machine; they are kept in a private folder that is removed in the end.",
        examples="""
        kernelfit serve
        kernelfit serve --no-browser --port 8123
        """,
    )
    parser.add_argument("--port", type=index, default=0, metavar="N", help="port (default: any that is free)")
    parser.add_argument("--limit", type=count, default=512, metavar="MIB", help="largest file in MiB (default: 512)")
    parser.add_argument("--no-browser", action="store_true", help="show the address, and open nothing")
    parser.set_defaults(main=main)


def subtract(add: Callable[..., Any]) -> None:
    """Add the command that subtracts one exposure from another."""
    parser = add(
        help="subtract a reference from a science image, after blurring the sharper one",
        description="Blur the sharper of two exposures of a field to the other one, and take the reference off the\n"
        "science image: kernel and background are fitted together, outliers left out, and the noise of both goes\n"
        "through the kernel. What got brighter is positive.\n"
        f"{IMAGES}\n"
        "DIFFERENCE: .fits (extensions VARIANCE and MASK: 1 masked, 2 outlier; the header of SCIENCE), .npz, .tif\n"
        "(pages: difference, variance, mask), .npy (the difference alone)\n"
        "exit codes: 0 solved, 1 solved with a doubtful verdict, 2 bad input",
        examples="""
        kernelfit subtract science.fits reference.fits -o diff.fits
        kernelfit subtract science.fits reference.fits --shape 15 --variation 2 --decorrelate -o diff.fits
        kernelfit subtract science.fits reference.fits --noise 1.5,8 --saturated ,60000 -o diff.fits
        kernelfit subtract new.fits old.fits --hdu 1 --variance new.fits:2 --variance old.fits:2 -o diff.fits
        """,
    )
    parser.add_argument("science", type=named, metavar="SCIENCE", help="the exposure in which something may be new")
    parser.add_argument("reference", type=named, metavar="REFERENCE", help="the exposure it is compared with")
    which(parser, 2)
    known = parser.add_argument_group("what is known of the exposures, twice for SCIENCE and REFERENCE")
    known.add_argument("--noise", action="append", type=exposure_noise, metavar="N",
                       help="sigma, poisson, GAIN,READ_NOISE in electrons, or unknown (default)")  # fmt: skip
    known.add_argument("--variance", action="append", type=named, metavar="FILE[:HDU]",
                       help="instead, an image of the variance of each pixel, or none")  # fmt: skip
    known.add_argument("--mask", action="append", type=named, metavar="FILE[:HDU]",
                       help="an image, not zero where a pixel is bad, or none")  # fmt: skip
    known.add_argument("--saturated", action="append", type=saturated, metavar="S",
                       help="bad pixels: LOW,HIGH, none, or auto (default), the ends of integer types")  # fmt: skip
    how = parser.add_argument_group("how the difference is made")
    how.add_argument("--shape", type=pair(1), metavar="N|R,C", help="sides of the kernel (default: found)")
    words = ("auto", "science", "reference")
    how.add_argument("--which", type=one_of(words), metavar="W",
                     help="the exposure that is convolved: " + choices(words, "auto, the sharper one"))  # fmt: skip
    how.add_argument("--variation", type=index, metavar="DEGREE",
                     help="let the kernel vary over the field: degree of a polynomial (default: none)")  # fmt: skip
    how.add_argument("--background", type=index, default=1, metavar="DEGREE",
                     help="polynomial surface between the two (default: 1, a plane)")  # fmt: skip
    how.add_argument("--boundary", type=one_of(BOUNDARIES), default="none", metavar="B",
                     help="what lay beyond the edge: " + choices(BOUNDARIES, "none, they are masked"))  # fmt: skip
    how.add_argument("--clip", type=number, metavar="N", help="leave out of the fit what is N sigma off (default: 4)")
    how.add_argument("--solver", type=one_of(("auto", "least-squares")), default="auto", metavar="S",
                     help=choices(("auto", "least-squares"), "auto"))  # fmt: skip
    how.add_argument("--decorrelate", action="store_true", help="make the noise of the difference white")
    add_workers(how)
    out = parser.add_argument_group("what comes out")
    out.add_argument("-o", "--output", required=True, type=named, metavar="DIFFERENCE",
                     help="write the difference here; - is NPY on the standard output")  # fmt: skip
    out.add_argument("--kernel", type=named, metavar="KERNEL", help="write the kernel here")
    machines(out)
    force(out)


def exposure_noise(text: str) -> float | str | tuple[float, float]:
    """Parse the noise of an exposure."""
    if text == "unknown":
        return text
    try:
        value = float(text)
    except ValueError:
        found = noise(text)
        if found != "constant":
            return found
        value = 0.0
    if not 0 < value < float("inf"):
        need = "a standard deviation above 0, poisson, unknown, or two numbers GAIN,READ_NOISE"
        raise argparse.ArgumentTypeError(f"got {text!r}, need {need}")
    return value


def corners(text: str) -> list[list[float]]:
    """Parse four pairs of row and column."""
    values = [number(part) for part in text.split(",")]
    if len(values) != 8:
        raise argparse.ArgumentTypeError(f"got {len(values)} numbers, need eight: row and column of four corners")
    return [values[i : i + 2] for i in range(0, 8, 2)]
