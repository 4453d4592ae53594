"""A zoo of kernels: the error of each solver against the truth, and what solver="auto" makes of it.

Run as ``python benchmarks/zoo.py [--sides 440 800] [--noise 0.1 1 5] [--seed 0]``; prints one row for each case and a
summary. The errors are relative, ``|k - truth| / |truth|``.
"""

import numpy as np
import scipy.special

SHAPES = ((15, 15), (21, 19), (31, 27))


def grid(shape, center=(0.0, 0.0)):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return rows - (shape[0] - 1) / 2 - center[0], cols - (shape[1] - 1) / 2 - center[1]


def over(shape, function, fine=5):
    """A function of (row, col) averaged over each tap's square."""
    y, x = grid(shape)
    steps = (np.arange(fine) - (fine - 1) / 2) / fine
    return sum(function(y + a, x + b) for a in steps for b in steps) / fine**2


def kernels(shape, seed=0):
    """{name: kernel}, all of a sum or a norm of one."""
    rng = np.random.default_rng([seed, *shape])
    y, x = grid(shape)
    scale = min(shape) / 15
    radius = np.hypot(y, x)

    def airy(a, b):
        u = 1.1 / scale * np.hypot(a, b) + 1e-9
        return (2 * scipy.special.j1(u) / u) ** 2

    def deltas():
        kernel = np.zeros(shape)
        spots = rng.choice(kernel.size, 3, replace=False)
        kernel.ravel()[spots] = [0.6, 0.3, 0.1]
        return kernel

    def streak():
        kernel = np.zeros(shape)
        for t in np.linspace(-1, 1, 4001):
            a, b = shape[0] / 2 - 0.5 + 3.2 * scale * t, shape[1] / 2 - 0.5 + 5.1 * scale * t
            i, j = int(a), int(b)
            u, v = a - i, b - j
            kernel[i : i + 2, j : j + 2] += np.outer([1 - u, u], [1 - v, v])
        return kernel

    def asymmetric():
        lobe = np.exp(-((y + scale) ** 2) / (5 * scale**2) - (x - scale) ** 2 / (9 * scale**2))
        return lobe - 0.35 * np.exp(-((y - 2 * scale) ** 2 + (x + 2.5 * scale) ** 2) / (6 * scale**2))

    found = {
        "gaussian wide": np.exp(-(y**2 + 0.7 * x**2 + 0.3 * x * y) / (2 * (2.2 * scale) ** 2)),
        "gaussian narrow": np.exp(-((y - 0.3) ** 2 + (x + 0.2) ** 2) / (2 * 0.9**2)),
        "moffat": (1 + (radius / (1.8 * scale)) ** 2) ** -2.5,
        "airy": over(shape, airy),
        "defocus disc": over(shape, lambda a, b: (np.hypot(a, b) < 4.3 * scale) * 1.0),
        "ring": over(shape, lambda a, b: ((np.hypot(a, b) < 5.4 * scale) & (np.hypot(a, b) > 3.3 * scale)) * 1.0),
        "box": over(shape, lambda a, b: ((np.abs(a) < 2.5 * scale) & (np.abs(b) < 3.5 * scale)) * 1.0),
        "motion streak": streak(),
        "three deltas": deltas(),
        "difference of gaussians": np.exp(-(radius**2) / (2 * (1.3 * scale) ** 2))
        - 0.25 * np.exp(-(radius**2) / (2 * (2.6 * scale) ** 2)),
        "exponential": np.exp(-radius / (1.6 * scale)),
        "white noise": rng.normal(size=shape),
        "smooth asymmetric": asymmetric(),
    }
    return {
        name: kernel / (kernel.sum() if kernel.min() >= 0 else np.linalg.norm(kernel)) for name, kernel in found.items()
    }


def photographs():
    """{name: gray photograph}: those of scikit-image that are shipped in its wheel."""
    from skimage import data

    found = {"camera": data.camera()}
    for name in ("astronaut", "coffee", "chelsea"):
        try:
            found[name] = getattr(data, name)().mean(axis=2)
        except Exception:  # noqa: BLE001 - not in the wheel, and no network
            continue
    return {name: np.asarray(image, dtype=float) for name, image in found.items()}
