"""Motion and kernel found together: how good the kernel is, the corners, the error bars, and what it costs.

    python -m benchmarks.registration [motion|start|cover|harm|curve|exponent|both|capture|audit|time] [draws]

A pair is a photograph and what a kernel of 15x15 and noise of 1 % make of the moved photograph. Moved it is from a copy
that is four times as fine, band-limited (a cosine transform with zeros added), read by cubic splines there: not the
resampler of the fit, which reads the photograph itself. kernel: median error over that of the aligned pair. known: over
that of the moved photograph itself, so what the motion and its interpolation cost. corners: largest error in pixels,
median over the draws. cover: share of parameters within 1.96 standard errors, for two pictures, and their scatter in
standard errors. capture: a printed target, tilted by 3 degrees before a camera, on a grid of 4 points to a pixel.
audit: kernels that are the truth or not, and what is said.
"""

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage
import scipy.signal

import kernelfit
from kernelfit.core import registration
from kernelfit.core.curve import FAMILIES, SIDES

from .common import image_like_a_photograph, relative_error

Array = npt.NDArray[np.float64]
FINE, SIDE = 4, 15


def photographs(n: int) -> list[Array]:
    """Return crops of photographs, and an image that is like one."""
    import skimage.data

    found = [image_like_a_photograph(n, n + n // 8)]
    for name in ("camera", "astronaut", "coffee"):
        image = getattr(skimage.data, name)().astype(np.float64)
        image = image.mean(axis=-1) if image.ndim == 3 else image
        found.append(image[: min(n, len(image)), : n + n // 8])
    return found


def finer(image: Array) -> Array:
    """Return the band-limited image on a grid `FINE` times as fine; pixel i lies at ``FINE i + (FINE - 1) / 2``."""
    spectrum = scipy.fft.dctn(image, norm="forward")
    wide = np.zeros([FINE * n for n in image.shape])
    wide[: image.shape[0], : image.shape[1]] = spectrum
    return np.asarray(scipy.fft.idctn(wide, norm="forward"))


def moved(fine: Array, matrix: Array, shape: tuple[int, int]) -> Array:
    """Read a fine image at the places of a motion."""
    places = matrix @ np.stack([*np.indices(shape).reshape(2, -1), np.ones(shape[0] * shape[1])])
    places = FINE * places[:2] / places[2] + 0.5 * (FINE - 1)
    return np.asarray(scipy.ndimage.map_coordinates(fine, places, order=3, mode="mirror").reshape(shape))


def laid(fine: Array, matrix: Array, shape: tuple[int, int]) -> Array:
    """Return the moved image, what lay beyond its edge masked."""
    places = registration.moved(matrix, np.indices(shape).reshape(2, -1).T).T.reshape(2, *shape)
    out = ((places < 0) | (places > np.array(shape)[:, None, None] - 1)).any(axis=0)
    return np.ma.MaskedArray(moved(fine, matrix, shape), out)


def kernels() -> list[Array]:
    """Return kernels with a centre: Gaussians, round and long, a disc, a motion, a sharpened blur."""
    y, x = np.mgrid[-7:8, -7:8].astype(float)
    long = np.exp(-(y**2 / 8 + x**2 / 5 + x * y / 9))
    disc = np.clip(4.5 - np.hypot(y, x), 0, 1)
    line = np.exp(-0.5 * ((y - 0.4 * x) / 0.7) ** 2) * (np.abs(x) < 6)
    sharp = 1.6 * np.exp(-(y**2 + x**2) / 3) / 9.42 - 0.6 * np.exp(-(y**2 + x**2) / 16) / 50.3
    return [k / k.sum() for k in (np.exp(-(y**2 + x**2) / 8), long, disc, line, sharp)]


def random_motion(
    rng: np.random.Generator, kind: str, shape: tuple[int, int], size: tuple[float, float, float]
) -> Array:
    """Draw a motion of up to some degrees, some share of scale (and of shear and tilt), and some pixels."""
    degrees, share, pixels = size
    turn, unit = np.deg2rad(rng.uniform(-degrees, degrees)), registration.frame_of(shape)[1]
    table = np.zeros((3, 3))
    if kind != "shift":
        table += turn * registration.GENERATORS["rigid"][0]
    if kind not in ("shift", "rigid"):
        table += rng.uniform(-share, share) * registration.GENERATORS["similarity"][1]
    if kind in ("affine", "homography"):
        table[:2, :2] += 0.3 * share * rng.uniform(-1, 1, (2, 2))
    if kind == "homography":
        table[2, :2] += 0.3 * share * rng.uniform(-1, 1, 2)
    table[:2, 2] = rng.uniform(-pixels, pixels, 2) / unit
    return registration.motion(table, shape)


def draw(rng: np.random.Generator, image: Array, fine: Array, kernel: Array, matrix: Array) -> tuple[Array, Array]:
    """Return the target of the moved image, and that of the image as it is, with the same noise."""
    made = [scipy.signal.fftconvolve(one, kernel, mode="same") for one in (moved(fine, matrix, image.shape), image)]
    noise = rng.normal(0, 0.01 * made[1].std(), image.shape)
    return made[0] + noise, made[1] + noise


def corner_error(found: Any, matrix: Array) -> float:
    """Return the largest error of a corner's displacement."""
    corners = registration.corners_of(found.shape)
    return float(
        np.linalg.norm(registration.moved(matrix, corners) - registration.moved(found.matrix, corners), axis=1).max()
    )


def motions(draws: int, size: tuple[float, float, float], side: int = 400) -> None:
    """Print how good kernels and corners are for motions of a size."""
    rng, images = np.random.default_rng(1), photographs(side)
    print(f"up to {size[0]:g} degrees, {100 * size[1]:g} %, {size[2]:g} pixels")
    print(f"{'kind':>11s} {'kernel':>7s} {'worst':>7s} {'known':>6s} {'corners':>8s} {'worst':>7s} ", end="")
    print(f"{'of their errors':>15s} findings")
    for kind in registration.KINDS:
        errors, known, corners, ratios, said = [], [], [], [], []
        for i in range(draws):
            image = images[i % len(images)]
            fine, kernel = finer(image), kernels()[i % 5]
            matrix = random_motion(rng, kind, image.shape, size)
            target, aligned = draw(rng, image, fine, kernel, matrix)
            fit = kernelfit.find_kernel(image, target, SIDE, register=kind)
            plain = kernelfit.find_kernel(image, aligned, SIDE)
            errors.append(relative_error(fit.kernel, kernel) / relative_error(plain.kernel, kernel))
            right = kernelfit.find_kernel(laid(fine, matrix, image.shape), target, SIDE)
            known.append(relative_error(fit.kernel, kernel) / relative_error(right.kernel, kernel))
            corners.append(corner_error(fit.registration, matrix))
            ratios.append(corners[-1] / np.linalg.norm(fit.registration.displacement_stderr, axis=1).max())
            said += [f.verdict.name.lower() for f in fit.findings]
        figures = f"{np.median(errors):7.3f} {max(errors):7.3f} {np.median(known):6.3f}"
        figures += f" {np.median(corners):8.4f} {max(corners):7.4f}"
        print(f"{kind:>11s} {figures} {np.median(ratios):15.2f} {sorted(set(said))}", flush=True)


def cover(draws: int, side: int = 200) -> None:
    """Print how often the truth lies within 1.96 standard errors: parameters, corners and taps."""
    rng = np.random.default_rng(3)
    print(f"{'kind':>11s} {'corners':>8s} {'taps':>6s} {'scatter':>7s} ", end="")
    print(f"parameters: share inside (mean and scatter of their errors), {draws} draws")
    for i, kind in itertools.product((0, 1), registration.KINDS):
        image = photographs(side)[i]
        fine, kernel = finer(image), kernels()[1 + 2 * i]
        matrix = random_motion(rng, kind, image.shape, (1.0, 0.01, 3.0))
        clean = scipy.signal.fftconvolve(moved(fine, matrix, image.shape), kernel, mode="same")
        corners, taps, ratios = [], [], {}
        for _ in range(draws):
            target = clean + rng.normal(0, 0.01 * clean.std(), clean.shape)
            fit = kernelfit.find_kernel(image, target, SIDE, register=kind)
            found = fit.registration
            true = registration.Registration(kind, matrix, found.shape, np.zeros((8, 8)))
            corners.append(np.abs(found.displacement - true.displacement) < 1.96 * found.displacement_stderr)
            taps.append(np.abs(fit.kernel - kernel) < 1.96 * fit.stderr)
            for name, (value, error) in found.parameters.items():
                ratios.setdefault(name, []).append((value - true.parameters[name][0]) / error)
        told = ", ".join(
            f"{name} {np.mean(np.abs(some) < 1.96):.3f} ({np.mean(some):+.2f} {np.std(some):.2f})"
            for name, some in ratios.items()
        )
        scatter = np.std(list(ratios.values()))
        print(f"{kind:>11s} {np.mean(corners):8.3f} {np.mean(taps):6.3f} {scatter:7.2f} {told}", flush=True)


def harm(draws: int, side: int = 200) -> None:
    """Print what a motion, and a curve, make of pairs that need neither, with kernels that have a centre and others."""
    images = photographs(side)
    for name, asked in (("affine", {"register": "affine"}), ("gamma", {"curve": "gamma"})):
        rng = np.random.default_rng(5)
        errors, inside = [], []
        for i in range(draws):
            image, kernel = images[i % len(images)], kernels()[i % 5]
            if i % 6 == 5:  # without a centre
                kernel = rng.random((SIDE, SIDE)) * kernels()[0]
                kernel /= kernel.sum()
            image = image if name == "affine" else np.clip(image, 4, 254)  # light, that of no pixel being none
            _, target = draw(rng, image, finer(image), kernel, np.eye(3))
            target = target if target.min() > 0 or name == "affine" else np.ma.masked_less_equal(target, 0)
            fit, plain = (kernelfit.find_kernel(image, target, SIDE, **own) for own in (asked, {}))
            errors.append(relative_error(fit.kernel, kernel) / relative_error(plain.kernel, kernel))
            if name == "affine":
                own = fit.registration.parameters.items()
                inside += [abs(v - (which == "scale")) <= 1.96 * e + 1e-12 for which, (v, e) in own]
            else:
                inside.append(abs(fit.curve.parameters[0] - 1) <= 1.96 * fit.curve.stderr[0] + 1e-12)
        print(
            f"aligned, {name}, {draws} draws: kernel error {np.median(errors):.3f} times, mean {np.mean(errors):.3f}, ",
            end="",
        )
        print(f"above 1.05 {np.mean(np.array(errors) > 1.05):.3f}, at most {max(errors):.3f}; ", end="")
        print(f"none within 1.96 errors {np.mean(inside):.3f}", flush=True)


def curves(draws: int, side: int = 300) -> None:
    """Print how good kernels and exponents are for 8-bit photographs, and what curve="gamma" does to linear ones."""
    rng, images = np.random.default_rng(6), photographs(side)

    def rounded(values: Array) -> Array:
        return np.rint(np.clip(255 * values, 0, 255)).astype(np.uint8)

    def lit(values: Array, family: Any, theta: Array) -> Array:
        hit = (values == 0) | (values == 255)
        light = 255 * family.value(values / 255, theta)
        return np.ma.MaskedArray(light, hit) if hit.mean() < 0.5 else light

    print(f"{'curve':>12s} {'side':>7s} {'kernel':>7s} {'worst':>7s} exponent off by at most")
    for name, exponent in (("gamma", 1.8), ("gamma", 2.2), ("gamma", 2.4), ("srgb", None), ("gamma", 1.0)):
        family, theta = FAMILIES[name], np.array([] if exponent is None else [exponent])
        for where in SIDES:
            errors, off = [], [0.0]
            for i in range(draws):
                light = (np.clip(images[i % len(images)], 1, 254) / 255) ** 2.2
                kernel = kernels()[i % 5]
                blurred = scipy.signal.fftconvolve(light, kernel, mode="same")
                blurred = np.clip(blurred + rng.normal(0, 0.01 * blurred.std(), light.shape), 0, 1)
                x = rounded(light if where == "target" else family.inverse(light, theta))
                y = rounded(blurred if where == "image" else family.inverse(blurred, theta))
                left = x.astype(float) if where == "target" else np.ma.getdata(lit(x, family, theta))
                right = lit(y, FAMILIES["gamma"], np.ones(1)) if where == "image" else lit(y, family, theta)
                plain = kernelfit.find_kernel(left, right, SIDE)
                fit = kernelfit.find_kernel(x, y, SIDE, curve=name, curve_side=where)
                errors.append(relative_error(fit.kernel, kernel) / relative_error(plain.kernel, kernel))
                off += list(np.abs(fit.curve.parameters - theta))
            told = f"{np.median(errors):7.3f} {max(errors):7.3f} {max(off):7.4f}"
            print(f"{name if exponent is None else f'{name} {exponent}':>12s} {where:>7s} {told}", flush=True)


def exponents(draws: int, side: int = 200) -> None:
    """Print how often exponents of 8-bit pairs lie within 1.96 standard errors.

    The scene is the photograph as it stands in its file, on another grid, so that its values are not whole before they
    are rounded, or rounded a second time, the exponent it is in being another one.
    """
    import skimage.data

    rng, names = np.random.default_rng(9), "camera astronaut coffee chelsea coins moon rocket cat".split()
    print(f"{'scene':>14s} {'side':>7s} {'covered':>7s} {'scatter':>7s} {'off':>7s} {'worst':>7s} {draws} draws")
    for scene, where in itertools.product(("whole", "another grid", "rounded twice"), SIDES):
        ratios, off = [], []
        for i in range(draws):
            image = getattr(skimage.data, names[i % len(names)])().astype(np.float64)
            image = image[..., 1] if image.ndim == 3 else image
            image = scipy.ndimage.zoom(image, 0.83, order=3) if scene == "another grid" else image
            at = [rng.integers(0, n - s + 1) for n, s in zip(image.shape, (side, side + 25), strict=True)]
            values = np.clip(image[at[0] : at[0] + side, at[1] : at[1] + side + 25], 1, 254) / 255
            exponent = rng.uniform(1.8, 2.4)
            light = values ** (exponent if scene == "whole" else 2.2)
            light = np.rint(255 * light) / 255 if scene == "whole" and where == "target" else light
            blurred = scipy.signal.fftconvolve(light, kernels()[i % 5], mode="same")
            blurred = np.clip(blurred + rng.normal(0, 0.01 * blurred.std(), light.shape), 0, 1)
            pair = light if where == "target" else light ** (1 / exponent), blurred
            pair = pair[0], blurred if where == "image" else blurred ** (1 / exponent)
            x, y = (np.rint(255 * one.clip(0, 1)).astype(np.uint8) for one in pair)
            curve = kernelfit.find_kernel(x, y, SIDE, curve="gamma", curve_side=where).curve
            off.append(abs(curve.parameters[0] - exponent))
            ratios.append(off[-1] / curve.stderr[0])
        told = f"{np.mean(np.array(ratios) < 1.96):7.3f} {np.sqrt(np.mean(np.square(ratios))):7.2f}"
        print(f"{scene:>14s} {where:>7s} {told} {np.median(off):7.4f} {max(off):7.4f}", flush=True)


def captures(draws: int, step: int = 4, fine: int = 12) -> None:
    """Print how good kernels of simulated captures of a target of noise are, and how often their errors hold."""
    from kernelfit.analysis.target_warp import homography

    print(f"{'capture':>9s} {'kernel':>7s} {'worst':>7s} {'covered':>7s} {'seconds':>7s}")
    rng, errors, inside, seconds = np.random.default_rng(11), [], [], []
    for _ in range(draws):
        pattern, (rows, cols) = rng.integers(0, 2, (256, 256)), (120, 136)
        widths, slant, half = rng.uniform(0.4, 0.6, 2), rng.uniform(-0.4, 0.4), 3

        def blur(step: int, widths: Array = widths, slant: float = slant) -> Array:
            y, x = (
                at[:, None] if i == 0 else at for i, at in enumerate([np.arange(-3 * step, 3 * step + 1) / step] * 2)
            )
            taps = np.exp(-0.5 * ((y / widths[0]) ** 2 + ((x - slant * y) / widths[1]) ** 2))
            return np.asarray(taps / taps.sum())

        square = 96 * np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
        tilt, roll = np.deg2rad([3.0, rng.uniform(-3, 3)])
        near = 6 / (6 + np.sin(tilt) * (square[:, 1] + 0.7 * square[:, 0]) / 96)
        square = square * near[:, None] * [1, np.cos(tilt)]
        turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        corners = square @ turn.T + np.array([60.0, 68.0]) + rng.uniform(-4, 4, 2)
        to = homography(corners, np.array([[0, 0], [0, 256], [256, 256], [256, 0]]) - 0.5)
        y, x = np.meshgrid(
            *(np.arange(-half * fine, (n - 1 + half) * fine + 1) / fine for n in (rows, cols)), indexing="ij"
        )
        a, b, c = np.tensordot(to, np.stack([y, x, np.ones_like(y)]), 1)
        i, j = np.rint(a / c).astype(int), np.rint(b / c).astype(int)
        known = (i >= 0) & (i < 256) & (j >= 0) & (j < 256)
        printed = np.where(known, pattern[i.clip(0, 255), j.clip(0, 255)], 1.0)
        made = scipy.signal.fftconvolve(printed, blur(fine), mode="same")[half * fine :: fine, half * fine :: fine]
        y, x = np.mgrid[:rows, :cols]
        light = 1 - 0.35 * ((y - rows / 2) ** 2 + (x - cols / 2) ** 2) / ((rows / 2) ** 2 + (cols / 2) ** 2)
        capture = light * (0.1 + 0.8 * made[:rows, :cols]) + rng.normal(0, 0.01, (rows, cols))
        start = time.perf_counter()
        found = kernelfit.find_psf(capture, pattern, oversample=step, corners=corners + rng.normal(0, 1, (4, 2)))
        seconds.append(time.perf_counter() - start)
        truth, own = np.zeros(found.kernel.shape), blur(step)
        cut = [(m - n) // 2 for m, n in zip(own.shape, truth.shape, strict=True)]
        own = own[max(cut[0], 0) : len(own) - max(cut[0], 0), max(cut[1], 0) : own.shape[1] - max(cut[1], 0)]
        at = [max(-one, 0) for one in cut]
        truth[at[0] : at[0] + own.shape[0], at[1] : at[1] + own.shape[1]] = own
        errors.append(relative_error(found.kernel, truth))
        inside.append(np.mean(np.abs(found.kernel - truth)[found.stderr > 0] < 1.96 * found.stderr[found.stderr > 0]))
    figures = f"{np.median(errors):7.4f} {max(errors):7.4f} {np.mean(inside):7.3f} {np.median(seconds):7.1f}"
    print(f"{'simulated':>9s} {figures}", flush=True)


def both(draws: int, side: int = 300) -> None:
    """Print how good kernels, corners and exponents are where a motion and a curve are found together, of 8 bits."""
    rng, images = np.random.default_rng(8), photographs(side)
    family, theta = FAMILIES["gamma"], np.array([2.2])
    print(f"{'side':>7s} {'kernel':>7s} {'worst':>7s} {'corners':>8s} {'worst':>7s} exponent off by at most")
    for where in SIDES:
        errors, corners, off = [], [], []
        for i in range(draws):
            light, kernel = (np.clip(images[i % len(images)], 1, 254) / 255) ** 2.2, kernels()[i % 5]
            matrix = random_motion(rng, "affine", light.shape, (1.0, 0.01, 3.0))
            made = [np.clip(one, 0, 1) for one in draw(rng, light, finer(light), kernel, matrix)]
            values = [light, made[0]]
            for j in range(2):
                coded = values[j] if where == ("target" if j == 0 else "image") else family.inverse(values[j], theta)
                values[j] = np.rint(255 * coded).astype(np.uint8)
            fit = kernelfit.find_kernel(*values, SIDE, register="affine", curve="gamma", curve_side=where)
            plain = kernelfit.find_kernel(255 * light, 255 * made[1], SIDE)
            errors.append(relative_error(fit.kernel, kernel) / relative_error(plain.kernel, kernel))
            corners.append(corner_error(fit.registration, matrix))
            off.append(abs(fit.curve.parameters[0] - 2.2))
        figures = f"{np.median(errors):7.3f} {max(errors):7.3f} {np.median(corners):8.4f} {max(corners):7.4f}"
        print(f"{where:>7s} {figures} {max(off):7.4f}", flush=True)


def audits(draws: int, side: int = 200) -> None:
    """Print what is said of kernels moved between the pixels, scaled, turned and wrong, and how right that is."""
    rng, images = np.random.default_rng(7), photographs(side)
    print(f"{'given':>20s} shift off, in its errors, scale in its errors, outcomes")
    for given in ("truth", "moved and scaled", "turned", "another"):
        off, errors, scales, said = [], [], [], []
        for i in range(draws):
            image, (kernel, other) = images[i % len(images)], (kernels()[(i + j) % 4] for j in (0, 1))
            kernel = np.roll(kernel, (1, 2), (0, 1)) if given == "turned" else kernel
            shift = rng.uniform(-2, 2, 2) if given == "moved and scaled" else np.zeros(2)
            factor = 1.3 if given == "moved and scaled" else 1.0
            made = scipy.ndimage.fourier_shift(np.fft.fft2(np.pad(kernel, 24)), shift)
            clean = factor * scipy.signal.fftconvolve(image, np.fft.ifft2(made).real, mode="same")
            target = clean + rng.normal(0, 0.01 * clean.std(), clean.shape)
            laid = {"turned": kernel[::-1, ::-1], "another": other}.get(given, kernel)
            found = kernelfit.audit(image, target, laid)
            said.append(found.outcome)
            if given != "another":
                own = [one.value - true for one, true in zip(found.shift, shift, strict=True)]
                off.append(max(map(abs, own)))
                errors += [value / one.stderr for value, one in zip(own, found.shift, strict=True)]
                scales.append((found.scale.value - factor) / found.scale.stderr)
        figures = f"{np.median(off):.4f} {np.std(errors):.2f} {np.std(scales):.2f}" if off else "-"
        told = ", ".join(f"{name} {said.count(name)}" for name in sorted(set(said)))
        print(f"{given:>20s} {figures} {told}", flush=True)


def times(side: int = 784) -> None:
    """Print processor time in plain fits, and elapsed time."""
    image = image_like_a_photograph(side, side)
    rng, fine = np.random.default_rng(4), finer(image)
    for kind, size in (("affine", (1.0, 0.01, 3.0)), ("homography", (1.0, 0.01, 3.0)), ("affine", (5.0, 0.05, 20.0))):
        target, _ = draw(rng, image, fine, kernels()[0], random_motion(rng, kind, image.shape, size))
        for register in (kind, None):
            kernelfit.find_kernel(image, target, SIDE, register=register)
        ratios = []
        for _ in range(5):
            both: list[tuple[float, float]] = []
            for register in (kind, None):
                start = time.process_time(), time.perf_counter()
                kernelfit.find_kernel(image, target, SIDE, register=register)
                both.append((time.process_time() - start[0], time.perf_counter() - start[1]))
            ratios.append([both[0][i] / both[1][i] for i in (0, 1)])
        cpu, wall = np.median(ratios, axis=0)
        print(f"{side}x{side} {kind}, up to {size[0]:g} degrees: {cpu:.1f} plain fits of CPU, {wall:.1f} elapsed")


def main() -> None:
    """Print the tables asked for."""
    words = sys.argv[1:]
    draws = int(words[-1]) if words and words[-1].isdigit() else 3
    tables: dict[str, Callable[[], None]] = {
        "motion": lambda: motions(draws, (1.0, 0.01, 3.0)),
        "start": lambda: motions(draws, (5.0, 0.05, 20.0)),
        "cover": lambda: cover(draws),
        "harm": lambda: harm(draws),
        "curve": lambda: curves(draws),
        "both": lambda: both(draws),
        "exponent": lambda: exponents(draws),
        "capture": lambda: captures(draws),
        "audit": lambda: audits(draws),
        "time": times,
    }
    for name in [word for word in words if word in tables] or tables:
        tables[name]()


if __name__ == "__main__":
    main()
