"""
What is new in the sky
======================

Two exposures of one field, months apart, through different air. The sharper one is blurred to the other by a kernel that
varies over the field, and taken off; what is left is noise, cosmic rays, and what has changed. The noise of the
difference is known pixel by pixel, and made white.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfit

rng = np.random.default_rng(5)
shape, reach = (240, 300), 14
near = np.arange(-reach, reach + 1)


def sky(stars, width):
    """Return stars (row, column, flux) whose width is a function of the column."""
    image = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach))
    for row, col, flux in stars:
        i, j, s = int(row), int(col), width(col)
        down, across = (np.exp(-((near + k - at) ** 2) / (2 * s**2)) for k, at in ((i, row), (j, col)))
        image[i : i + 2 * reach + 1, j : j + 2 * reach + 1] += flux * np.outer(down, across) / (2 * np.pi * s**2)
    return image[reach:-reach, reach:-reach]


stars = np.stack([rng.uniform(0, shape[0], 220), rng.uniform(0, shape[1], 220), 400 / rng.random(220) ** 0.8], axis=1)
new = np.array([[97.3, 180.6, 1500.0], [201.0, 60.2, 900.0]])
reference = sky(stars, lambda col: 1.2) + 150
science = sky(np.concatenate([stars * [1, 1, 1.2], new]), lambda col: 1.6 + 0.4 * col / shape[1]) + 200
gain, read_noise, full = 1.5, 6.0, 20000.0
reference, science = (
    np.minimum(rng.poisson(gain * image) / gain + rng.normal(0, read_noise / gain, shape), full)
    for image in (reference, science)
)
for image in (reference, science):
    image[rng.integers(0, shape[0], 12), rng.integers(0, shape[1], 12)] += rng.uniform(500, 3000, 12)

exposures = [
    kernelfit.Exposure(image, noise=(gain, read_noise), saturated=(None, full)) for image in (science, reference)
]
difference = kernelfit.subtract(*exposures, 11, variation=1, decorrelate=True)
print(difference)

# %%
# The two images differ at every star; the difference does at the two new ones, in circles. Cosmic rays of the science image
# are points in dark rings, which come of making the noise white, and those of the reference are holes. Masked pixels are
# gray: the edge, and all that the kernel reaches from a saturated star.

axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")[1]
pictures = (science - np.median(science), science - np.median(science) - reference + np.median(reference))
for ax, picture, title in zip(
    axes, (*pictures, difference.image), ("science", "as they are", "difference"), strict=True
):
    ax.set_facecolor("0.6")
    ax.imshow(picture, cmap="gray", vmin=-60, vmax=60)
    ax.set_title(title)
    ax.set_axis_off()
axes[2].scatter(new[:, 1], new[:, 0], s=200, facecolors="none", edgecolors="tab:orange")
plt.show()

# %%
# In units of its standard deviation it is noise, as far as is not left out as an outlier.

values = difference.significance[~difference.mask & ~difference.rejected]
print(f"{values.size} pixels, standard deviation {values.std():.3f}, {np.mean(np.abs(values) > 3):.4f} beyond 3")
