"""
A blur between two pictures that are turned
===========================================

A photograph, and the same scene turned by 0.6 of a degree, a little larger, shifted by some pixels, out of focus and noisy:
as if the camera had been taken off the tripod and put back. Which blur lies between them?
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
import scipy.signal
from skimage.data import camera

import kernelfit

scene = camera().astype(float)
y, x = np.mgrid[-7:8, -7:8]
blur = np.exp(-(y**2 / 8 + x**2 / 5 + x * y / 9))
blur /= blur.sum()

turn, scale, middle = np.deg2rad(0.6), 1.005, 255.5
row, col = np.indices(scene.shape) - middle
moved = scipy.ndimage.map_coordinates(
    scene,
    [
        middle + (np.cos(turn) * row + np.sin(turn) * col) / scale + 2.3,
        middle + (np.cos(turn) * col - np.sin(turn) * row) / scale - 1.6,
    ],
    order=5,
    mode="nearest",
)
target = scipy.signal.fftconvolve(moved, blur, mode="same")
target += np.random.default_rng(0).normal(0, 0.01 * target.std(), target.shape)

# %%
# Without the motion the verdict says what is wrong, and what helps.

plain = kernelfit.find_kernel(scene, target, 15)
print(plain.findings[0].verdict.name, "/", [f.detail for f in plain.findings if f.verdict.name == "MISALIGNED"])

# %%
# With it the blur comes out, and the motion, each with its error.

fit = kernelfit.find_kernel(scene, target, 15, register="similarity")
for name, (value, error) in fit.registration.parameters.items():
    print(f"{name:10s} {value:9.5f} +- {error:.1g}")
print(f"error of the kernel: {np.linalg.norm(fit.kernel - blur) / np.linalg.norm(blur):.3f}, "
      f"without the motion {np.linalg.norm(plain.kernel - blur) / np.linalg.norm(blur):.2f}")  # fmt: skip

axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")[1]
for ax, kernel, title in zip(axes, (blur, plain.kernel, fit.kernel), ("the blur", "no motion", "with it"), strict=True):
    ax.imshow(kernel, cmap="gray")
    ax.set_title(title)
    ax.axis("off")
plt.show()
