"""
A store larger than what is kept of it
======================================

Two large arrays on disk, part of them without data. Pixels are read in blocks; what is kept is one small file of sums, from
which the same call goes on after a crash.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage

import kernelfit

rng = np.random.default_rng(1)
folder = Path(tempfile.mkdtemp())
shape = 1500, 1800
image = np.lib.format.open_memmap(folder / "image.npy", mode="w+", dtype=np.float32, shape=shape)
target = np.lib.format.open_memmap(folder / "target.npy", mode="w+", dtype=np.float32, shape=shape)
image[:] = 100 + 20 * scipy.ndimage.gaussian_filter(rng.normal(size=shape), 0.7)
target[:] = scipy.ndimage.gaussian_filter(image, (1.2, 0.8), mode="mirror") + rng.normal(0, 0.3, shape)
target[300:700, 900:1300] = -9999  # no data
target.flush()

# %%
# Pixels without data count as pixels unless something says so. The verdict notices.

image, target = (np.load(folder / name, mmap_mode="r") for name in ("image.npy", "target.npy"))
print(kernelfit.find_kernel(image, target, 9).verdict.name)

# %%
# A mask is read block by block as well. ``checkpoint`` keeps the sums; the second call finds all of it done.

mask = np.asarray(target) == -9999
for _ in range(2):
    stats = kernelfit.accumulate_stream([(image, target, mask)], 9, checkpoint=folder / "sums.npz")
fit = stats.solve()
print(fit.summary())
size, kept = (folder / "target.npy").stat().st_size, (folder / "sums.npz").stat().st_size
print(f"{2 * size / 1e6:.0f} MB of pixels, {kept / 1e6:.2f} MB of sums")

# %%
# The kernel, and how well it is known:

axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
kernelfit.plot.kernel(fit, axes[0])
kernelfit.plot.cuts(fit, axes[1])
plt.show()
