"""Draw overview.png, the picture of the README: `python docs/overview.py`."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from scipy.signal import convolve2d
from skimage.data import camera

import kernelfit

matplotlib.use("Agg")
y, x = np.mgrid[-6:7, -7:8]
streak = np.exp(-((0.87 * x - 0.5 * y) ** 2) / (2 * 3.0**2) - (0.5 * x + 0.87 * y) ** 2 / (2 * 1.1**2))
sharp = camera().astype(float)
blurred = convolve2d(sharp, streak / streak.sum(), mode="same")
blurred += np.random.default_rng(0).normal(0, 0.02 * blurred.std(), blurred.shape)
fit = kernelfit.find_kernel(sharp, blurred, (17, 19))
figure = fit.plot(sharp, blurred)
data = io.BytesIO()
figure.savefig(data, dpi=75)
Image.open(data).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
    Path(__file__).with_name("overview.png"), optimize=True
)
