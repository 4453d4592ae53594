"""The noise of complex images: outliers, noise of the image, and noise whose parts are correlated or not alike."""

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close, grid
from kernelfit import Verdict, find_kernel
from kernelfit.core.complex_numbers import raised, taken_apart
from kernelfit.diagnostics import whiteness
from kernelfit.solvers import robust

SHAPES = pytest.mark.parametrize("size, shape", [((33, 24), (2, 3)), ((400,), (4,))], ids=str)


def normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def problem(size, shape, seed=1, noise=0.3, **words):
    """An image, its dense design, which target pixels are used, a kernel, and a target."""
    rng = np.random.default_rng(seed)
    image, kernel = normal(rng, *size) + 1.0, normal(rng, *shape)
    kernel = kernel.real if words.pop("real", False) else kernel
    matrix, used = naive.design_nd(image, shape, **{"mode": "same", "boundary": "symm", **words})
    target = (matrix @ kernel.ravel()).reshape(used.shape)
    return image, matrix, kernel, target + noise * normal(rng, *target.shape)


@pytest.mark.parametrize("criterion, constant", [("huber", 1.501), ("tukey", 5.123), ("clip", 4.397)])
def test_constants_of_moduli(criterion, constant):
    """For circular normal noise: 95 % of the efficiency of least squares, by the definition of the variance."""
    size = np.linspace(0, 12, 200001)
    density = size * np.exp(-(size**2) / 2)
    u = size / constant
    held = {"huber": np.minimum(1, 1 / np.maximum(u, 1e-9)), "tukey": np.maximum(0, 1 - u**2) ** 2, "clip": u <= 1}
    held = held[criterion] * 1.0
    steep = -np.trapezoid(held * size / 2 * np.gradient(density / size.clip(1e-9), size) * size, size)  # by parts
    efficiency = steep**2 / np.trapezoid(held**2 * size**2 / 2 * density, size)
    assert efficiency == pytest.approx({"clip": 0.999}.get(criterion, 0.95), abs=5e-4)
    assert robust.tuning(criterion, moduli=True) == constant


@pytest.mark.slow
@SHAPES
@grid("criterion, kind", [(c, k) for c in ("huber", "tukey", "clip") for k in ("", "mask", "weights", "cg")], 3)
def test_outliers_are_judged_by_their_modulus(criterion, kind, size, shape):
    image, matrix, kernel, target = problem(size, shape)
    rng = np.random.default_rng(0)
    far = rng.random(size) < 0.06
    target[far] += 40 * np.exp(2j * np.pi * rng.random(far.sum()))
    words, weights = {"robust": criterion, "boundary": "symm"}, np.ones(size)
    if kind == "mask":
        words["mask"] = rng.random(size) < 0.1
        weights[words["mask"]] = 0.0
    if kind == "weights":
        weights = words["weights"] = rng.gamma(3, 0.3, size)
    if kind == "cg":
        words["method"] = "cg"
    fit = find_kernel(image, target, shape, **words)
    wanted, covariance = naive.complex_robust(matrix, target.ravel(), criterion, weights.ravel())
    errors = np.sqrt(np.diag(covariance))
    assert np.linalg.norm(fit.kernel.ravel() - wanted) < (0.2 if criterion == "clip" else 0.05) * np.linalg.norm(errors)
    m = len(wanted)
    assert_close(fit.stderr.ravel(), errors[:m] + 1j * errors[m:], 0.06 if kind in ("cg", "weights") else 0.02)
    assert np.linalg.norm(fit.kernel - kernel) < 3 * np.linalg.norm(errors)
    assert fit.weights.shape == target.shape
    assert criterion == "huber" or not np.any(fit.weights[far])
    assert kind == "weights" or f"times {np.sqrt(2) * 0.3:.1f}" in " ".join(fit.notes)
    if kind == "":  # a change of phase changes nothing
        turned = find_kernel(image, target * np.exp(0.7j), shape, **words)
        assert np.linalg.norm(turned.kernel * np.exp(-0.7j) - fit.kernel) < 0.02 * np.linalg.norm(errors)


@SHAPES
@grid("words", [{}, {"real": True}, {"background": 0}, {"robust": "huber"}], 2, ids=str)
def test_noise_of_the_image_is_taken_off(size, shape, words):
    rng = np.random.default_rng(3)
    std = 0.5
    noisy, _, kernel, _ = problem(size, shape, mode="valid", boundary=None)
    clean = noisy
    noisy = clean + std * normal(rng, *size) / np.sqrt(2)
    kernel = kernel.real if "real" in words else kernel
    target = kernelfit.apply_kernel(clean, kernel, mode="valid")
    target = target + 0.1 * normal(rng, *target.shape)
    fit = find_kernel(noisy, target, shape, image_noise=std, **words)
    matrix, _ = naive.design_nd(noisy, shape, mode="valid", boundary=None)
    flat = target.ravel()
    assert fit.image_noise == pytest.approx(std)
    if words == {}:
        found, covariance = naive.complex_image_noise(matrix, flat, std, shape)
        assert_close(fit.kernel.ravel(), found, 1e-9)
        assert_close(fit.covariance(), covariance, 1e-8)
    if "real" in words:
        gram, moment = (matrix.conj().T @ matrix).real, (matrix.conj().T @ flat).real
        assert_close(fit.kernel.ravel(), np.linalg.solve(gram - len(flat) * std**2 * np.eye(len(gram)), moment), 1e-9)
    if "background" in words:
        n = len(flat)
        centred = matrix - matrix.mean(axis=0)
        expected = (n - 1) * np.eye(matrix.shape[1])  # and what of the noise looks like the constant
        taps = np.stack([np.ravel(i) for i in np.indices(shape)], axis=-1)
        used = target.shape
        for i, p in enumerate(taps):
            for j, q in enumerate(taps):
                if i != j:
                    expected[i, j] = -np.prod([s - abs(int(a - b)) for s, a, b in zip(used, p, q, strict=True)]) / n
        gram = centred.conj().T @ centred - std**2 * expected
        assert_close(fit.kernel.ravel(), np.linalg.solve(gram, centred.conj().T @ flat), 1e-9)
    assert np.linalg.norm(fit.kernel - kernel) < 4 * np.linalg.norm(fit.stderr)


def improper(rng, *size):
    return 1.5 * rng.normal(size=size) + 1j * (0.4 * rng.normal(size=size))


@pytest.mark.parametrize("kind", ["white", "improper", "coloured"])
def test_the_residual_by_parts(kind):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(60, 71))
    noise = {"white": normal, "improper": improper, "coloured": normal}[kind](rng, 60, 72)
    noise = noise[:, 1:] + 0.6j * noise[:, :-1] if kind == "coloured" else noise[:, 1:]
    target = kernelfit.apply_kernel(image, normal(rng, 2, 3), boundary="wrap") + noise
    seen = []
    examine = whiteness.examine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whiteness, "examine", lambda *given: seen.append(examine(*given)) or seen[-1])
        fit = find_kernel(image, target, (2, 3), boundary="wrap", errors="sandwich")
        plain = find_kernel(image, target, (2, 3), boundary="wrap")
    check = seen[0]
    if kind == "white":
        assert check.parts is None and check.reach == 0 and plain.verdict.ok
        assert_close(fit.covariance(), plain.covariance(), 0.02)
        return
    assert plain.verdict is Verdict.COLOURED_NOISE
    left = fit.residual(image, target)[:60, 3:67]  # the one tile, of 60 x 64 pixels
    for i, j, lag in ((0, 0, (0, 0)), (1, 1, (0, 1)), (0, 1, (0, 1)), (0, 1, (0, -1)), (1, 0, (2, 1))):
        one, other = ((left.real, left.imag)[part] for part in (i, j))
        pairs = [(t, lag[0] + t, slice(max(0, -lag[1]), 64 - max(0, lag[1]))) for t in range(60 - lag[0])]
        total = sum(one[a, cols] @ other[b, cols.start + lag[1] : cols.stop + lag[1]] for a, b, cols in pairs)
        n = (60 - lag[0]) * (64 - abs(lag[1]))
        if (kind == "coloured") == (i == j):  # what is chance is left out
            assert check.parts[i, j][8 + lag[0], 8 + lag[1]] == pytest.approx(total / n, abs=0.1)
        else:
            assert check.parts[i, j][8 + lag[0], 8 + lag[1]] == pytest.approx(total / n, rel=1e-9)
    if kind == "improper":
        assert "not circular" in str(plain.findings[0])
        # a real image keeps the parts apart, whose errors are those of the parts alone
        matrix, _ = naive.design_nd(image, (2, 3), mode="same", boundary="wrap")
        bread = np.linalg.inv(matrix.T @ matrix)
        errors = np.outer([np.std(left.real), np.std(left.imag)], np.sqrt(np.diag(bread)))
        assert_close(fit.stderr.ravel(), errors[0] + 1j * errors[1], 0.02)


def noise_covariance(shaping, shape):
    """The covariance of both parts of noise ``v_i = sum_j h_ij * e_j`` on a grid, from its definition."""
    reach, places = shaping.shape[-1] // 2, np.array(list(np.ndindex(*shape)))
    whole = np.array(list(np.ndindex(*(n + 2 * reach for n in shape)))) - reach
    apart = places[:, None] - whole[None] + reach
    inside = ((apart >= 0) & (apart <= 2 * reach)).all(axis=-1)
    at = tuple(np.where(inside, apart[..., axis], 0) for axis in range(len(shape)))
    filters = np.block([[np.where(inside, shaping[i, j][at], 0.0) for j in range(2)] for i in range(2)])
    return filters @ filters.T


@pytest.mark.slow
@SHAPES
@grid("words", [{}, {"mask": True, "background": 0}, {"real": True}, {"stride": 2}], 2, ids=str)
def test_the_sandwich_is_that_of_the_dense_problem(size, shape, words, monkeypatch):
    rng = np.random.default_rng(4)
    words = {"mode": "same", "boundary": "symm", **words}
    convention = {k: v for k, v in words.items() if k not in ("mask", "background")}
    image, matrix, _, target = problem(size, shape, noise=0.0, **convention)
    noise = improper(rng, *target.shape)
    target = target + noise + 0.7j * np.roll(noise, 1, axis=-1)
    keep = np.ones(target.size, dtype=bool)
    if "mask" in words:
        words["mask"] = rng.random(target.shape) < 0.1
        keep = ~words["mask"].ravel()
    seen = []
    shape_of = whiteness.shaping_filter
    monkeypatch.setattr(whiteness, "shaping_filter", lambda check: seen.append(shape_of(check)) or seen[-1])
    fit = find_kernel(image, target, shape, **words, errors="sandwich")
    assert fit.errors == "sandwich" and seen[0].shape[:2] == (2, 2)
    shaping = seen[0] if len(size) == 2 else seen[0][:, :, seen[0].shape[2] // 2]
    cov = noise_covariance(shaping, target.shape)[np.ix_(*[np.tile(keep, 2)] * 2)]
    design, count = matrix[keep], np.count_nonzero(keep)
    if "background" in words:
        design = np.concatenate([design, np.ones((count, 1))], axis=1)
    parts = np.block([[design.real, -design.imag], [design.imag, design.real]])
    if "real" in words:
        parts = parts[:, : design.shape[1]]
    bread = np.linalg.inv(parts.T @ parts)
    truth = bread @ parts.T @ cov @ parts @ bread
    m = matrix.shape[1]
    taps = np.r_[:m, design.shape[1] : design.shape[1] + m] if "real" not in words else np.r_[:m]
    assert_close(fit.covariance(), truth[np.ix_(taps, taps)], 1e-8)
    if "background" in words:
        errors = np.sqrt(np.diag(truth))
        assert_close(fit.background.stderr.ravel(), [errors[m] + 1j * errors[-1]], 1e-8)


def test_what_the_noise_of_complex_numbers_refuses():
    image, _, _, target = problem((33, 24), (2, 3))
    with pytest.raises(ValueError, match="same in both parts of the target"):
        find_kernel(image.real, target, (2, 3), image_noise=0.1)
    with pytest.raises(ValueError, match="judged by their modulus"):
        kernelfit.accumulate_stream([(image, target)], (2, 3), robust="huber")
    with pytest.raises(ValueError, match="pixels that count alike"):
        kernelfit.accumulate(image, target, (2, 3), image_noise=0.1)
    stats = kernelfit.accumulate(image, target, (2, 3), robust="huber", boundary="symm")
    fit = find_kernel(image, target, (2, 3), robust="huber", boundary="symm")
    assert_close(stats.solve().kernel, fit.kernel, 1e-3)


@pytest.mark.parametrize("words", [{"background": 1, "mask": True}, {"real": True}], ids=str)
def test_a_fit_taken_apart_is_put_together_again(words):
    image, _, _, target = problem((33, 24), (2, 3), **{k: v for k, v in words.items() if k == "real"})
    if "mask" in words:
        words = {**words, "mask": [np.arange(target.size).reshape(target.shape) % n == 0 for n in (7, 5)]}
    fit = find_kernel([image, image[::-1]], [target, target[::-1]], (2, 3), boundary="symm", **words)
    again = raised(taken_apart(fit))
    for name in ("kernel", "noise_std", "stderr"):
        assert_close(getattr(again, name), getattr(fit, name), 1e-14)
    for name in ("rank", "n_pixels", "df_model", "priors", "convention"):
        assert getattr(again, name) == getattr(fit, name), name
    if fit.background is not None:
        assert_close(again.background.coefficients, fit.background.coefficients, 1e-14)
        assert [np.array_equal(a, b) for a, b in zip(again.weights, fit.weights, strict=True)] == [True, True]


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("real", [False, True])
def test_noise_of_both_parts_is_looked_at(size, shape, real):
    """The mean products of the residual's real parts and of its imaginary ones, and error bars from them."""
    image, _, kernel, target = problem(size, shape, real=real)
    rng = np.random.default_rng(7)
    loud = normal(rng, *size)
    target += loud + np.roll(loud, 1, -1)
    words = {"boundary": "symm", "real": real}
    plain = find_kernel(image, target, shape, **words)
    check, left = kernelfit.check_noise(image, target, plain), plain.residual(image, target)
    assert check.coloured and check.reach >= 1 and check.n_pixels == 2 * target.size
    for lag in ((0, 0), (0, 1), (2, -3))[: 3 if len(size) == 2 else 2]:
        own = lag[2 - len(size) :]
        here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(own, size, strict=True))
        there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(own, size, strict=True))
        mean = np.mean((left[here].conj() * left[there]).real) / 2
        middle = tuple(n // 2 + d for n, d in zip(check.autocovariance.shape, own, strict=True))
        assert_close(check.autocovariance[middle], mean, 1e-9)
    after = kernelfit.sandwich_errors(image, target, plain)
    asked = find_kernel(image, target, shape, errors="sandwich", **words)
    assert_close(after.covariance(), asked.covariance(), 1e-9)
    assert after.errors == "sandwich" and after.n_pixels == plain.n_pixels and after.noise_std == plain.noise_std


@pytest.mark.slow
@SHAPES
@grid(
    "made, real, masked", [(b, r, m) for b in ("fill", "wrap", "mirror", "nearest") for r in (0, 1) for m in (0, 1)], 4
)
def test_the_boundary_of_complex_images(made, real, masked, size, shape):
    shape = tuple(n + 3 for n in shape)
    image, _, _, target = problem(size, shape, boundary=made, noise=0.01, real=bool(real))
    words = {"mask": np.random.default_rng(0).random(size) < 0.1} if masked else {}
    fit = find_kernel(image, target, shape, real=bool(real), boundary="symm", **words)
    check = kernelfit.check_boundary(image, target, fit, **words)
    assert check.best == made and check.declared == "symm"
    inside = find_kernel(image, target, shape, real=bool(real), **words)
    assert check.interior == pytest.approx(inside.noise_std, rel=1e-6)
    assert check.rows[0].ratio == pytest.approx(1.0, abs=0.4)


def test_a_value_beyond_the_edge_of_complex_images_is_real():
    rng = np.random.default_rng(0)
    image, kernel = normal(rng, 30, 26), normal(rng, 3, 5)
    target = kernelfit.apply_kernel(image, kernel, boundary="fill", fillvalue=3.0) + 0.01 * normal(rng, 30, 26)
    check = kernelfit.check_boundary(image, target, find_kernel(image, target, (3, 5)))
    assert check.best == "fill" and check.rows[0].fillvalue == pytest.approx(3.0, abs=0.01)
    margin = find_kernel(image, target, (3, 5), boundary="fill", fillvalue=3.0)
    assert margin.verdict is Verdict.SOLVED  # by the same comparison, which each fit makes of its own boundary


@pytest.mark.parametrize("verb", [kernelfit.check_boundary, kernelfit.check_noise, kernelfit.sandwich_errors])
def test_a_pair_of_other_numbers_than_the_fits_is_refused(verb):
    rng = np.random.default_rng(8)
    image = rng.random((21, 26)) + 1j * rng.random((21, 26))
    target = kernelfit.apply_kernel(image, rng.random((2, 3)))
    for fit, pair, words in (
        (kernelfit.find_kernel(image, target, (2, 3)), (image.real, target.real), "a real pair .* a complex one"),
        (kernelfit.find_kernel(image.real, target.real, (2, 3)), (image, target), "a complex pair .* a real one"),
    ):
        with pytest.raises(TypeError, match=words):
            verb(*pair, fit)
