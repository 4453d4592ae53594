"""
Colours, one by one
===================

A simple lens brings its colours to different focus, and lays them beside each other. From one picture through a good
lens and one through a simple one, the kernel of each colour is found with its own errors.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, shift
from skimage.data import astronaut

import kernelfit

rng = np.random.default_rng(3)
good = astronaut()[:360, 60:460].astype(float)
simple = np.empty_like(good)
for channel, (width, moved) in enumerate([(1.1, 0.8), (0.9, 0.0), (1.7, -1.2)]):  # red, green, blue
    simple[..., channel] = shift(gaussian_filter(good[..., channel], width), (0, moved), mode="nearest")
simple += rng.normal(0, 2, simple.shape)

fit = kernelfit.find_kernel(good, simple, 11, channels="separate", channel_axis=-1)
print(fit.kernel.shape)

# %%
# ``split_channels`` takes the result apart: what is measured, compared or drawn one kernel at a time takes its parts.

for name, one in kernelfit.split_channels(fit, ["red", "green", "blue"]).items():
    psf = one.psf()
    print(f"{name:6s} moved right by {psf.shift_cols} pixels, {psf.fwhm_along} wide")

# %%
# One figure for all, a verdict for each.

fit.plot(good, simple)
plt.show()

# %%
# The blur and the fringes are taken out colour by colour.

restored = np.stack(
    [kernelfit.deconvolve(simple[..., c], fit.kernel[c], origin=fit.convention.origin) for c in range(3)], axis=-1
)
axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")[1]
for ax, picture, title in ((axes[0], simple, "through the simple lens"), (axes[1], restored, "restored")):
    ax.imshow(np.clip(picture[40:190, 100:250] / 255, 0, 1))
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
