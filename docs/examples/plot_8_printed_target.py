"""
A camera measured with a printed target
=======================================

A sheet of black and white noise, photographed once, tells the point spread function of lens and pixels on a grid finer
than the pixels: what the camera does to detail that it cannot show. The photograph here is made on the computer, so that
the truth is known.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.signal

import kernelfit

# %%
# The target has 200 by 200 cells. It stands askew before the camera, three degrees from square, and takes 75 pixels of
# the capture: 2.7 cells to a pixel, finer than the camera can see. The lens blurs it, its corners are darker, and there is
# noise of one per cent of white.

rng = np.random.default_rng(0)
pattern = rng.integers(0, 2, (200, 200))
y, x = (np.arange(-36, 110 * 12 + 36) / 12 for _ in range(2))  # twelve points to a pixel
Y, X = y[:, None], x[None, :]
depth = 1 + 4e-4 * (X - 55) - 3e-4 * (Y - 55)
row = np.rint(((Y - 17) * 1.0 + 0.03 * (X - 17)) / depth * 200 / 75).astype(int)
col = np.rint(((X - 19) * 0.99 - 0.025 * (Y - 17)) / depth * 200 / 75).astype(int)
inside = (row >= 0) & (row < 200) & (col >= 0) & (col < 200)
paper = np.where(inside, pattern[np.clip(row, 0, 199), np.clip(col, 0, 199)], 0.8)


def blur(points):
    """Return the point spread function on a grid of so many points to a pixel."""
    at = np.arange(-3 * points, 3 * points + 1) / points
    v, u = at[:, None], at[None, :]
    taps = np.exp(-0.5 * (v / 0.4) ** 2 - 0.5 * ((u - 0.3 * v) / 0.55) ** 2)
    return taps / taps.sum()


light = scipy.signal.fftconvolve(paper, blur(12), mode="same")[36:-36:12, 36:-36:12]
i, j = np.mgrid[:110, :110]
vignetting = 1 - 0.3 * ((i - 55) ** 2 + (j - 55) ** 2) / 55**2 / 2
capture = vignetting * (20 + 180 * light) + rng.normal(0, 1.8, light.shape)

# %%
# The target is looked for: no corners are given.

found = kernelfit.find_psf(capture, pattern, oversample=4, shape=25)
print(found)

# %%
# The point spread function, four taps to a pixel, and the truth. A printed target in front of a real camera gives such a
# picture in some seconds.

truth = blur(4)
error = np.linalg.norm(found.kernel - truth) / np.linalg.norm(truth)
print(f"error of the kernel: {100 * error:.1f} %")
axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")[1]
corners = np.vstack([found.registration.corners, found.registration.corners[:1]])
axes[0].imshow(capture, cmap="gray")
axes[0].plot(corners[:, 1], corners[:, 0], "r", linewidth=1)
axes[0].set_title("capture, and where the target is")
for ax, taps, title in ((axes[1], found.kernel, "found"), (axes[2], truth, "truth")):
    ax.imshow(taps, cmap="magma", vmin=0, vmax=truth.max(), extent=(-3.125, 3.125, 3.125, -3.125))
    ax.set_title(title)
    ax.set_xlabel("pixels of the capture")
plt.show()

# %%
# The modulation transfer function reaches beyond the camera's Nyquist frequency, half a period a pixel. What passes there
# comes back as a false pattern (moire). The bands are two standard errors wide on either side.

mtf = found.mtf
wave = np.exp(-2j * np.pi * np.outer(mtf.frequency, np.arange(25) - 12) / 4)
ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")[1]
for values, errors, name, axis in ((mtf.rows, mtf.rows_stderr, "down", 1), (mtf.cols, mtf.cols_stderr, "across", 0)):
    (line,) = ax.plot(mtf.frequency, values, label=f"waves {name}")
    ax.fill_between(mtf.frequency, values - 2 * errors, values + 2 * errors, color=line.get_color(), alpha=0.3)
    ax.plot(mtf.frequency, np.abs(wave @ truth.sum(axis=axis)), "k:", linewidth=1)
ax.axvline(0.5, color="gray", linewidth=1)
ax.set_xlabel("periods per pixel of the capture")
ax.set_ylabel("what passes")
ax.legend(frameon=False)
plt.show()

# %%
# How to take such a picture: print noise at a size at which a cell is a third of a pixel to two pixels, light it evenly,
# focus, expose so that paper is not white to the limit, take the raw file, one colour of it, without sharpening and without
# a tone curve; the verdict says where the target is not linear in the light. In a shell:
#
# .. code-block:: sh
#
#    kernelfit psf capture.tif --target pattern.png --channel green --oversample 4 -o psf.npz --plot psf.png
