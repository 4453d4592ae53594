"""
A lens out of focus
===================

A point out of focus becomes a disc. From one picture that is sharp and one that is not, the disc is found, measured, and
taken out again.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import convolve2d
from skimage.data import camera

import kernelfit

rng = np.random.default_rng(1)
sharp = camera().astype(float)
y, x = np.mgrid[-5:6, -5:6]
disc = np.clip(4.5 - np.hypot(x, y) + 0.5, 0, 1)
disc /= disc.sum()
blurred = convolve2d(sharp, disc, mode="same", boundary="symm")
blurred += rng.normal(0, 0.03 * blurred.std(), blurred.shape)

# %%
# Plain least squares is right on average, and noisy. ``solver="auto"`` picks a prior that the data choose, or few taps,
# or taps that are not negative, and says which.

plain = kernelfit.find_kernel(sharp, blurred, 13)
fit = kernelfit.find_kernel(sharp, blurred, 13, solver="auto")
print(fit.solver.replace(" (", "\n(", 1))

axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")[1]
kernelfit.plot.kernel(plain, axes[0], title="least squares")
kernelfit.plot.kernel(fit, axes[1], title="auto")
axes[2].imshow(np.pad(disc, 1), cmap="magma")
axes[2].set_title("truth")
plt.show()

# %%
# As a point spread function: a disc of radius 4.5 is 9 pixels wide.

print(fit.psf())

# %%
# May it be believed? The residual should show nothing of the photograph.

fit.plot(sharp, blurred)
plt.show()

# %%
# With the kernel at hand the blur is taken out of the picture.

restored = kernelfit.deconvolve(blurred, fit.kernel)
axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")[1]
for ax, picture, title in ((axes[0], blurred, "blurred"), (axes[1], restored, "restored")):
    ax.imshow(picture[60:260, 130:330], cmap="gray", vmin=0, vmax=255)
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
