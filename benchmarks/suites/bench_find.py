"""Finding a kernel from a pair of images in memory: what it costs, and how far off it is.

Machine code is compiled or loaded before anything is measured: the first call is another question (`bench_import`).
"""

import scipy.signal

from benchmarks.common import (
    KERNELS,
    NOISES,
    SIZES,
    by_profile,
    im2col_lstsq,
    make_scene,
    ratio_of_times,
    relative_error,
)
from kernelfit import find_kernel


class FindKernel:
    """Time and error of `find_kernel` as a user calls it: all cores, nothing assumed beyond the edges."""

    rounds, repeat = 1, (1, 5, 4.0)  # of times: at most five, and for some four seconds

    params = (KERNELS, SIZES, NOISES)
    param_names = ("kernel", "size", "noise")
    timeout = 300

    def setup(self, kernel, size, noise):
        self.scene = make_scene(kernel, size, noise)
        self.find()

    def find(self):
        """Solve the scene, standard errors included: they are made when asked for."""
        fit = find_kernel(*self.scene.pair, self.scene.shape)
        assert fit.stderr.shape == self.scene.shape
        return fit

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
            lambda: find_kernel(image, target, taps.shape, workers=1).stderr,
            lambda: scipy.signal.fftconvolve(image, taps, mode="same"),
        )

    track_ratio_to_fftconvolve.unit = "times fftconvolve"


class RatioToLstsq:
    """Finding the kernel, over the matrix of all patches and `numpy.linalg.lstsq`; BLAS may use all cores."""

    params = (by_profile(["9x7"], ["3x5"], ["9x7", "15x15"]), by_profile([384], [96], [384, 768]))
    param_names = ("kernel", "size")
    timeout = 300

    def setup(self, kernel, size):
        self.scene = make_scene(kernel, size, noise=0.01)

    def track_ratio_to_lstsq(self, kernel, size):
        scene = self.scene
        return ratio_of_times(
            lambda: find_kernel(*scene.pair, scene.shape).stderr,
            lambda: im2col_lstsq(*scene.pair, scene.shape),
            repeats=3,
        )

    track_ratio_to_lstsq.unit = "times lstsq"

    def track_error_beside_lstsq(self, kernel, size):
        """Both solve the same problem, so their kernels must agree to rounding."""
        scene = self.scene
        return relative_error(find_kernel(*scene.pair, scene.shape).kernel, im2col_lstsq(*scene.pair, scene.shape))

    track_error_beside_lstsq.unit = "relative"
