"""
The spread of light in three dimensions
=======================================

A stack of focal planes, and what a microscope's blur, wider along the depth, made of it. The kernel is found with three numbers for
its shape; a mask leaves a spoilt plane out.
"""

import numpy as np
import scipy.ndimage

import kernelfit

rng = np.random.default_rng(0)
beads = np.zeros((24, 96, 128))
beads[tuple(rng.integers(0, n, 900) for n in beads.shape)] = rng.uniform(200, 4000, 900)
sharp = scipy.ndimage.gaussian_filter(beads, 0.6)
blurred = 10 + scipy.ndimage.gaussian_filter(sharp, (1.8, 0.9, 1.1), mode="mirror", radius=(4, 3, 3))
blurred += rng.normal(0, 0.5, blurred.shape)
spoilt = np.zeros(blurred.shape, dtype=bool)
spoilt[11] = True
blurred[11] = 0

# %%
# Planes, rows and columns, in this order, as in the arrays:

fit = kernelfit.find_kernel(sharp, blurred, (9, 7, 7), boundary="mirror", background=0, mask=spoilt)
print(fit.summary())

# %%
# Three orthogonal cuts through the largest tap, the largest taps along each axis, profiles with their errors, and what is left of the
# middle plane:

fit.plot(sharp, blurred)

# %%
# The widths along the three axes, from the second moments, against 1.8, 0.9 and 1.1 (less what the radius cuts off):

places = np.indices(fit.kernel.shape) - np.reshape(fit.convention.origin, (3, 1, 1, 1))
weights = fit.kernel / fit.kernel.sum()
print(np.sqrt((weights * places**2).sum(axis=(1, 2, 3)) - (weights * places).sum(axis=(1, 2, 3)) ** 2).round(2))
