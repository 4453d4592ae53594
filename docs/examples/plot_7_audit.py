"""
Half a pixel between a kernel and its picture
=============================================

A data set of reduced photographs comes with the kernels that made them. Do they? An audit holds a kernel against the
pair that it is said to explain.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
from skimage.data import camera

import kernelfit

# %%
# The published kernel is a slanting blur of 11 by 11 pixels of the large picture. What made the small picture is the same
# kernel moved by half a pixel, so that target pixels stand in the middle of blocks of two by two, laid on it as a
# correlation, before every second pixel was kept and rounded. Such a thing happens: nobody sees half a pixel.

y, x = np.mgrid[-5:6, -5:6]
published = np.exp(-0.5 * ((x + 0.6 * y) / 1.6) ** 2 - 0.5 * (y / 1.2) ** 2) * (1 + 0.3 * np.tanh(x - y))
published /= published.sum()
moved = scipy.ndimage.shift(np.pad(published, 2), (0.5, 0.5), order=3)
large = camera()
blurred = scipy.ndimage.correlate(large.astype(float), moved, mode="mirror")
small = np.clip(np.rint(blurred[::2, ::2]), 0, 255).astype(np.uint8)

found = kernelfit.audit(large, small, published)
print(found)

# %%
# The array turns out to be turned, as correlation turns it, and to lie half a pixel off, with an error of a ten-thousandth
# of a pixel. Chi squared per degree of freedom tells what each freedom is worth; 1 is the noise that the best kernel
# leaves, here that of rounding. The files of the data set would say the same in a shell:
#
# .. code-block:: sh
#
#    kernelfit audit large.png small.png published.npy --stride 2
#
# What half a pixel does to the fit, in gray levels:

steps = {step.name: step.unexplained for step in found.steps}
spread = np.std(small)
ax = plt.subplots(figsize=(7, 3), layout="constrained")[1]
bars = ax.barh(list(steps)[::-1], [spread * np.sqrt(left) for left in list(steps.values())[::-1]])
ax.bar_label(bars, fmt="%.2g", padding=4)
ax.margins(x=0.1)
ax.set_xlabel("typical difference from the small picture, gray levels")
plt.show()

# %%
# A kernel of somebody else's is a different matter: the best shift and factor do not help.

other = np.exp(-0.5 * (x / 1.2) ** 2 - 0.5 * (y / 2.4) ** 2)
print(kernelfit.audit(large, small, other / other.sum()).verdict)
