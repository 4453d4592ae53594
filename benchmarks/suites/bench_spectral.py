"""Division by frequency: the kernel by Wiener's formula, its spectra by blocks, and the image restored."""

import scipy.fft

from benchmarks.common import SIZES, by_profile, make_scene, ratio_of_times, relative_error, require
from kernelfit import find_kernel

KERNELS = by_profile(["9x15"], ["3x5"], ["5x5", "9x15", "31x27"])  # rows x columns


class Base:
    """A scene with 1 % noise."""

    rounds, repeat = 1, (1, 5, 4.0)  # of times: at most five, and for some four seconds

    params = (KERNELS, SIZES)
    param_names = ("kernel", "size")
    timeout = 300

    def setup(self, kernel, size):
        require("deconvolve")  # came with all that is measured here
        self.scene = make_scene(kernel, size, noise=0.01)


class Wiener(Base):
    """Time and error of `method="wiener"`."""

    def divide(self, workers=None):
        """Find the kernel of the scene."""
        return find_kernel(*self.scene.pair, self.scene.shape, method="wiener", workers=workers)

    def time_wiener(self, kernel, size):
        self.divide()

    def track_kernel_error(self, kernel, size):
        return relative_error(self.divide().kernel, self.scene.kernel)

    track_kernel_error.unit = "relative"

    def track_ratio_to_rfft2(self, kernel, size):
        """Time one `scipy.fft.rfft2` of the image beside it, both on one core."""
        return ratio_of_times(lambda: self.divide(1), lambda: scipy.fft.rfft2(self.scene.image, workers=1))

    track_ratio_to_rfft2.unit = "times rfft2"


class Spectra(Base):
    """Time and error of the spectra by blocks, which is how images beyond memory are read."""

    def stats(self, workers=None):
        """Return the spectra of the scene."""
        return require("accumulate_spectra")(*self.scene.pair, self.scene.shape, block="auto", workers=workers)

    def time_spectra(self, kernel, size):
        self.stats()

    def track_kernel_error(self, kernel, size):
        return relative_error(self.stats().solve().kernel, self.scene.kernel)

    track_kernel_error.unit = "relative"

    def track_ratio_to_rfft2(self, kernel, size):
        """Time one `scipy.fft.rfft2` of the image beside it, both on one core."""
        return ratio_of_times(lambda: self.stats(1), lambda: scipy.fft.rfft2(self.scene.image, workers=1))

    track_ratio_to_rfft2.unit = "times rfft2"


class Deconvolve(Base):
    """Time and error of the image restored from target and kernel."""

    def restore(self, workers=None):
        """Restore the scene's image."""
        return require("deconvolve")(self.scene.target, self.scene.kernel, workers=workers)

    def time_deconvolve(self, kernel, size):
        self.restore()

    def track_image_error(self, kernel, size):
        return relative_error(self.restore(), self.scene.image)

    track_image_error.unit = "relative"

    def track_ratio_to_rfft2(self, kernel, size):
        """Time one `scipy.fft.rfft2` of the target beside it, both on one core."""
        return ratio_of_times(lambda: self.restore(1), lambda: scipy.fft.rfft2(self.scene.target, workers=1))

    track_ratio_to_rfft2.unit = "times rfft2"
