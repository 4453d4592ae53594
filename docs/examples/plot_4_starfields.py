"""
Two nights on one field of stars
================================

The same sky, seen through better and through worse air. To find what changed, the sharper image is first blurred to the
other one's point spread function; the kernel that does so is found in the images themselves, without any star being
measured. The sky is a part of the Hubble Deep Field (NASA; STScI).
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import fftconvolve
from skimage.data import hubble_deep_field

import kernelfit

rng = np.random.default_rng(2)
sky = hubble_deep_field()[200:600, 250:700].astype(float).mean(axis=2)


def moffat(fwhm, ellipticity, angle, beta=3.0, side=31):
    """Return a Moffat profile, its sum one."""
    y, x = np.mgrid[-(side // 2) : side // 2 + 1, -(side // 2) : side // 2 + 1]
    u = x * np.cos(angle) - y * np.sin(angle)
    v = x * np.sin(angle) + y * np.cos(angle)
    width = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    profile = (1 + (u**2 + (v / (1 - ellipticity)) ** 2) / width**2) ** -beta
    return profile / profile.sum()


first = fftconvolve(sky, moffat(2.0, 0.0, 0.0), mode="same")
second = fftconvolve(sky, moffat(4.5, 0.25, np.radians(30)), mode="same")
second[230 - 15 : 230 + 16, 310 - 15 : 310 + 16] += 900 * moffat(4.5, 0.25, np.radians(30))  # a new star
first += rng.normal(0, 0.3, first.shape)
second += rng.normal(0, 0.3, second.shape)

fit = kernelfit.find_kernel(first, second, 21, solver="auto")
print(fit.psf())

# %%
# The difference of the images as they are shows every star; after matching, only what is new.

matched = second - fit.predict(first)
axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")[1]
kernelfit.plot.kernel(fit, axes[0])
for ax, picture, title in ((axes[1], second - first, "before"), (axes[2], matched, "after matching")):
    ax.imshow(picture, cmap="gray", vmin=-6, vmax=6)
    ax.set_title(f"difference, {title}")
    ax.set_axis_off()
plt.show()

# %%
# The brightest pixel of the matched difference is the star that was put in at row 230, column 310.

print(tuple(int(i) for i in np.unravel_index(np.nanargmax(matched), matched.shape)))
