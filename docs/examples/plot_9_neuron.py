"""
The receptive field of a neuron
===============================

A film of 8 x 9 flickering squares is shown, and the spikes of a neuron are counted in each frame. What in the film, how long
ago, made it fire? Each square is a channel of the stimulus, the counts are the response, and the kernel is the receptive field
in space and time.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfit

rng = np.random.default_rng(8)
frames, rows, cols, n_lags = 20000, 8, 9, 8
y, x = np.mgrid[:rows, :cols]
centre = np.exp(-((y - 3) ** 2 + (x - 5) ** 2) / 3) - 0.35 * np.exp(-((y - 3) ** 2 + (x - 5) ** 2) / 12)
time = np.array([0, 0.3, 1, 0.8, 0.2, -0.3, -0.25, -0.1])
field = 0.2 * centre[..., None] * time

film = rng.choice([-1.0, 1.0], size=(frames, rows, cols))
stimulus = film.reshape(frames, -1)
rate = 1.5 + sum(np.convolve(stimulus[:, c], field.reshape(-1, n_lags)[c])[:frames] for c in range(rows * cols))
spikes = rng.poisson(rate.clip(0))
print(f"{spikes.mean():.2f} spikes a frame")

# %%
# ``channels="mixed"`` finds a kernel from each channel of the stimulus to each neuron, here one. The background is the
# rate without a stimulus, ``noise="poisson"`` says that counts scatter the more the larger the rate.

fit = kernelfit.find_kernel(
    stimulus, spikes[:, None], lags=(0, n_lags - 1), channel_axis=-1, channels="mixed", background=0, noise="poisson"
)
print(fit.summary())

# %%
# Little of the counts is explained, and yet the field is known to a small part of its peak: what is left is plain noise.

found = fit.kernel[0].reshape(rows, cols, n_lags)
errors = fit.stderr[0].reshape(rows, cols, n_lags)
print(f"peak {found.max():.3f} +- {errors[np.unravel_index(found.argmax(), found.shape)]:.3f}, true {field.max():.3f}")
print(f"inside two standard errors: {np.mean(np.abs(found - field) < 2 * errors):.0%} of {found.size} taps")

figure, axes = plt.subplots(1, 6, figsize=(13, 2.6), layout="constrained")
for lag, ax in enumerate(axes):
    picture = ax.imshow(found[..., lag + 1], cmap="RdBu_r", vmin=-0.12, vmax=0.12)
    ax.set_title(f"{lag + 1} frames ago")
    ax.set_axis_off()
figure.colorbar(picture, ax=axes, label="spikes per unit of contrast")
plt.show()

# %%
# Time in the middle of the field, with its errors, and what was put in.

ax = plt.subplots(figsize=(6, 3.3), layout="constrained")[1]
ax.errorbar(range(n_lags), found[3, 5], 2 * errors[3, 5], fmt="o", capsize=3, label="found, two standard errors")
ax.plot(range(n_lags), field[3, 5], "k--", linewidth=1, label="as it was put in")
ax.set(xlabel="frames ago", ylabel="kernel")
ax.legend(frameon=False)
plt.show()
