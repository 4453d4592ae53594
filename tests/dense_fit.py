"""Dense least squares by im2col: what any combination of settings must give, with numpy and scipy alone.

A `Scene` holds pairs, a convention and what excludes or weighs pixels. `systems` makes a `System` of it for each kernel
that is to be found: a row for each target pixel that counts, a column for each tap of each source image, and beside
them the columns of the backgrounds. `reduced` leaves a plain matrix and a plain right-hand side, on which each solver
is a line or two:

    matrix, values = reduced(system)
    taps = least_squares(matrix, values)

    convolution:  target[t] = sum_p kernel[p] * image[t - (p - origin)]
    correlation:  target[t] = sum_p kernel[p] * image[t + (p - origin)]
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = tuple[int, int]

PAD = {
    None: "constant",
    "fill": "constant",
    "wrap": "wrap",
    "symm": "symmetric",
    "mirror": "reflect",
    "nearest": "edge",
}
ENDS = (-np.inf, np.inf)
#: Residuals, in standard deviations, from which each criterion holds them down.
TUNING = {"huber": 1.345, "tukey": 4.685, "clip": 4.0}


@dataclass(frozen=True)
class Scene:
    """Pairs that share a kernel, and how they are to be read.

    `images`, `targets`, and where they are given `mask`, `image_mask` and `weights`, are lists with an item for each
    pair. `weights` are inverse variances, `saturated` is (low, high), `channels` one of "shared", "separate", "mixed".
    """

    images: list[Any]
    targets: list[Any]
    shape: Shape
    mode: str = "same"
    boundary: str | None = None
    fillvalue: float = 0.0
    origin: Shape | None = None
    operation: str = "convolution"
    stride: Shape = (1, 1)
    offset: Shape = (0, 0)
    channel_axis: int | None = None
    channels: str = "shared"
    background: int | None = None
    mask: list[Any] | None = None
    image_mask: list[Any] | None = None
    weights: list[Any] | None = None
    nan: str = "error"
    saturated: tuple[float | None, float | None] | None = None


# ---- the matrix -----------------------------------------------------------------------------------------------------


def patches(image: Any, scene: Scene, fill: float, boundary: str | None = None) -> NDArray[Any]:
    """Return the pixel that each tap multiplies, for each target pixel: shape (rows, cols, taps)."""
    (n_y, n_x), (height, width) = scene.shape, np.shape(image)
    beyond = {"constant_values": fill} if PAD[boundary] == "constant" else {}
    wide = np.pad(image, ((n_y, n_y), (n_x, n_x)), mode=PAD[boundary], **beyond)  # type: ignore[call-overload]
    forward = scene.operation == "correlation"
    if scene.mode == "same":
        whole, first = (height, width), (0, 0)
        origin = ((n_y - 1) // 2, (n_x - 1) // 2) if scene.origin is None else scene.origin
    elif scene.mode == "valid":
        whole, first = (height - n_y + 1, width - n_x + 1), (0, 0) if forward else (n_y - 1, n_x - 1)
        origin = (0, 0)
    else:
        whole, first = (height + n_y - 1, width + n_x - 1), (1 - n_y, 1 - n_x) if forward else (0, 0)
        origin = (0, 0)
    columns = []
    for p in range(n_y):
        for q in range(n_x):
            down, across = (p - origin[0], q - origin[1]) if forward else (origin[0] - p, origin[1] - q)
            row, col = n_y + first[0] + down, n_x + first[1] + across
            moved = wide[row : row + whole[0], col : col + whole[1]]
            columns.append(moved[scene.offset[0] :: scene.stride[0], scene.offset[1] :: scene.stride[1]])
    return np.stack(columns, axis=-1)


def inside(image: Any, scene: Scene) -> NDArray[np.bool_]:
    """Return which target pixels are determined: all, if something is assumed beyond the edge."""
    whole = patches(np.ones(np.shape(image)), scene, 0.0).all(axis=-1)
    return np.ones_like(whole) if scene.boundary is not None else whole


def surface(shape: Shape, degree: int) -> Array:
    """Return ``P_i(row) P_j(col)`` for i + j <= degree, the lowest total first: shape (rows, cols, terms)."""
    rows, cols = (np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in shape)
    terms = []
    for total in range(degree + 1):
        for i in range(total + 1):
            down, across = scipy.special.eval_legendre(i, rows), scipy.special.eval_legendre(total - i, cols)
            terms.append(down[:, None] * across[None, :])
    return np.stack(terms, axis=-1)


@dataclass(frozen=True)
class System:
    """The equations of one kernel, a row for each target pixel that counts.

    `design` (rows, taps), `values` (rows,), `weights` (rows,), `surface` (rows, terms of all backgrounds), `places`
    (rows, 3): number of the target plane, row and column in it; `labels` (rows, taps): which image pixel each entry
    comes from, -1 if from none; `shapes`: of the kernel of each source.
    """

    design: Array
    values: Array
    weights: Array
    surface: Array
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    shapes: list[Shape]

    def part(self, rows: NDArray[np.bool_]) -> "System":
        """Return the equations of some of the pixels."""
        names = ("design", "values", "weights", "surface", "places", "labels")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})

    def box(self, row: int, col: int, height: int, width: int) -> "System":
        """Return the equations of the target pixels of a rectangle."""
        r, c = self.places[:, 1], self.places[:, 2]
        return self.part((row <= r) & (r < row + height) & (col <= c) & (c < col + width))

    def at(self, arrays: list[Any]) -> Array:
        """Return the values that arrays, one for each target plane, have at the pixels."""
        return np.array([float(arrays[plane][row, col]) for plane, row, col in self.places])


def systems(scene: Scene) -> list[System]:
    """Return the equations of each kernel: one, or one for each target channel if they are separate or mixed."""
    images = [_planes(image, scene) for image in scene.images]
    targets = [_planes(target, scene) for target in scene.targets]
    n = len(targets[0])
    if scene.channels == "separate":
        groups = [[(pair, [c], c) for pair in range(len(images))] for c in range(n)]
    elif scene.channels == "mixed":
        groups = [[(pair, list(range(len(images[0]))), c) for pair in range(len(images))] for c in range(n)]
    else:
        groups = [[(pair, [c], c) for pair in range(len(images)) for c in range(n)]]
    return [_system(scene, images, targets, group) for group in groups]


def _system(scene: Scene, images: list[Any], targets: list[Any], group: list[tuple[int, list[int], int]]) -> System:
    """Return the equations of target planes (pair, channels of the image, channel of the target)."""
    n_terms = 0 if scene.background is None else (scene.background + 1) * (scene.background + 2) // 2
    blocks = []
    for plane, (pair, sources, channel) in enumerate(group):
        target = targets[pair][channel]
        used = inside(images[pair][0], scene)
        assert used.shape == target.shape, (used.shape, target.shape)
        columns, labels = [], []
        for source in sources:
            image = images[pair][source]
            bad = ~np.isfinite(image) if scene.nan == "mask" else np.zeros(image.shape, dtype=bool)
            bad = bad | _plane(scene.image_mask, pair, source, image.shape, scene, False).astype(bool)
            used = used & ~patches(bad, scene, False, scene.boundary).any(axis=-1)
            columns.append(patches(np.where(np.isfinite(image), image, 0.0), scene, scene.fillvalue, scene.boundary))
            # No two planes of all the images share a pixel, so none shares its number.
            first = (pair * len(images[pair]) + source) * max(one.size for planes in images for one in planes)
            numbers = first + np.arange(image.size).reshape(image.shape)
            labels.append(patches(numbers, scene, -1, scene.boundary))
        used = used & ~_plane(scene.mask, pair, channel, target.shape, scene, False).astype(bool)
        weights = _plane(scene.weights, pair, channel, target.shape, scene, 1.0)
        used = used & (weights > 0)
        if scene.nan == "mask":
            used = used & np.isfinite(target)
        if scene.saturated is not None:
            low, high = (end if given is None else given for given, end in zip(scene.saturated, ENDS, strict=True))
            used = used & ~(target <= low) & ~(target >= high)
        beside = np.zeros((*target.shape, n_terms * len(group)))
        if scene.background is not None:
            beside[..., plane * n_terms : (plane + 1) * n_terms] = surface(target.shape, scene.background)
        places = np.array([(plane, row, col) for row, col in np.argwhere(used)], dtype=np.int64).reshape(-1, 3)
        parts = np.concatenate(columns, axis=-1)[used], target[used], weights[used], beside[used], places
        blocks.append((*parts, np.concatenate(labels, axis=-1)[used]))
    return System(*(np.concatenate(part) for part in zip(*blocks, strict=True)), [scene.shape] * len(group[0][1]))


def _planes(array: Any, scene: Scene) -> list[Array]:
    """Return the channels of an image."""
    array = np.asarray(array, dtype=np.float64)
    return [array] if scene.channel_axis is None else list(np.moveaxis(array, scene.channel_axis, 0))


def _plane(
    given: list[Any] | None, pair: int, channel: int, shape: Shape, scene: Scene, default: float
) -> NDArray[Any]:
    """Return the part of a mask, or of weights, that belongs to a plane."""
    value = None if given is None else given[pair]
    if value is None:
        return np.full(shape, default)
    value = np.asarray(value)
    if value.ndim == 3 and scene.channel_axis is not None:
        value = np.moveaxis(value, scene.channel_axis, 0)[channel]
    return np.broadcast_to(value, shape)


def reduced(system: System) -> tuple[Array, Array]:
    """Return matrix and right-hand side with the weights in them and the backgrounds projected out."""
    root = np.sqrt(system.weights)
    matrix, values = system.design * root[:, None], system.values * root
    if system.surface.shape[1]:
        basis = scipy.linalg.orth(system.surface * root[:, None])
        matrix, values = matrix - basis @ (basis.T @ matrix), values - basis @ (basis.T @ values)
    return matrix, values


def spare(system: System) -> int:
    """Return the number of equations that the backgrounds leave."""
    return len(system.values) - system.surface.shape[1]


def without_image_noise(system: System, variance: float) -> tuple[Array, Array]:
    """Return a matrix and right-hand side whose normal equations lack what the noise of the image adds to them.

    Two taps of one pixel that multiply the same image pixel multiply the same noise. Of each image pixel's part in the
    matrix, weighted, the backgrounds take what they have in common with it.
    """
    matrix, values = reduced(system)
    labels, root = system.labels, np.sqrt(system.weights)
    taps = range(labels.shape[1])
    basis = scipy.linalg.orth(system.surface * root[:, None]) if system.surface.shape[1] else np.zeros((len(labels), 0))
    taken = []
    for p in taps:
        sums, known = np.zeros((labels.max() + 1, basis.shape[1])), labels[:, p] >= 0
        np.add.at(sums, labels[known, p], (basis * root[:, None])[known])
        taken.append(sums)
    counts = np.zeros((len(taps), len(taps)))
    for p in taps:
        for q in taps:
            same = (labels[:, p] == labels[:, q]) & (labels[:, p] >= 0)
            counts[p, q] = np.sum(system.weights[same]) - np.sum(taken[p] * taken[q])
    lower = np.linalg.cholesky(matrix.T @ matrix - variance * counts)
    return lower.T, np.linalg.solve(lower, matrix.T @ values)


# ---- solvers, each of a matrix and a right-hand side ----------------------------------------------------------------


def least_squares(matrix: Array, values: Array) -> Array:
    """Return the taps with the least residual."""
    return np.asarray(np.linalg.lstsq(matrix, values, rcond=None)[0])


def differences(shape: Shape) -> Array:
    """Return D such that ``|D k|^2`` sums the squared forward differences, the kernel being zero outside."""
    rows = []
    for axis in (0, 1):
        for r in range(-1 if axis == 0 else 0, shape[0]):
            for c in range(-1 if axis == 1 else 0, shape[1]):
                row = np.zeros((shape[0] + 2, shape[1] + 2))
                row[r + 1, c + 1] -= 1.0
                row[r + 1 + (axis == 0), c + 1 + (axis == 1)] += 1.0
                rows.append(row[1:-1, 1:-1].ravel())
    return np.array(rows)


def penalty_rows(matrix: Array, shapes: list[Shape], penalty: str, strength: float) -> Array:
    """Return D such that ``|D k|^2 = strength * t k'Qk``.

    Of each term t is the ratio of two traces: that of the Gram matrix of its taps less their mean, and that of Q.
    """
    blocks, start = [], 0
    for shape in shapes:
        taps = shape[0] * shape[1]
        rows = np.eye(taps) if penalty == "ridge" else differences(shape)
        own = matrix[:, start : start + taps]
        ratio = np.sum((own - own.mean(axis=1, keepdims=True)) ** 2) / np.sum(rows**2)
        blocks.append(np.sqrt(strength * ratio) * rows)
        start += taps
    return np.asarray(scipy.linalg.block_diag(*blocks))


def penalized(matrix: Array, values: Array, rows: Array) -> Array:
    """Return the minimum of ``|values - matrix k|^2 + |rows k|^2``."""
    return least_squares(np.vstack([matrix, rows]), np.append(values, np.zeros(len(rows))))


def non_negative(matrix: Array, values: Array) -> Array:
    """Return the taps of at least zero with the least residual."""
    return np.asarray(scipy.optimize.nnls(matrix, values)[0])


def sparse(matrix: Array, values: Array, support: NDArray[np.bool_]) -> Array:
    """Return least squares on some taps, zero elsewhere."""
    taps = np.zeros(matrix.shape[1])
    taps[support] = least_squares(matrix[:, support], values)
    return taps


def prior_covariance(shape: Shape, prior: Any) -> Array:
    """Return ``a^2 e(p) e(q) rho(|p - q| / l)``, summed over the images of q under the symmetry."""
    rho = {
        "squared-exponential": lambda t: np.exp(-(t**2) / 2),
        "matern52": lambda t: (1 + 5**0.5 * t + 5 * t**2 / 3) * np.exp(-(5**0.5) * t),
        "matern32": lambda t: (1 + 3**0.5 * t) * np.exp(-(3**0.5) * t),
        "exponential": lambda t: np.exp(-t),
    }[prior.family]
    last = shape[0] - 1, shape[1] - 1
    motions: list[Any] = [lambda r, c: (r, c)]
    if prior.symmetric is not None:
        motions.append(lambda r, c: (last[0] - r, last[1] - c))
    if prior.symmetric in ("both", "square"):
        motions += [lambda r, c: (last[0] - r, c), lambda r, c: (r, last[1] - c)]
    if prior.symmetric == "square":
        motions += [lambda r, c, of=of: of(r, c)[::-1] for of in list(motions)]
    taps = [(r, c) for r in range(shape[0]) for c in range(shape[1])]
    apart = [((r - prior.center[0]) ** 2 + (c - prior.center[1]) ** 2) / prior.radius**2 for r, c in taps]
    envelope = [np.exp(-u / 2) if prior.envelope == "gaussian" else (1 + u / 6) ** -3.0 for u in apart]
    found = np.zeros((len(taps), len(taps)))
    for i, (r, c) in enumerate(taps):
        for j, tap in enumerate(taps):
            for motion in motions:
                row, col = motion(*tap)
                found[i, j] += rho(np.hypot(r - row, c - col) / prior.length)
            found[i, j] *= prior.amplitude**2 * envelope[i] * envelope[j]
    return found


def posterior(matrix: Array, values: Array, prior: Array, noise_std: float) -> tuple[Array, Array]:
    """Return mean and covariance of the taps: ``k = R x``, x standard normal, ``R R'`` the prior's covariance."""
    power, vectors = np.linalg.eigh(prior)
    root = vectors * np.sqrt(np.maximum(power, 0.0))
    unit = noise_std * np.eye(len(prior))
    mean = root @ penalized(matrix @ root, values, unit)
    inner = np.linalg.inv(root.T @ matrix.T @ matrix @ root / noise_std**2 + np.eye(len(prior)))
    return mean, root @ inner @ root.T


def most_probable(mean: Array, covariance: Array) -> Array:
    """Return the kernel without negative taps that a normal distribution holds for the most probable."""
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    return non_negative(root, root @ mean)


# ---- errors ---------------------------------------------------------------------------------------------------------


def squares(matrix: Array, values: Array, taps: Array) -> float:
    """Return the residual sum of squares."""
    return float(np.sum((values - matrix @ taps) ** 2))


def noise_of(matrix: Array, values: Array, taps: Array, freedom: float) -> float:
    """Return the standard deviation of the noise, ``sqrt(rss / freedom)``."""
    return float(np.sqrt(squares(matrix, values, taps) / freedom))


def spread(matrix: Array, rows: Array | None = None) -> Array:
    """Return the square roots of the diagonal of ``(G + rows'rows)^-1``: standard errors for noise of 1."""
    gram = matrix.T @ matrix + (0.0 if rows is None else rows.T @ rows)
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(gram))))


def left_open(matrix: Array, own: NDArray[np.bool_]) -> Array:
    """Return the variances, for noise of 1, that taps held at zero add: each let in alone, by one standard error."""
    found = np.zeros(matrix.shape[1])
    for tap in np.flatnonzero(~own):
        free = own.copy()
        free[tap] = True
        covariance = np.linalg.inv(matrix[:, free].T @ matrix[:, free])
        at = int(np.sum(free[:tap]))
        found[free] += covariance[at] ** 2 / covariance[at, at]
    return found


def rougher(matrix: Array, rows: Array, taps: Array, noise_std: float, least: float) -> Array:
    """Return the variances, for noise of 1, that a kernel rougher than its penalty supposes adds.

    The penalty P stands for a prior of covariance ``noise^2 tau P^-1`` with tau = 1. What ``k'Pk`` tells of tau, whose
    expected value is ``tau trace(P M G P^-1 G M) + trace(P M G M)`` for ``M = (G + P)^-1``, is used if above `least`.
    """
    gram, pull = matrix.T @ matrix, rows.T @ rows
    both = np.linalg.inv(gram + pull)
    by_noise = np.trace(pull @ both @ gram @ both)
    by_kernel = np.trace(pull @ both @ gram @ np.linalg.inv(pull) @ gram @ both)
    tau = (taps @ pull @ taps / noise_std**2 - by_noise) / by_kernel
    return (tau - 1.0) * np.diag(both @ pull @ both) if tau > least else np.zeros(len(taps))


def freedom(matrix: Array, rows: Array) -> float:
    """Return the effective degrees of freedom of a penalised fit, ``trace(G (G + rows'rows)^-1)``."""
    gram = matrix.T @ matrix
    return float(np.trace(gram @ np.linalg.inv(gram + rows.T @ rows)))


def background(system: System, taps: Array) -> Array:
    """Return the coefficients of all backgrounds beside a kernel, those of the first target plane first."""
    root = np.sqrt(system.weights)
    return least_squares(system.surface * root[:, None], (system.values - system.design @ taps) * root)


def background_errors(system: System, noise_std: float) -> Array:
    """Return the standard errors of the coefficients of all backgrounds beside a kernel of least squares."""
    root = np.sqrt(system.weights)
    every = np.hstack([system.design, system.surface]) * root[:, None]
    return noise_std * spread(every)[system.design.shape[1] :]


# ---- weights that come from the residual ----------------------------------------------------------------------------


def reweighted(system: System, noise: tuple[float, float] | None, robust: str | None, rounds: int = 200) -> System:
    """Return the equations with the weights at which weighing by the residual and fitting again changes nothing.

    `noise` is (gain, read_noise): the variance of a pixel is ``prediction / gain + (read_noise / gain)^2``. Predictions
    count as 1 % of the target's mean at least, and those further from what was observed than five of their standard
    deviations (or of up to four times those, if most residuals are as large) as the nearest that is not. `robust` holds
    residuals down that are large in units of 1.4826 times the median of all.
    """
    floor = 0.01 * float(np.average(system.values, weights=system.weights))
    current, scale, before = system, 1.0, np.inf
    for _ in range(rounds):
        left = residual(current)
        weights = system.weights
        if noise is not None:
            weights = weights / _variance(system.values, left, noise, floor, 5.0 * min(max(scale, 1.0), 4.0))
        size = np.abs(left) * np.sqrt(weights)
        scale = 1.4826 * float(np.median(size))
        if robust is not None:
            weights = weights * held(size / (TUNING[robust] * scale), robust)
        current = dataclasses.replace(system, weights=weights)
        kernel = least_squares(*reduced(current))
        moved, before = float(np.linalg.norm(kernel - before)), kernel
        if moved <= 1e-9 * float(np.linalg.norm(kernel)):
            break
    return current.part(current.weights > 0)


def residual(system: System) -> Array:
    """Return what weighted least squares leaves of the target."""
    taps = least_squares(*reduced(system))
    left = system.values - system.design @ taps
    return left - system.surface @ background(system, taps) if system.surface.shape[1] else left


def _variance(observed: Array, left: Array, noise: tuple[float, float], floor: float, apart: float) -> Array:
    """Return the variance of pixels, that of their prediction as far as it is believed."""
    gain, read_noise = noise
    slope, constant = 1.0 / gain, (read_noise / gain) ** 2
    half = apart**2 * slope / 2  # (observed - p)^2 = apart^2 (slope p + constant), solved for p
    reach = np.sqrt(np.maximum(half**2 + 2 * half * observed + apart**2 * constant, 0.0))
    believed = np.minimum(np.maximum(observed - left, observed + half - reach), observed + half + reach)
    return np.asarray(slope * np.maximum(believed, floor) + constant)


def held(ratio: Array, robust: str) -> Array:
    """Return by how much the weight of a residual is taken down that is so many times the tuning constant."""
    if robust == "huber":
        return np.asarray(np.where(ratio <= 1.0, 1.0, 1.0 / np.maximum(ratio, 1.0)))
    return np.asarray(np.where(ratio <= 1.0, (1 - ratio**2) ** 2 if robust == "tukey" else 1.0, 0.0))
