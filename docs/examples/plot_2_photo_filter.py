"""
A photo filter taken apart
==========================

What does ``GaussianBlur(2)`` of Pillow really do? Its documentation says that it approximates a Gaussian by extended
box filters. A photograph before and after is enough to see how well.
"""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageFilter
from skimage.data import camera

import kernelfit

before = camera()
after = np.asarray(Image.fromarray(before).filter(ImageFilter.GaussianBlur(2)))
fit = kernelfit.find_kernel(before, after, 15, errors="sandwich")
print(fit.summary())

# %%
# The pixels are whole numbers, so the noise of the fit is that of rounding, ``1 / sqrt(12) = 0.29``, and more, since the
# filter rounds in between, too. That makes it alike from pixel to pixel along the columns, which the error bars allow
# for: ``errors="sandwich"``. (Without it the verdict would say that the plain ones are wrong.)
# Beside the kernel stands the Gaussian that the name promises.

y, x = np.mgrid[-7:8, -7:8]
gaussian = np.exp(-(x**2 + y**2) / (2 * 2.0**2))
gaussian /= gaussian.sum()

axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
kernelfit.plot.kernel(fit, axes[0])
kernelfit.plot.cuts(fit, axes[1])
axes[1].plot(np.arange(-7, 8), gaussian[7], "k--", linewidth=1, label="Gaussian, sigma 2")
axes[1].legend(frameon=False)
plt.show()

# %%
# The two differ by far more than the errors of the taps: a Gaussian it is not.

print(kernelfit.compare_kernels(fit, gaussian))

# %%
# A sharpening filter next: ``DETAIL``. Its taps are known (10 in the middle, -1 beside it, over 6), and found again.
# Where the result was cut off at 0 or 255 it is no convolution any more; such pixels are left out, and ``fit.notes`` says
# how many.

sharp = np.asarray(Image.fromarray(before).filter(ImageFilter.DETAIL))
fit = kernelfit.find_kernel(before, sharp, 3)
print((fit.kernel * 6).round(3) + 0.0)
print(fit.notes)
