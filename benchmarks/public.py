"""Print tables of public data that you download: real camera shakes, downsampling kernels, PSF stamps, a room.

    python -m benchmarks.public FOLDER [--only levin downsampled psf room]

FOLDER holds what is listed in `SOURCES`, each in a folder of its own; what is not there is left out, and said so. RGBA
pictures are read as RGB. `held out` is the root mean square residual of the right half of a picture, in gray levels,
of a kernel found in its left half; of the published kernel, that at its best shift by whole pixels, and its best scale.
"""

import argparse
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import numpy as np

import kernelfit
from kernelfit.io import read_image

SOURCES = {
    "levin": "imN.png, imN_kernelM.png, kernelM.png: github.com/csdwren/SelfDeblur, datasets/levin",
    "downsampled": "gtN.png, lrS_N.png, kS_N.mat: DIV2KRK, www.wisdom.weizmann.ac.il/~vision/kernelgan; HR_N.png, "
    "DIPFKP_lr_xS_N.png, DIPFKP_gt_k_xS_N.mat: github.com/JingyunLiang/FKP",
    "psf": "irac_ch1.fits, irac_ch4.fits: github.com/astropy/photutils-datasets",
    "room": "fabian.mat: github.com/artpelling/impulse-response-estimation",
}


def picture(path, colours=False):
    """Return a picture in double precision; of colours without their opacity."""
    pixels = np.asarray(read_image(path, colours=colours), dtype=np.float64)
    return pixels[..., :3] if colours else pixels


def rms(values):
    """Return the root mean square of what is known."""
    return float(np.sqrt(np.nanmean(values**2)))


def published(image, target, kernel, reach=3, **words):
    """Return the least residual of a published kernel, at any shift by whole pixels up to `reach`, and any scale."""
    best = np.inf
    centre = [(n - 1) // 2 for n in kernel.shape]
    margin = max(kernel.shape)
    for shift in itertools.product(range(-reach, reach + 1), repeat=2):
        origin = tuple(int(c - s) for c, s in zip(centre, shift, strict=True))
        made = kernelfit.apply_kernel(image, kernel, origin=origin, boundary="nearest", **words)
        stride = words.get("stride", 1)
        edge = -(-margin // stride)
        inner = (slice(edge, -edge), slice(edge, -edge))
        seen, made = target[inner].ravel(), made[inner].ravel()
        best = min(best, rms(seen - made * (seen @ made) / (made @ made)))
    return best


def print_table(heads, rows):
    """Print rows in Markdown."""
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)
    print()


def levin(folder):
    """Yield pictures of 255 x 255 pixels of 8 bits, blurred by real camera shakes."""
    for path in sorted(folder.glob("im*_kernel*.png")):
        first, name = path.stem.split("_")
        image, target = picture(folder / f"{first}.png"), picture(path)
        kernel = picture(folder / f"{name}.png")
        half = image.shape[1] // 2
        left, right = np.s_[:, :half], np.s_[:, half:]
        cells = []
        for solver in (None, "auto"):
            fit = kernelfit.find_kernel(image[left], target[left], kernel.shape, solver=solver)
            cells.append(f"{rms(fit.residual(image[right], target[right])):.2f}")
        both = [published(image[right], target[right], k / kernel.sum(), 6) for k in (kernel, kernel[::-1, ::-1])]
        theirs = min(both)  # most are for a correlation
        yield path.stem, "x".join(map(str, kernel.shape)), *cells, f"{theirs:.2f}"


def downsampled(folder):
    """Yield pictures made smaller by an unknown kernel, in colours, which share it."""
    import scipy.io

    cases = [(path, *re.fullmatch(r"lr(\d)_(\w+)", path.stem).groups(), "gt{1}", "k{0}_{1}")
             for path in sorted(folder.glob("lr?_*.png"))]  # fmt: skip
    cases += [(path, *re.fullmatch(r"DIPFKP_lr_x(\d)_(\w+)", path.stem).groups(), "HR_{1}", "DIPFKP_gt_k_x{0}_{1}")
              for path in sorted(folder.glob("DIPFKP_lr_*.png"))]  # fmt: skip
    for path, factor, number, source, truth in cases:
        stride = int(factor)
        image = picture(folder / f"{source.format(factor, number)}.png", colours=True)
        target = picture(path, colours=True)
        image = image[: stride * target.shape[0], : stride * target.shape[1]]
        kernel = scipy.io.loadmat(folder / f"{truth.format(factor, number)}.mat")["Kernel"]
        shape = tuple(n + 2 for n in kernel.shape)  # published ones are up to half a pixel off
        words = {"stride": stride, "operation": "correlation", "offset": stride // 2 if source[:2] == "gt" else 0}
        half = target.shape[1] // 2
        left, right = (np.s_[:, : half * stride], np.s_[:, :half]), (np.s_[:, half * stride :], np.s_[:, half:])
        fit = kernelfit.find_kernel(image[left[0]], target[left[1]], shape, channel_axis=-1, **words)
        held = rms(fit.residual(image[right[0]], target[right[1]]))
        theirs = published(image[right[0]][..., 1], target[right[1]][..., 1], kernel / kernel.sum(), **words)
        yield path.stem, "x".join(map(str, shape)), f"{held:.2f}", f"{theirs:.2f}", f"{fit.kernel.sum():.4f}"


def psf(folder):
    """Take Spitzer's PSF at 3.6 to that at 8 micrometres; the residual in per cent of the peak."""
    first, second = (picture(folder / f"irac_ch{n}.fits") for n in (1, 4))
    first, second = first / first.sum(), second / second.sum()
    for side in (31, 61):
        fit = kernelfit.find_kernel(first, second, side, boundary="fill")
        left = second - kernelfit.apply_kernel(first, fit.kernel)
        yield f"kernelfit, {side}x{side}, least squares", f"{100 * np.abs(left).max() / second.max():.2f}"
    fit = kernelfit.match_psf(first, second)
    left = second - kernelfit.apply_kernel(first, fit.kernel)
    yield "kernelfit, match_psf", f"{100 * np.abs(left).max() / second.max():.2f}"
    if importlib.util.find_spec("photutils") is None:
        yield "photutils", "not installed"
        return
    from photutils.psf_matching import CosineBellWindow, make_kernel, make_wiener_kernel

    def of_grid(make, values):
        made = [kernelfit.apply_kernel(first, make(value)) for value in values]
        return min(100 * np.abs(second - one).max() / second.max() for one in made)

    least = of_grid(lambda r: make_wiener_kernel(first, second, regularization=r), 10.0 ** np.arange(-8, 0))
    yield "photutils, make_wiener_kernel, the best of 8 strengths", f"{least:.2f}"
    least = of_grid(lambda a: make_kernel(first, second, window=CosineBellWindow(a)), (0.2, 0.35, 0.5, 0.7, 0.9))
    yield "photutils, make_kernel, the best of 5 cosine bells", f"{least:.2f}"


def room(folder):
    """Find a head-related impulse response from input and output; the error is against the published one."""
    import scipy.io

    held = scipy.io.loadmat(folder / "fabian.mat")
    x, y, truth = (np.ravel(held[name]).astype(np.float64) for name in ("u", "y", "h"))
    fit = kernelfit.find_kernel(x, y, lags=(0, len(truth) - 1), boundary="fill")
    yield f"{len(truth)} taps of {len(x)} samples", f"{np.linalg.norm(fit.kernel - truth) / np.linalg.norm(truth):.1e}"


TABLES = {
    "levin": (levin, ("pair", "kernel", "held out, least squares", "held out, auto", "held out, published")),
    "downsampled": (downsampled, ("pair", "kernel", "held out", "held out, published", "sum of the kernel")),
    "psf": (psf, ("", "largest residual, % of the peak")),
    "room": (room, ("", "error")),
}


def main(argv=None):
    """Print the tables of what is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the data lie, each in a folder of its own")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="some of the tables")
    chosen = parser.parse_args(argv)
    there = [name for name in chosen.only if (chosen.folder / name).is_dir()]
    if not there:
        needed = "\n".join(f"  {chosen.folder / name}: {SOURCES[name]}" for name in chosen.only)
        print(f"got {chosen.folder}, in which none of the data lie, need at least one of\n{needed}", file=sys.stderr)
        return 2
    for name in chosen.only:
        if name not in there:
            print(f"{name}: not there; {SOURCES[name]}")
            continue
        work, heads = TABLES[name]
        print_table(heads, work(chosen.folder / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
