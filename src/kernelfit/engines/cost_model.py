"""Which engine reads the pixels, and how rows are cut for it: the cost model."""

import math
from typing import NamedTuple

from ..core import geometry
from ..core.geometry import Geometry
from ..data.observation import Observation


class Choice(NamedTuple):
    """An engine, and why it was chosen."""

    method: str
    reason: str


def choose_method(image_shape: object, kernel_shape: object, stride: object = 1) -> Choice:
    """Say which method `find_kernel` would use for one image and one kernel.

    Parameters
    ----------
    image_shape : tuple of int
        Rows and columns of the image.
    kernel_shape : int or tuple of int
        Rows and columns of the kernel.
    stride : int or tuple of int, optional
        Pixels of the image from one pixel of the target to the next, default 1.

    Returns
    -------
    Choice
        A named tuple: `method`, "direct", "fft" or "cg", and `reason`, the costs that were compared.

    Notes
    -----
    Counted per target pixel, for a kernel of R x C taps with C >= R (the longer side lies along the transformed axis):

    * direct: reading, R (2C - 1) multiply-adds for the lag sums and R C for the moment;
    * fft: two real transforms of segments of L samples, of which B = L - 2 (C - 1) are new, and the same again for
      the overlaps of neighbouring segments; 2 R complex multiply-adds per frequency, that is 4 R real ones per sample.

    With a stride of S x T the image is S T sources, each of which has R x C of the taps, the sides divided by the
    stride: (S T)^2 times the work for the lag sums, S T times that for the moment, and S T + 1 transforms. Conjugate
    gradients then make a pass over the pixels for each iteration.

    Then, for m = R C taps, once: the Cholesky factor and its inverse take 2/3 m^3 multiply-adds. Conjugate gradients
    ("cg") need neither, nor the m x m matrix, but about 40 iterations, each of which multiplies a matrix of R x R for
    each of C frequencies, one of C x C for each of R, and makes about ten transforms of 2R x 2C; and before, the lag
    sums of all pairs of rows in the strips along the four edges. They give no covariance, so they are used only where
    the factor would take more than 5 s, or the matrix and its factor more than 1 GiB.

    The constants, nanoseconds per multiply-add and per transformed sample, come from ``benchmarks/calibrate.py``;
    only their ratios matter.

    Examples
    --------
    >>> import kernelfit
    >>> kernelfit.choose_method((4096, 4096), 15).method
    'fft'
    >>> kernelfit.choose_method((4096, 4096), (3, 3)).method
    'direct'
    >>> kernelfit.choose_method((4096, 4096), 127).method
    'cg'
    """
    image, kernel = geometry.as_pair(image_shape, "image_shape"), geometry.kernel_shape(kernel_shape)
    if min(image) < 1:
        raise ValueError(f"got image_shape={image_shape!r}, need at least one pixel along each axis")
    steps = geometry.lattice(stride, 0)[0]
    phases = min(steps[0], kernel[0]), min(steps[1], kernel[1])
    image = -(-image[0] // steps[0]), -(-image[1] // steps[1])
    rows, cols = -(-kernel[0] // phases[0]), -(-kernel[1] // phases[1])
    if cols < rows:
        image, rows, cols = image[::-1], cols, rows
    n_pixels, n_phases = max(1, image[0] * image[1]), phases[0] * phases[1]
    direct = READ_NS + DIRECT_NS * rows * n_phases * (n_phases * (2 * cols - 1) + cols)
    layout = segment(image[1], cols - 1, n_phases, lines=rows == 1)
    waste = layout.length / layout.step * (1 + (cols - 1) * 2 / layout.length)
    fft = (n_phases + 1) * (TRANSFORM_NS + 2 * n_phases * rows * SPECTRAL_NS) * waste + FFT_START_NS / n_pixels
    n_taps = kernel[0] * kernel[1]
    dense = 2 / 3 * n_taps**3 * DENSE_NS
    strips = 2 * 2 * 4 * (rows**2 * image[1] + cols**2 * image[0]) / 2 * SPECTRAL_NS
    iterative = strips + 40 * n_taps * (4 * (rows + cols) * SPECTRAL_NS + 10 * 4 * TRANSFORM_NS)
    if 16 * n_taps**2 > MOST_BYTES or dense > MOST_DENSE_NS:
        return Choice("cg", f"estimated {iterative / 1e9:.2g} s to iterate, {dense / 1e9:.2g} s to factorise")
    method = "direct" if direct <= fft else "fft"
    return Choice(method, f"estimated {direct:.1f} ns per pixel direct, {fft:.1f} ns by fft")


# Nanoseconds on one core, from benchmarks/calibrate.py.
READ_NS = 3.3
DIRECT_NS = 0.062
STRIP_NS = 0.05
SPECTRAL_NS = 0.063
TRANSFORM_NS = 4.1
BLOCK_NS = 10.0
DENSE_NS = 0.063
FFT_START_NS = 9e5
#: What a Gram matrix and its factor may take before conjugate gradients, which give no covariance, are chosen unasked.
MOST_DENSE_NS, MOST_BYTES = 5e9, 2**30


class Segments(NamedTuple):
    """How a row is cut: segments of `step` new samples, transformed at `length`."""

    length: int
    step: int


def segment(width: int, overlap: int, n_sources: int = 1, *, lines: bool = False) -> Segments:
    """Cut `width` positions, each with a halo of `overlap`, into equal segments of the cheapest length."""
    # A segment of B positions and its halo h has B + h samples; its lag products up to h are free of wrap-around if it
    # is padded to L >= B + 2h. The work is L log2 L per segment and twice 2h log2 2h for the overlap of two neighbours,
    # which both count. Lengths of 1, 3, 5 and 9 times 2^a up to 2048, or 12h, whichever is larger, are tried: unplanned
    # transforms of other lengths are up to twice as slow per sample, and longer ones leave the cache; of `lines`, whose
    # tiles are a few rows, 24h up to 2^15. Several sources, each of which is transformed and multiplied by every other,
    # share that room.
    best, best_cost = Segments(1, 1), math.inf
    least = good_length(max(overlap, 1) + 2 * overlap)
    longest = max(256, 2048 // n_sources, 12 * overlap, min(24 * overlap, 2**15) if lines else 0, least)
    lengths = {m << a for m in (1, 3, 5, 9) for a in range(longest.bit_length())}
    for length in sorted(n for n in lengths if least <= n <= longest):
        segments = math.ceil(width / (length - 2 * overlap))
        step = max(math.ceil(width / segments), overlap, 1)
        # each further segment also costs about as much as 64 samples in calls and copies
        cost = segments * (length * math.log2(2 * length) + 640)
        cost += (segments - 1) * 2 * overlap * math.log2(4 * overlap + 2)
        if cost < best_cost:
            best, best_cost = Segments(length, step), cost
    return best


def good_length(least: int, factors: tuple[int, ...] = (1, 3, 5, 9)) -> int:
    """Return the smallest power of two, times one of some factors, that is no less than `least`."""
    return min(m << max(0, math.ceil(math.log2(least / m))) for m in factors)


def resolve(observation: Observation, method: str) -> Choice:
    """Return the method asked for, or chosen."""
    if method != "auto":
        return Choice(method, "as asked")
    if observation.plane is not None:
        return _of_volume(observation)
    plan, (rows, cols), (down, across) = observation.geometry, observation.size, observation.geometry.stride
    choice = choose_method((rows * down, cols * across), plan.kernel_shape, (down, across))
    many = len(observation.sources) + len(observation.targets) > 2
    if choice.method == "cg" or not many or plan.convention.strided or plan.convention.field is not None:
        return choice
    return _of_many(plan, len(observation.sources), len(observation.targets))


def _of_many(plan: Geometry, n_sources: int, n_targets: int) -> Choice:
    """Return the cheaper engine for several images and targets: every image is multiplied by every one and target."""
    rows, cols = sorted(plan.kernel_shape)
    width = plan.size[1 if plan.kernel_shape[0] <= plan.kernel_shape[1] else 0]
    layout = segment(width, cols - 1, n_sources, lines=rows == 1)
    waste = layout.length / layout.step * (1 + (cols - 1) * 2 / layout.length)
    each = n_sources + n_targets
    products = 4 * -(-rows // 4) * n_sources * (n_sources * (2 * cols - 1) + n_targets * cols)  # four rows at a time
    direct = READ_NS * each + DIRECT_NS * products
    fft = each * (TRANSFORM_NS + 2 * n_sources * rows * SPECTRAL_NS) * waste + FFT_START_NS / max(1, plan.n_pixels)
    method = "direct" if direct <= fft else "fft"
    return Choice(method, f"estimated {direct:.1f} ns per pixel direct, {fft:.1f} ns by fft")


def _of_volume(observation: Observation) -> Choice:
    """Return the method for a volume: products of all pairs of planes, or of spectra at the lags along the depth."""
    depth, plan = len(observation.sources), observation.geometry
    rows, cols = sorted(plan.kernel_shape)
    n_taps = depth * plan.n_taps
    dense = 2 / 3 * n_taps**3 * DENSE_NS
    if 16 * n_taps**2 > MOST_BYTES or dense > MOST_DENSE_NS:
        return Choice("cg", f"estimated {dense / 1e9:.2g} s to factorise")
    direct = depth * (READ_NS + DIRECT_NS * rows * (depth * (2 * cols - 1) + cols))
    if max(observation.convention.stride) > 1 or depth == 1:  # planes by themselves
        image = tuple(n * step for n, step in zip(plan.size, plan.stride, strict=True))
        return choose_method(image, plan.kernel_shape, plan.stride)
    fft = 2 * (BLOCK_NS + 2 * SPECTRAL_NS * depth) * math.prod(plan.extended_shape) / max(1, plan.n_pixels)
    method = "direct" if direct <= fft else "fft"
    return Choice(method, f"estimated {direct:.1f} ns per pixel direct, {fft:.1f} ns by fft")


def engine_of(observation: Observation, method: str = "auto") -> str:
    """Return the engine to form Gram matrices by, "direct" or "fft"."""
    chosen = resolve(observation, method).method
    return "fft" if chosen == "cg" else chosen
