"""The demo of the command line: two known kernels found again, and a pair of pictures to try it on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__, find_kernel
from ..core.estimate import Estimate
from ..imageio import read, write
from .progress import duration

# stackoverflow.com/questions/55560333: which 5 x 5 kernel makes the second matrix out of the first?
QUESTION = """94 166 76 106 152 232; 48 242 30 98 46 210; 52 60 86 60 216 248;
              52 236 116 240 224 184; 138 160 146 254 236 252; 94 100 224 246 152 74"""
ANSWERED = """15 49 23 105 0 0; 43 30 108 124 0 0; 58 120 112 92 0 0;
              73 127 118 126 0 0; 112 123 76 37 0 0; 0 0 0 0 0 0"""
# What the demo does to the photograph: a comet, not symmetric about any axis.
COMET = """0 0 0 0 0 1 2; 0 0 0 2 4 3 0; 0 2 6 9 4 0 0; 3 8 12 5 0 0 0; 2 5 3 0 0 0 0"""


def photograph() -> NDArray[np.uint8]:
    """Return the photograph, 512 x 512, or say which extra brings it."""
    data = read.require("skimage.data", package="scikit-image", extra="cli", purpose="the demo's photograph")
    image: NDArray[np.uint8] = data.camera()
    return image


def comet() -> NDArray[np.float64]:
    """Return the blur that the demo puts on the photograph: its taps add up to one."""
    taps = _matrix(COMET)
    return np.asarray(taps / taps.sum())


def write_pair(folder: str, *, overwrite: bool = False) -> list[Path]:
    """Write ``before.png`` and ``after.png``, the photograph and a noisy blur of it, to a folder."""
    from scipy.signal import convolve2d

    image = photograph()
    place = Path(folder)
    paths = [place / "before.png", place / "after.png"]
    for path in paths:
        write.check_output(path, (".png",), "the demo's picture", overwrite=overwrite)
    write.require_writer(paths[0])
    blurred = convolve2d(image, comet(), mode="same", boundary="symm")
    blurred += np.random.default_rng(0).normal(0.0, 0.01 * float(blurred.std()), blurred.shape)
    for path, pixels in zip(paths, (image.astype(float), blurred), strict=True):
        write.write_image(path, pixels, 255, overwrite=overwrite)
    return paths


def run(say: Callable[[str], object]) -> int:
    """Find both kernels and say how well it went; 0 if both came out right, else 1."""
    from scipy.signal import convolve2d

    image_of = photograph()
    image, target = _matrix(QUESTION), _matrix(ANSWERED)
    say(f"kernelfit {__version__}\n")
    say("1. Two 6 x 6 matrices. Which 5 x 5 kernel makes the second out of the first, with zeros beyond the edge?\n")
    say('   fit = find_kernel(image, target, 5, boundary="fill")\n')
    fit, seconds, first = _timed(lambda: find_kernel(image, target, 5, boundary="fill"))
    truth = np.zeros((5, 5))
    truth[1, 0] = 0.5
    say(_table(fit.kernel))
    _report(say, fit, seconds, first)
    off = float(np.abs(fit.kernel - truth).max())
    say(f"   error    {off:.1e}  at most in any tap: it was a shift by one row and two columns, halved\n")
    codes = [0 if fit.verdict.ok and off < 1e-9 else 1]

    truth = comet()
    blurred = convolve2d(image_of, truth, mode="same", boundary="symm")
    noise = 0.01 * float(blurred.std())
    target = blurred + np.random.default_rng(0).normal(0.0, noise, blurred.shape)
    rows, columns = image_of.shape
    say(f"2. A photograph, {rows} x {columns}, blurred by a 5 x 7 comet, with 1 % noise. Its edges are left out.\n")
    say("   fit = find_kernel(photograph, target, (5, 7))\n")
    fit, seconds, first = _timed(lambda: find_kernel(image_of, target, (5, 7)))
    say(_table(fit.kernel))
    _report(say, fit, seconds, first)
    size = float(np.linalg.norm(truth))
    off, expected = float(np.linalg.norm(fit.kernel - truth)) / size, float(np.linalg.norm(fit.stderr)) / size
    say(f"   error    {off:.2%} of the kernel's size, where its error bars say {expected:.2%}")
    say(f"   noise    {fit.noise_std:.4f} found, {noise:.4f} put in")
    codes.append(0 if fit.verdict.ok and off < 3 * expected else 1)
    return max(codes)


def _matrix(text: str) -> NDArray[np.float64]:
    return np.array([[float(number) for number in row.split()] for row in text.split(";")])


def _timed(solve: Callable[[], Estimate]) -> tuple[Estimate, float, float]:
    """Solve twice; return the fit, the seconds the second call took, and those of the first."""
    start = time.perf_counter()
    solve()
    middle = time.perf_counter()
    fit = solve()
    return fit, time.perf_counter() - middle, middle - start


def _report(say: Callable[[str], object], fit: Estimate, seconds: float, first: float) -> None:
    say(f"\n   verdict  {fit.verdict.value}")
    say(f"   time     {duration(seconds)}  ({duration(first)} the first time: machine code is loaded or compiled)")


def _table(kernel: NDArray[Any]) -> str:
    """Print every tap to three decimals, one row per line, without minus signs before zero."""
    rows = ("  ".join(f"{tap:6.3f}".replace("-0.000", " 0.000") for tap in row) for row in kernel)
    return "\n".join(f"  {row}" for row in rows)
