"""
A reduced photograph taken apart
================================

Which filter does a program lay on a photograph before it keeps every fourth pixel? Pillow's ``LANCZOS`` here; a camera,
a website or a network's pooling layer is asked in the same way. It is the kernel that super-resolution needs to know.
"""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage.data import camera

import kernelfit

large = camera()
reduced = Image.fromarray(large).resize((128, 128), Image.Resampling.LANCZOS)
small = np.asarray(reduced)

# %%
# Pixel t of the small picture stands in the middle of a block of four. With a kernel as even or odd as the stride that is
# ``offset=stride // 2``: pixel 4 t + 2 and as many taps on its left as on its right, it included.

fit = kernelfit.find_kernel(large, small, 26, stride=4, offset=2)
print(fit.summary())

# %%
# The taps are pixels of the large picture. Beside them stands Lanczos's formula, stretched by four: no more than 24 by 24
# are not zero, with the ripples that are to keep edges crisp.

x = (np.arange(26) - 12.5) / 4
lanczos = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
lanczos /= lanczos.sum()
line = fit.kernel.sum(axis=0)
print(f"largest difference from the formula: {np.abs(line - lanczos).max():.1e} of {lanczos.max():.2f}")

axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
kernelfit.plot.kernel(fit, axes[0])
axes[1].plot(x, line, "o", label="found")
axes[1].plot(x, lanczos, "k--", linewidth=1, label="Lanczos")
axes[1].set_xlabel("pixels of the small picture")
axes[1].legend(frameon=False, loc="upper right")
plt.show()

# %%
# A small picture holds up to half a period a pixel of its own, an eighth of a period a pixel of the large one. Detail
# finer than that should not pass the filter: what passes comes back as a false pattern. The mean of each block, as
# ``BOX`` or a pooling layer takes it, lets much more of it through.

box = Image.fromarray(large).resize((128, 128), Image.Resampling.BOX)
mean = kernelfit.find_kernel(large, np.asarray(box), 4, stride=4, offset=2)
frequency = np.linspace(0, 0.5, 200)
ax = plt.subplots(figsize=(6, 3.5), layout="constrained")[1]
for found, name in ((fit, "LANCZOS"), (mean, "BOX")):
    taps = found.kernel.sum(axis=0)
    response = np.exp(-2j * np.pi * np.outer(frequency, np.arange(len(taps)))) @ taps
    ax.plot(frequency, np.abs(response), label=name)
ax.axvline(1 / 8, color="gray", linewidth=1)
ax.set_xlabel("periods per pixel of the large picture")
ax.set_ylabel("what passes")
ax.legend(frameon=False)
plt.show()

# %%
# The kernel makes the small picture again, to the rounding of its whole numbers. Without a stride it makes the blurred
# picture from which the pixels were taken.

again = fit.predict(large)
inside = ~np.isnan(again)
print(f"typical difference: {np.std((again - small)[inside]):.2f} gray levels")
blurred = kernelfit.apply_kernel(large, fit.kernel, boundary="symm")
print(blurred.shape, np.allclose(blurred[2::4, 2::4][inside], again[inside]))
