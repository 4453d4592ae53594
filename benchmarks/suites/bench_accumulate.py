"""Reading the pixels once: engine by kernel, size and dtype; and that the sums are right."""

import numpy as np
import scipy.fft

from benchmarks.common import SIZES, by_profile, make_scene, ratio_of_times, relative_error
from kernelfit import accumulate

ENGINES = ["direct", "fft"]
KERNELS = by_profile(["5x5", "9x15"], ["3x5"], ["5x5", "9x15", "31x27"])  # rows x columns
DTYPES = by_profile(["uint8", "float32", "float64"], ["uint8"], ["uint8", "float32", "float64"])


def as_dtype(array, dtype):
    """Return an image in another dtype, rounded and clipped to 0..255 if that is an integer's."""
    return np.clip(np.rint(array), 0, 255).astype(dtype) if np.dtype(dtype).kind == "u" else array.astype(dtype)


def gram_error(gram, image, shape, n_pairs=24):
    """Return the distance of some of the Gram matrix's entries from their sums in extended precision, relative.

    Entry (p, q) is the sum over all windows of the image of tap p's pixel times tap q's. The four corners of the kernel
    are always among the pairs, since that is where the image's edges count most.
    """
    rows, cols = shape
    n_rows, n_cols = image.shape[0] - rows + 1, image.shape[1] - cols + 1
    corners = [0, cols - 1, rows * cols - cols, rows * cols - 1]
    rng = np.random.default_rng(0)
    pairs = [(p, q) for p in corners for q in corners] + [
        tuple(rng.integers(rows * cols, size=2)) for _ in range(n_pairs)
    ]

    def under(tap):
        row, col = rows - 1 - tap // cols, cols - 1 - tap % cols
        return image[row : row + n_rows, col : col + n_cols]

    exact = [np.multiply(under(p), under(q), dtype=np.longdouble).sum() for p, q in pairs]
    return relative_error(np.array([gram[p, q] for p, q in pairs]), np.array(exact))


class Accumulate:
    """Time and error of the statistics, all cores."""

    rounds, repeat = 1, (1, 5, 4.0)  # of times: at most five, and for some four seconds

    params = (ENGINES, KERNELS, SIZES, DTYPES)
    param_names = ("engine", "kernel", "size", "dtype")
    timeout = 300

    def setup(self, engine, kernel, size, dtype):
        scene = make_scene(kernel, size, noise=0.01)
        self.truth, self.shape = scene.kernel, scene.shape
        self.image, self.target = as_dtype(scene.image, dtype), as_dtype(scene.target, dtype)
        self.stats = accumulate(self.image, self.target, self.shape, method=engine, saturated=None)

    def time_accumulate(self, engine, kernel, size, dtype):
        accumulate(self.image, self.target, self.shape, method=engine, saturated=None)

    def track_gram_error(self, engine, kernel, size, dtype):
        return gram_error(self.stats.gram, self.image, self.shape)

    track_gram_error.unit = "relative"

    def track_kernel_error(self, engine, kernel, size, dtype):
        return relative_error(self.stats.solve().kernel, self.truth)

    track_kernel_error.unit = "relative"


class RatioToRfft2:
    """The statistics, over one `scipy.fft.rfft2` of the image as float64; both on one core."""

    params = (ENGINES, KERNELS, SIZES)
    param_names = ("engine", "kernel", "size")
    timeout = 300

    def setup(self, engine, kernel, size):
        self.scene = make_scene(kernel, size, noise=0.01)

    def track_ratio_to_rfft2(self, engine, kernel, size):
        image, target = self.scene.pair
        return ratio_of_times(
            lambda: accumulate(image, target, self.scene.shape, method=engine, workers=1),
            lambda: scipy.fft.rfft2(image, workers=1),
        )

    track_ratio_to_rfft2.unit = "times rfft2"
