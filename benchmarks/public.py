"""Print tables of public data that you download: real camera shakes, downsampling kernels, PSF stamps, a room.

    python -m benchmarks.public FOLDER [--only levin downsampled psf room]

FOLDER holds what is listed in `SOURCES`, each in a folder of its own; what is not there is left out, and said so. RGBA
pictures are read as RGB. Residuals are root mean squares in gray levels in the half of a picture that is "held out", of
a kernel found in the other. The published kernel has the shift, scale and constant that are best in the half held out;
of downsampled pictures the best shift by whole pixels, and the best scale. D is ``sum|residual| / sum|target|``.
"""

import argparse
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import scipy.ndimage
import scipy.optimize

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


def at_free_shift(image, target, kernel, part):
    """Return the least residual in a part of a published kernel, at any shift, scale and constant, all fitted there."""
    rows, cols = image.shape
    wide = np.zeros(image.shape)
    wide[: kernel.shape[0], : kernel.shape[1]] = kernel
    wide = np.roll(wide, [-(n // 2) for n in kernel.shape], (0, 1))
    made = np.fft.rfft2(wide) * np.fft.rfft2(image)
    y, x = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)

    def left(shift):
        moved = np.fft.irfft2(made * np.exp(-2j * np.pi * (y * shift[0] + x * shift[1])), image.shape)[part].ravel()
        columns = np.column_stack([moved, np.ones(moved.size)])
        return rms(target[part].ravel() - columns @ np.linalg.lstsq(columns, target[part].ravel(), rcond=None)[0])

    whole, inner = np.fft.irfft2(made, image.shape), target[part].ravel()

    def alike(shift):
        return np.corrcoef(np.roll(whole, shift, (0, 1))[part].ravel(), inner)[0, 1]

    start = np.array(max(itertools.product(range(-7, 8), repeat=2), key=alike))
    simplex = start + 0.5 * np.array([[0, 0], [1, 0], [0, 1]])
    return float(scipy.optimize.minimize(left, start, method="Nelder-Mead", options={"initial_simplex": simplex}).fun)


def print_table(heads, rows):
    """Print rows in Markdown."""
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)
    print()


def levin(folder):
    """Yield pictures of 255 x 255 pixels of 8 bits, blurred by real camera shakes.

    In one half the kernel is found, with nothing given; a motion that is found goes on into the other.
    """
    for path in sorted(folder.glob("im*_kernel*.png")):
        first, name = path.stem.split("_")
        image, target = picture(folder / f"{first}.png"), picture(path)
        kernel = picture(folder / f"{name}.png")
        rows, cols = image.shape
        edge = 32
        halves = {
            "right": (np.s_[:, : cols // 2], np.s_[edge:-edge, cols // 2 : -edge]),
            "left": (np.s_[:, cols // 2 :], np.s_[edge:-edge, edge : cols // 2]),
            "lower": (np.s_[: rows // 2], np.s_[rows // 2 : -edge, edge:-edge]),
            "upper": (np.s_[rows // 2 :], np.s_[edge : rows // 2, edge:-edge]),
        }
        for half, (seen, held) in halves.items():
            fit = kernelfit.find_kernel(image[seen], target[seen])
            moved = image if fit.registration is None else onwards(image, fit.registration, seen)
            made = kernelfit.apply_kernel(moved, fit.kernel, origin=fit.convention.origin, boundary="nearest")
            constant = 0.0 if fit.background is None else float(fit.background.coefficients.ravel()[0])
            ours = f"{rms((target - made - constant)[held]):.3f}"
            theirs = min(at_free_shift(image, target, k, held) for k in (kernel, kernel[::-1, ::-1]))
            motion = "none" if fit.registration is None else fit.registration.kind
            yield path.stem, half, "x".join(map(str, fit.kernel.shape)), motion, ours, f"{theirs:.3f}"


def onwards(image, registration, part):
    """Return an image as it lies on the target by a motion that was found in a part of it."""
    at = [s.start or 0 for s in (*np.index_exp[part], slice(None))[:2]]
    places = np.stack([*np.mgrid[: image.shape[0], : image.shape[1]], np.ones(image.shape)]).astype(float)
    inner = places - np.array([*at, 0])[:, None, None]
    row, col, unit = np.einsum("ij,jyx->iyx", registration.matrix, inner)
    return scipy.ndimage.map_coordinates(image, [row / unit + at[0], col / unit + at[1]], order=5, mode="mirror")


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
    """Take Spitzer's PSF at 3.6 to that at 8 micrometres."""
    first, second = (picture(folder / f"irac_ch{n}.fits") for n in (1, 4))
    first, second = first / first.sum(), second / second.sum()

    def row(name, kernel):
        left = np.abs(second - kernelfit.apply_kernel(first, kernel))
        negative = -kernel[kernel < 0].sum() / kernel.sum()
        return name, f"{left.sum() / second.sum():.3f}", f"{negative:.2f}", f"{100 * left.max() / second.max():.2f}"

    for side in (31, 61):
        fit = kernelfit.find_kernel(first, second, side, boundary="fill")
        yield row(f"kernelfit, {side}x{side}, least squares", fit.kernel)
    yield row("kernelfit, match_psf", kernelfit.match_psf(first, second).kernel)
    for strength in (1e-5, 1e-6):
        yield row(
            f"kernelfit, match_psf, strength={strength:.0e}",
            kernelfit.match_psf(first, second, strength=strength).kernel,
        )
    if importlib.util.find_spec("photutils") is None:
        yield "photutils", "not installed", "", ""
        return
    from photutils.psf_matching import CosineBellWindow, make_kernel, make_wiener_kernel

    for power in range(-7, -2):
        kernel = make_wiener_kernel(first, second, regularization=10.0**power)
        yield row(f"photutils, make_wiener_kernel, regularization=1e{power}", kernel)
    for alpha in (0.35, 0.7):
        yield row(
            f"photutils, make_kernel, cosine bell {alpha}", make_kernel(first, second, window=CosineBellWindow(alpha))
        )


def room(folder):
    """Find a head-related impulse response from input and output; the error is against the published one."""
    import scipy.io

    held = scipy.io.loadmat(folder / "fabian.mat")
    x, y, truth = (np.ravel(held[name]).astype(np.float64) for name in ("u", "y", "h"))
    fit = kernelfit.find_kernel(x, y, lags=(0, len(truth) - 1), boundary="fill")
    yield f"{len(truth)} taps of {len(x)} samples", f"{np.linalg.norm(fit.kernel - truth) / np.linalg.norm(truth):.1e}"


TABLES = {
    "levin": (levin, ("pair", "held out", "kernel", "motion", "found", "published at a free shift")),
    "downsampled": (downsampled, ("pair", "kernel", "held out", "held out, published", "sum of the kernel")),
    "psf": (psf, ("", "D", "negative weight", "largest residual, % of the peak")),
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
