"""Finding a kernel from a pair of images in memory: what it costs, and how far off it is.

One class per kind of answer. Machine code is compiled or loaded before anything is measured: the first call is another
question.
"""

import numpy as np
import scipy.signal

from kernelfit import choose_method, find_kernel

from .common import FULL, KERNELS, NOISES, SIZES, make_scene, ratio_of_times, relative_error


class FindKernel:
    """Time and error of `find_kernel` as a user calls it: all cores, nothing assumed beyond the edges."""

    params = (KERNELS, SIZES, NOISES)
    param_names = ("kernel", "size", "noise")
    timeout = 300

    def setup(self, kernel, size, noise):
        self.scene = make_scene(kernel, size, noise)
        self.find()

    def find(self):
        """Solve the scene."""
        return find_kernel(self.scene.image, self.scene.target, self.scene.shape)

    def time_find(self, kernel, size, noise):
        self.find()

    def track_kernel_error(self, kernel, size, noise):
        return relative_error(self.find().kernel, self.scene.kernel)

    track_kernel_error.unit = "relative"


class RatioToFftconvolve:
    """Finding the kernel, over applying it once with SciPy: the number to compare between versions.

    Both work on one core, so that the ratio does not depend on how many the machine has.
    """

    params = (KERNELS, SIZES)
    param_names = ("kernel", "size")
    timeout = 300

    def setup(self, kernel, size):
        self.scene = make_scene(kernel, size, noise=0.01)

    def track_ratio_to_fftconvolve(self, kernel, size):
        image, target, taps = self.scene.image, self.scene.target, self.scene.kernel
        return ratio_of_times(
            lambda: find_kernel(image, target, taps.shape, workers=1),
            lambda: scipy.signal.fftconvolve(image, taps, mode="same"),
        )

    track_ratio_to_fftconvolve.unit = "x"


class FindMemory:
    """Peak memory of the process that holds a pair of 8-bit images, without and with finding their kernel.

    The difference of the two is what `find_kernel` needs. The pairs are made by another process, which also leaves the
    compiled code on disk, so that neither lifts the peak; each process warms up on a corner and a tiny kernel.
    """

    params = (KERNELS, [8192] if FULL else [2048])
    param_names = ("kernel", "size")
    timeout = 600

    def setup_cache(self):
        for kernel in self.params[0]:
            scene = make_scene(kernel, 2048, noise=0.01)
            for size in self.params[1]:
                for name in ("image", "target"):
                    tile = np.clip(np.rint(getattr(scene, name)), 0, 255).astype(np.uint8)
                    np.save(f"{name}_{kernel}_{size}.npy", np.tile(tile, (size // 2048, size // 2048)))
                self.setup(kernel, size)

    setup_cache.timeout = 600

    def setup(self, kernel, size):
        self.shape = tuple(map(int, kernel.split("x")))
        self.image = np.load(f"image_{kernel}_{size}.npy")
        self.target = np.load(f"target_{kernel}_{size}.npy")
        method = choose_method(self.image.shape, self.shape).method
        find_kernel(self.image[:96, :80], self.target[:96, :80], (3, 2), method=method)

    def peakmem_reference(self, kernel, size):
        """Hold the pair, do nothing."""

    def peakmem_find(self, kernel, size):
        find_kernel(self.image, self.target, self.shape)
