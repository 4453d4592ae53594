"""Print how often `check_boundary` names the boundary that a target was made with, over 200 seeded scenes.

Run as ``python -m benchmarks.boundary``. Each scene is a crop of a photograph or 1/f noise, blurred under one of five
boundaries, or ("unknown") as a crop of a larger blurred image, with noise of 1% of the target's deviation. An answer is
right if it is the true boundary, or equal to it by construction ("symm" and "nearest" for kernels that reach one pixel
beyond the edge); for "unknown" if no boundary is said to fit. The kernel is found without a boundary, and a second time
with one declared that is true or wrong in turn, to count how often `find_kernel` itself speaks up.
"""

import numpy as np
import scipy.ndimage
from skimage import data

from kernelfit import Verdict, apply_kernel, check_boundary, find_kernel

from .common import image_like_a_photograph

TRUTHS = ["fill", "wrap", "symm", "mirror", "nearest", "unknown"]
DECLARED = ["fill", "wrap", "symm", "mirror", "nearest"]
NOISE = 0.01


def kernel(rng):
    """Return a kernel of a random family, from 3 to 11 taps a side, rarely square, of sum one."""
    rows, cols = rng.integers(3, 12, 2)
    y, x = np.mgrid[:rows, :cols]
    y, x = (y - (rows - 1) / 2) / rows, (x - (cols - 1) / 2) / cols
    family = rng.integers(4)
    if family == 0:
        taps = np.exp(-8 * (x**2 + y**2))
    elif family == 1:
        taps = np.ones((rows, cols))
    elif family == 2:
        taps = rng.random((rows, cols))
    else:
        taps = np.exp(-4 * (np.abs(x - 0.1) + np.abs(y + 0.1)))
    return taps / taps.sum()


def scene(seed):
    """Return the true boundary, the image, the target and the kernel."""
    rng = np.random.default_rng([2026, seed])
    truth = TRUTHS[seed % len(TRUTHS)]
    rows, cols = rng.integers(90, 200, 2)
    margin = 12
    size = rows + 2 * margin, cols + 2 * margin
    if rng.integers(2):
        photo = [data.camera, data.moon, data.coins, data.page][rng.integers(4)]().astype(float)
        if photo.shape[0] < size[0]:
            photo = scipy.ndimage.zoom(photo, 2, order=1)
        at = [rng.integers(n - k + 1) for n, k in zip(photo.shape, size, strict=True)]
        whole = photo[at[0] : at[0] + size[0], at[1] : at[1] + size[1]]
    else:
        whole = image_like_a_photograph(*size, seed=seed)
    taps = kernel(rng)
    image = whole[margin:-margin, margin:-margin]
    if truth == "unknown":
        target = apply_kernel(whole, taps)[margin:-margin, margin:-margin]
    else:
        target = apply_kernel(image, taps, boundary=truth)
    return truth, image, target + rng.normal(0.0, NOISE * target.std(), target.shape), taps


def main(count=200):
    """Print the answers."""
    right, confused = 0, {}
    spoke, silent, alarms = 0, 0, 0
    for seed in range(count):
        truth, image, target, taps = scene(seed)
        found = check_boundary(image, target, find_kernel(image, target, taps.shape))
        hit = truth in found.equal if truth != "unknown" else found.best is None
        right += hit
        if not hit:
            confused.setdefault((truth, found.best), []).append(seed)
        declared = DECLARED[seed // len(TRUTHS) % len(DECLARED)]
        fit = find_kernel(image, target, taps.shape, boundary=declared)
        doubted = any(f.verdict is Verdict.WRONG_BOUNDARY for f in fit.findings)
        if declared == truth or declared in found.equal:
            alarms += doubted
        else:
            spoke, silent = spoke + doubted, silent + (not doubted)
    print(f"check_boundary right in {right} of {count} scenes ({100 * right / count:.1f} %)")
    for (truth, answer), seeds in sorted(confused.items(), key=str):
        print(f"  {truth}: answered {answer} {len(seeds)} times (scenes {', '.join(map(str, seeds))})")
    print(f"find_kernel with a wrong boundary declared: doubted {spoke} of {spoke + silent}; "
          f"with the true one: doubted {alarms} of {count - spoke - silent}")  # fmt: skip


if __name__ == "__main__":
    main()
