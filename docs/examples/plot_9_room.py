"""
The response of a room
======================

A dry signal was played, and recorded as it sounded in a room. What the room does to a click is its impulse response; from
it follow the first reflections, and how long sound takes to die away.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.signal

import kernelfit

rng = np.random.default_rng(4)
rate = 8000
n = 1600  # 0.2 s
room = 0.15 * rng.normal(size=n) * np.exp(-np.arange(n) / 200)  # the tail, all reflections at once
room[:120] = 0
room[[0, 37, 71, 96]] = 1.0, 0.45, -0.3, 0.25  # the direct sound and the walls
dry = scipy.signal.lfilter([1, -0.6], [1, -0.7], rng.normal(size=6 * rate))
wet = scipy.signal.fftconvolve(dry, room)[: len(dry)] + rng.normal(0, 0.02, len(dry))

# %%
# A response begins at lag 0 and goes on: ``lags=(first, last)``.

fit = kernelfit.find_kernel(dry, wet, lags=(0, n - 1))
print(fit.summary())

# %%
# Backwards sums of squares are the decay that is heard when a sound ends (M. R. Schroeder, J. Acoust. Soc. Am. 37 (1965) 409,
# doi:10.1121/1.1909343). Its slope between -5 and -25 dB tells the reverberation time.

energy = np.cumsum(fit.kernel[::-1] ** 2)[::-1]
decay = 10 * np.log10(energy / energy[0])
first, last = np.argmax(decay < -5), np.argmax(decay < -25)
print(f"sound falls by 60 dB in {3 * (last - first) / rate:.2f} s")

axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")[1]
axes[0].plot(1e3 * np.arange(n) / rate, fit.kernel, linewidth=0.7)
axes[0].plot(
    1e3 * np.array([0, 37, 71, 96]) / rate, room[[0, 37, 71, 96]], "x", color="C1", label="walls, as they were put in"
)
axes[0].set(xlim=(0, 60), xlabel="milliseconds", ylabel="response")
axes[0].legend(frameon=False)
axes[1].plot(np.arange(n) / rate, decay)
axes[1].plot(np.array([first, last]) / rate, decay[[first, last]], "o")
axes[1].set(ylim=(-60, 2), xlabel="seconds", ylabel="what is left, dB")
plt.show()
