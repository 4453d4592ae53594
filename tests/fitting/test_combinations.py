"""Settings taken together, each against a dense twin: a row for each target pixel, a column for each tap."""

import itertools
import zlib

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import assert_close, grid

IMAGE, SHAPE = (23, 31), (3, 4)
TUNING = {"huber": 1.345, "tukey": 4.685, "clip": 4.0}


class Twin:
    """The dense problem of one target plane: design A, target y, weights w, surfaces Phi and each noisy pixel's A."""

    def __init__(self, images, target, weights=None, degree=None, shape=SHAPE, **convention):
        convention = {"mode": "same", "boundary": None, "operation": "convolution", **convention}
        parts = [naive.design_dense(image, shape, **convention) for image in images]
        used = parts[0][1]
        self.design = np.hstack([matrix for matrix, _ in parts])
        self.values = target[used]
        self.weights = np.ones(used.sum()) if weights is None else weights[used].astype(float)
        rows, cols = (np.linspace(-1, 1, n) for n in target.shape)
        terms = [] if degree is None else [(i, t - i) for t in range(degree + 1) for i in range(t + 1)]
        legendre = np.polynomial.legendre.Legendre.basis
        columns = [np.multiply.outer(legendre(i)(rows), legendre(j)(cols))[used] for i, j in terms]
        self.surface = np.stack(columns, axis=1) if columns else np.zeros((len(self.values), 0))
        every = 1.0 + np.arange(images[0].size).reshape(images[0].shape)
        #: The pixel that each tap multiplies, -1 for a fill value.
        self.labels = naive.design_dense(every, shape, **{**convention, "fillvalue": 0.0})[0].astype(int) - 1
        self.n_sources = len(images)
        weighted = self.weights[:, None] * self.surface
        self.inverse = np.linalg.pinv(self.surface.T @ weighted)
        #: The weights with the surface projected out.
        self.middle = np.diag(self.weights) - weighted @ self.inverse @ weighted.T
        self.gram = self.design.T @ self.middle @ self.design
        self.spare = int((self.weights > 0).sum()) - self.surface.shape[1]

    def noise(self, middle):
        """Expectation of N'MN for white noise N of variance 1 in the image."""
        n, taps = self.labels.shape
        total = np.zeros((taps, taps))
        for p in range(taps):
            laid = np.zeros((self.labels.max() + 1, n))
            some = self.labels[:, p] >= 0
            np.add.at(laid, self.labels[some, p], middle[some])
            for q in range(taps):
                there = self.labels[:, q] >= 0
                total[p, q] = laid[self.labels[there, q], np.flatnonzero(there)].sum()
        return np.kron(np.eye(self.n_sources), total)

    def both(self, kernel):
        """Covariance of the moments of two noises, pair of target pixels by pair."""
        tables = []
        for own in kernel.reshape(self.n_sources, -1):
            for at in self.labels.T:  # noise at tap p of pixel t, times N k at pixel u
                tables.append(sum(k * (at[:, None] == other) for k, other in zip(own, self.labels.T, strict=True)))
        tables = [self.weights[:, None] * table * self.weights for table in tables], tables
        return np.array([[np.sum(one * other.T) for other in tables[1]] for one in tables[0]])

    def solve(self, gram=None, more=0.0):
        return np.linalg.solve(self.gram if gram is None else gram, self.design.T @ self.middle @ self.values + more)

    def left(self, kernel):
        """Residual, with the background that is best beside a kernel."""
        left = self.values - self.design @ kernel.ravel()
        return left - self.surface @ self.inverse @ self.surface.T @ (self.weights * left)

    def coefficients(self, kernel):
        return self.inverse @ self.surface.T @ (self.weights * (self.values - self.design @ kernel.ravel()))


def scene(rng, n_sources=1, convention=(), image_std=0.2, noise=0.1, size=IMAGE, shape=SHAPE):
    """Noisy images, the target that the clean ones make, and the kernels."""
    clean = scipy.ndimage.uniform_filter(rng.normal(size=(n_sources, *size)), (1, 2, 1)) * 3 + 2
    kernels = rng.normal(size=(n_sources, *shape))
    keywords = {"mode": "same", "boundary": None, "operation": "convolution", **dict(convention)}
    made = [naive.design_dense(one, shape, **keywords) for one in clean]
    target = sum(naive.apply_design(m, used, k) for (m, used), k in zip(made, kernels, strict=True))
    target = target + noise * rng.normal(size=target.shape)
    return list(clean + image_std * rng.normal(size=clean.shape)), target, kernels


def given(images, target):
    """Image and target as `find_kernel` takes them, and the keywords of several sources."""
    if len(images) == 1:
        return images[0], target, {}
    return np.stack(images, -1), target[..., None], {"channel_axis": -1, "channels": "mixed"}


# ---- noise of the image ---------------------------------------------------------------------------------------------


NOISY = [
    (1, {}),
    (2, {"operation": "correlation"}),
    (1, {"boundary": "mirror"}),
    (2, {"boundary": "symm"}),
    (1, {"boundary": "fill", "mode": "full"}),
    (1, {"boundary": "nearest", "stride": (2, 1), "offset": (1, 0)}),
    (2, {"boundary": "wrap", "stride": (1, 3)}),
]


@grid("at, degree, uneven", itertools.product(NOISY, [None, 0, 1], [None, "mask", "weights"]), 8, ids=str)
def test_noise_of_the_image(at, degree, uneven):
    n_sources, convention = at
    rng = np.random.default_rng(5)
    std = 0.2
    images, target, _ = scene(rng, n_sources, convention.items(), std)
    weights, keywords = None, {}
    if uneven == "mask":
        mask = rng.random(target.shape) < 0.2
        weights, keywords = ~mask, {"mask": mask}
    elif uneven == "weights":
        weights = rng.random(target.shape) + 0.5
        keywords = {"weights": weights}
    twin = Twin(images, target, weights, degree, **convention)
    image, result, more = given(images, target)
    fit = kernelfit.find_kernel(
        image, result, SHAPE, image_noise=std, background=degree, **{"boundary": None, **convention}, **keywords, **more
    )
    one = fit.parts[0] if fit.parts else fit
    assert one.image_noise == pytest.approx(std)  # all of it
    kernel = twin.solve(twin.gram - std**2 * twin.noise(twin.middle))
    assert_close(fit.kernel.ravel(), kernel, 1e-9)
    left = twin.left(kernel)
    rss = np.sum(twin.weights * left**2)
    assert one.rss == pytest.approx(rss, rel=1e-9)
    assert one.noise_std == pytest.approx(np.sqrt(rss / (twin.spare - kernel.size)), rel=1e-9)
    assert one.n_pixels == np.count_nonzero(twin.weights)
    if degree is not None:
        assert_close(fit.background.coefficients.ravel(), twin.coefficients(kernel), 1e-9)


@pytest.mark.parametrize("n_sources", [1, 2])
@pytest.mark.parametrize("uneven", [False, True])
def test_errors_beside_noise_of_the_image(n_sources, uneven):
    """White noise v, and the products of two noises of the image, pair of target pixels by pair."""
    rng = np.random.default_rng(7)
    std = 0.2
    images, target, _ = scene(rng, n_sources, size=(13, 17))
    weights = rng.random(target.shape) + 0.5 if uneven else None
    twin = Twin(images, target, weights)
    image, result, more = given(images, target)
    fit = kernelfit.find_kernel(image, result, SHAPE, image_noise=std, weights=weights, **more)
    one = fit.parts[0] if fit.parts else fit
    gram = twin.gram - std**2 * twin.noise(twin.middle)
    scores = one.noise_std**2 * twin.gram + std**4 * twin.both(fit.kernel)
    # without weights all pairs of pixels count, at the edges as well
    assert_close(one.covariance(), np.linalg.solve(gram, np.linalg.solve(gram, scores).T), 1e-8 if uneven else 0.02)


@pytest.mark.slow
@grid(
    "robust, photons, degree",
    [("huber", False, None), ("clip", True, 0), ("tukey", False, 0), (None, True, None), ("huber", True, None)],
    3,
)
def test_weights_from_the_residual_beside_noise_of_the_image(robust, photons, degree):
    """Where reweighting ends: each noisy product counts as the derivative of the weighed residual."""
    rng = np.random.default_rng(11)
    std, gain = 0.4, 20.0
    clean = 5 * rng.random((23, 28))
    target = kernelfit.apply_kernel(clean, rng.random(SHAPE), boundary="symm")
    target += rng.normal(size=target.shape) * np.sqrt(target / gain)
    if robust:
        target[rng.random(target.shape) < 0.05] += 20.0
    image = clean + std * rng.normal(size=clean.shape)
    fit = kernelfit.find_kernel(
        image, target, SHAPE, image_noise=std, robust=robust, noise=(gain, 0.0) if photons else "constant",
        background=degree,
        boundary="symm",
    )  # fmt: skip
    twin = Twin([image], target, None, degree, boundary="symm")
    kernel, scale = fit.kernel.ravel(), 1.0
    for _ in range(25):
        left = twin.left(kernel)
        variance = np.ones(left.size)
        if photons:
            half, wide = 12.5 * min(max(scale, 1.0), 4.0) ** 2 / gain, 25 * min(max(scale, 1.0), 4.0) ** 2
            reach = np.sqrt(half**2 + 2 * half * twin.values + wide * std**2 * np.sum(kernel**2))
            believed = np.clip(twin.values - left, twin.values + half - reach, twin.values + half + reach)
            variance = np.maximum(believed, 0.01 * target.mean()) / gain + std**2 * np.sum(kernel**2)
        ratio = np.abs(left) / np.sqrt(variance)
        scale = 1.4826 * np.median(ratio)
        held = slope = np.ones(left.size)
        if robust:
            u = ratio / (TUNING[robust] * scale)
            held = {"huber": 1 / np.maximum(u, 1), "tukey": np.maximum(0, 1 - u**2) ** 2, "clip": u <= 1}[robust] * 1.0
            slope = u <= 1 if robust != "tukey" else np.where(u < 1, (1 - u**2) * (1 - 5 * u**2), 0.0)
        twin.weights = held / variance
        weighted = twin.weights[:, None] * twin.surface
        twin.inverse = np.linalg.pinv(twin.surface.T @ weighted)
        twin.middle = np.diag(twin.weights) - weighted @ twin.inverse @ weighted.T
        gram = twin.design.T @ twin.middle @ twin.design
        noise = twin.noise(twin.middle - np.diag(twin.weights) + np.diag(slope / variance))
        new = np.linalg.solve(gram - std**2 * noise, twin.design.T @ twin.middle @ twin.values)
        moved, kernel = np.linalg.norm(new - kernel), new
        if moved < 1e-4:
            break
    error = np.linalg.norm(fit.stderr)
    assert np.linalg.norm(fit.kernel.ravel() - kernel) < 0.05 * error
    ordinary = kernelfit.find_kernel(image, target, SHAPE, robust=robust, background=degree, boundary="symm")
    assert np.linalg.norm(ordinary.kernel.ravel() - kernel) > 0.3 * error  # it matters


@pytest.mark.parametrize(
    "solver", [kernelfit.NonNegative(), kernelfit.Penalized("gradient", 0.02), kernelfit.Sparse()], ids=str
)
def test_residual_of_another_solver_beside_noise_of_the_image(solver):
    rng = np.random.default_rng(3)
    images, target, _ = scene(rng)
    fit = kernelfit.find_kernel(images[0], target, SHAPE, solver=solver, image_noise=0.2, background=0)
    twin = Twin(images, target, None, 0)
    left = twin.left(fit.kernel)
    assert fit.rss == pytest.approx(left @ left, rel=1e-9)
    assert fit.noise_std == pytest.approx(np.sqrt(left @ left / (twin.spare - fit.df_model)), rel=1e-9)
    beside = twin.left(0 * fit.kernel)
    assert fit.r_squared == pytest.approx(1 - left @ left / (beside @ beside), rel=1e-9)


# ---- the sandwich ---------------------------------------------------------------------------------------------------


@grid("uneven", [False, True], 2)
@pytest.mark.parametrize(
    "n_sources, degree, stride", [(1, 1, (1, 1)), (2, None, (1, 1)), (2, 0, (1, 1)), (1, 1, (2, 1))]
)
def test_the_sandwich(monkeypatch, n_sources, degree, stride, uneven):
    """With the noise's filter given: every score, and what they make of the taps and of the surface."""
    rng = np.random.default_rng(2)
    shaping = np.outer([0.2, 1.0, 0.2], [0.3, 1.0, 0.3])
    # first the door, which is imported when it is needed: it would keep the other's
    monkeypatch.setattr("kernelfit.api.check_noise.shaping_filter", lambda check: shaping)
    monkeypatch.setattr("kernelfit.diagnostics.whiteness.shaping_filter", lambda check: shaping)
    convention = {"boundary": "symm", "stride": stride}
    images, target, _ = scene(rng, n_sources, convention.items(), image_std=0.0)
    weights = rng.random(target.shape) + 0.5 if uneven else None
    twin = Twin(images, target, weights, degree, **convention)
    image, result, more = given(images, target)
    keywords = {"background": degree, "weights": weights, **convention, **more}
    fit = kernelfit.find_kernel(image, result, SHAPE, errors="sandwich", **keywords)
    assert fit.errors == "sandwich" or fit.parts[0].errors == "sandwich"
    every = np.hstack([twin.design, twin.surface]) * np.sqrt(twin.weights)[:, None]
    inverse = np.linalg.inv(every.T @ every)
    lag = np.arange(-2, 3)
    correlation = np.zeros((5, 5))
    for i, j in itertools.product(lag, lag):
        moved = np.roll(np.pad(shaping, 2), (i, j), (0, 1))
        correlation[i + 2, j + 2] = np.sum(np.pad(shaping, 2) * moved)
    rows, cols = np.divmod(np.arange(len(every)), target.shape[1])
    down, across = rows[:, None] - rows, cols[:, None] - cols
    near = (np.abs(down) <= 2) & (np.abs(across) <= 2)
    noise = np.where(near, correlation[np.clip(down, -2, 2) + 2, np.clip(across, -2, 2) + 2], 0.0)
    covariance = inverse @ every.T @ noise @ every @ inverse
    n = fit.kernel.size
    one = fit.parts[0] if fit.parts else fit
    assert_close(one.covariance(), covariance[:n, :n], 1e-8)
    if degree is not None:
        assert_close(fit.background.stderr.ravel(), np.sqrt(np.diag(covariance)[n:]), 1e-8)
    plain = kernelfit.find_kernel(image, result, SHAPE, **keywords)
    later = kernelfit.sandwich_errors(image, result, plain)
    assert_close(later.stderr, fit.stderr, 1e-10)
    if degree is not None:
        assert_close(later.background.stderr, fit.background.stderr, 1e-10)
    assert kernelfit.check_noise(image, result, plain) is not None


# ---- division by frequency ------------------------------------------------------------------------------------------


def laplacian(shape):
    """The square of the five-point Laplacian of a kernel, zero beyond it, over its mean power."""
    rows = []
    for r, c in np.ndindex(shape):
        unit = np.zeros((shape[0] + 4, shape[1] + 4))
        unit[r + 2, c + 2] = 1.0
        rows.append(scipy.ndimage.laplace(unit, mode="constant").ravel())
    return np.array(rows) @ np.array(rows).T / 20


@grid("degree", [None, 0], 3)
@grid("balance", [1e-2, 0.0], 2)
@pytest.mark.parametrize(
    "n_sources, convention",
    [
        (1, {"boundary": "wrap"}),
        (1, {"boundary": "wrap", "stride": (2, 3), "offset": (1, 0)}),
        (2, {"boundary": "wrap", "operation": "correlation"}),
        (2, {"boundary": "wrap", "stride": (1, 2)}),
        (1, {"boundary": "fill", "mode": "full"}),
        (1, {"boundary": "fill", "mode": "full", "stride": (2, 2), "offset": (0, 1)}),
        (2, {"boundary": "fill", "mode": "full", "stride": (3, 1)}),
    ],
    ids=str,
)
def test_division_of_periodic_data(n_sources, convention, balance, degree):
    """It minimises what the pixels say, and the Laplacian."""
    rng = np.random.default_rng(4)
    images, target, _ = scene(rng, n_sources, convention.items(), image_std=0.0, size=(24, 30), shape=(3, 5))
    target = target + (7.0 if degree == 0 else 0.0)
    image, result, more = given(images, target)
    solver = kernelfit.Wiener(balance, detrend=None)
    fit = kernelfit.find_kernel(image, result, (3, 5), solver=solver, background=degree, **convention, **more)
    twin = Twin(images, target, None, degree, (3, 5), **convention)
    level = np.trace(twin.gram) / len(twin.gram) if degree == 0 or convention.get("stride") else None
    every = twin.gram
    level = np.trace(every) / len(every) if level is None else level
    penalty = balance * level * np.kron(np.eye(n_sources), laplacian((3, 5)))
    kernel = twin.solve(every + penalty)
    assert_close(fit.kernel.ravel(), kernel, 1e-8)
    left = twin.left(kernel)
    one = fit.parts[0] if fit.parts else fit
    assert one.rss == pytest.approx(left @ left, rel=1e-6)
    if degree is not None:
        assert_close(fit.background.coefficients.ravel(), twin.coefficients(kernel), 1e-8)
    if balance == 0.0:
        least = kernelfit.find_kernel(image, result, (3, 5), background=degree, **convention, **more)
        assert_close(fit.stderr, least.stderr, 0.25)


@pytest.mark.parametrize("n_sources, stride", [(1, (1, 1)), (2, (1, 1)), (1, (2, 3)), (2, (2, 1))])
@pytest.mark.parametrize("listed", [False, True])
def test_division_of_other_data(n_sources, stride, listed):
    """Nothing is assumed beyond the edge; pairs of unlike sizes."""
    rng = np.random.default_rng(8)
    sizes = [(150, 181), (121, 204)] if listed else [(150, 181)]
    kernels = rng.random((n_sources, 3, 5))
    images, targets = [], []
    for size in sizes:
        image = scipy.ndimage.uniform_filter(rng.random((n_sources, *size)), (1, 2, 2)) + 1
        made = [kernelfit.apply_kernel(i, k, boundary="symm") for i, k in zip(image, kernels, strict=True)]
        target = (np.sum(made, axis=0) + 0.01 * rng.normal(size=size) + 3)[:: stride[0], :: stride[1]]
        first, second, more = given(list(image), target)
        images.append(first)
        targets.append(second)
    pair = (images, targets) if listed else (images[0], targets[0])
    fit = kernelfit.find_kernel(*pair, (3, 5), solver=kernelfit.Wiener(), background=0, stride=stride, **more)
    error = np.linalg.norm(fit.kernel.ravel() - kernels.ravel())
    assert error < 0.05 * np.linalg.norm(kernels)
    assert error < 4 * np.linalg.norm(fit.stderr)
    assert fit.background.coefficients.ravel() == pytest.approx(3.0, abs=0.3)
    assert kernelfit.Verdict.APPROXIMATE in [finding.verdict for finding in fit.findings]


def test_division_with_a_surface_is_refused():
    image, target = np.random.default_rng(0).random((2, 30, 41))
    with pytest.raises(ValueError, match="frequency zero.*need background=0"):
        kernelfit.find_kernel(image, target, (3, 4), solver=kernelfit.Wiener(), background=1)


# ---- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("errors", ["plain", "sandwich"])
@pytest.mark.parametrize(
    "kind", ["background", "mixed", "weights", "photons", "photons and background", "huber", "tukey", "stride"]
)
def test_error_bars_beside_noise_of_the_image(kind, errors):
    """Of 100 pairs: how often the interval of 95 % holds the taps, and the coefficients of the background."""
    if kind in ("huber", "tukey") and errors == "sandwich":
        return
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    n_sources = 2 if kind == "mixed" else 1
    kernels = rng.random((n_sources, 3, 4)) / 4
    std, gain = 0.5, 8.0
    keywords = {"boundary": "symm", "image_noise": std, "errors": errors}
    inside, beside, off = [], [], []
    for _ in range(100):
        clean = 10 + 2 * rng.normal(size=(n_sources, 58, 71))
        made = [kernelfit.apply_kernel(i, k, boundary="symm") for i, k in zip(clean, kernels, strict=True)]
        target = np.sum(made, axis=0)
        sigma = np.full(target.shape, 0.5)
        if kind == "weights":
            sigma = 0.3 + 0.6 * rng.random(target.shape)
            keywords["weights"] = 1 / (sigma**2 + std**2 * np.sum(kernels**2))
        elif "photons" in kind:
            sigma = np.sqrt(target / gain)
            keywords["noise"] = (gain, 0.0)
        elif kind in TUNING:
            keywords["robust"] = kind
        target = target + sigma * rng.normal(size=target.shape)
        if kind in TUNING:
            target[rng.random(target.shape) < 0.03] += 15
        if "background" in kind:
            keywords["background"] = 1
            target += 3.0
        if kind == "stride":
            keywords["stride"], target = (2, 1), target[::2]
        image, result, more = given(list(clean + std * rng.normal(size=clean.shape)), target)
        fit = kernelfit.find_kernel(image, result, (3, 4), **keywords, **more)
        low, high = fit.confidence(0.95)
        truth = kernels.reshape(fit.kernel.shape)
        inside.append(np.mean((low <= truth) & (truth <= high)))
        off.append((fit.kernel - truth).ravel())
        if fit.background is not None:
            distance = np.abs(fit.background.coefficients - [3.0, 0.0, 0.0])
            beside.append(np.mean(distance < 1.96 * fit.background.stderr))
    assert 0.93 <= np.mean(inside) <= 0.97
    # N k is noise that neighbours share: the constant stands on the sum of the taps, which plain errors make too sure
    assert not beside or 0.88 - 0.08 * (errors == "plain") <= np.mean(beside) <= 0.99
    if kind not in TUNING:  # which see the outliers lean to one side
        bias, error = np.mean(off, axis=0), np.std(off, axis=0) / 10
        assert np.abs(bias / error).max() < 4


@pytest.mark.slow
def test_a_background_knows_that_noise_of_the_image_is_slow_behind_a_blur():
    """The scatter of a constant over draws; behind a wide kernel it is several times that of white noise."""
    rng = np.random.default_rng(2)
    clean, kernel = 5 * rng.normal(size=(24, 29)), np.full((3, 4), 1 / 12)
    made = scipy.signal.convolve2d(clean, kernel, mode="valid") + 7.0
    found, told = [], []
    for _ in range(60):
        image = clean + 1.0 * rng.normal(size=clean.shape)
        target = made + 0.05 * rng.normal(size=made.shape)
        fit = kernelfit.find_kernel(image, target, (3, 4), mode="valid", image_noise=1.0, background=0)
        found.append(fit.background.coefficients[0])
        told.append(fit.background.stderr[0])
    assert np.sqrt(np.mean(np.square(told))) == pytest.approx(np.std(found), rel=0.3)
