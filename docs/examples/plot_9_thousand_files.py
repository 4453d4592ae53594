"""
A thousand files, two processes
===============================

Many pairs of small files that share a kernel. Each process reads some of the files and returns one small set of sums; ``sum`` of these is
what all of the pixels say.
"""

import functools
import operator
import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage

import kernelfit

folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(3)
kernel = rng.random((5, 7))
kernel /= kernel.sum()
for number in range(1000):
    image = rng.normal(100, 20, (60, 80)).astype(np.float32)
    target = scipy.ndimage.convolve(image, kernel, mode="mirror") + rng.normal(0, 5, image.shape)
    np.save(folder / f"sharp-{number:04}.npy", image)
    np.save(folder / f"blurred-{number:04}.npy", target.astype(np.float32))

# %%
# A function of the names of some files. One that cannot be read stops the run; to leave it out is up to you.


def sums_of(numbers):
    """Return the sums of some pairs, read one after the other."""

    def pairs():
        for number in numbers:
            yield tuple(np.load(folder / f"{name}-{number:04}.npy") for name in ("sharp", "blurred"))

    return kernelfit.accumulate_stream(pairs(), (5, 7), workers=1)


# %%
# Batches of 50 files go to two processes; ``concurrent.futures``, Dask, Ray or Spark do the same
# with the same function. The order of the batches decides the last bits of the sum, and the processes do not.

batches = [range(first, first + 50) for first in range(0, 1000, 50)]
parts = joblib.Parallel(n_jobs=2)(joblib.delayed(sums_of)(batch) for batch in batches)
stats = functools.reduce(operator.add, parts)
fit = stats.solve()
print(fit.summary())
print(f"error of a tap {np.abs(fit.kernel - kernel).max():.2g}, said to be {fit.stderr.max():.2g} at most")

# %%
# One process finds the same bits, if it adds the same batches:

assert sum(map(sums_of, batches)).gram.tobytes() == stats.gram.tobytes()

axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
kernelfit.plot.kernel(fit, axes[0])
kernelfit.plot.cuts(fit, axes[1])
plt.show()
