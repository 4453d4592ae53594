"""Laws that hold for every pair: what is done to the pair is done to the kernel, and statistics add."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive
from kernelfit import accumulate, find_kernel

BOUNDARIES = [None, "fill", "wrap", "symm", "mirror", "nearest"]
METHODS = ["direct", "fft"]
factors = st.floats(0.01, 100.0) | st.floats(-100.0, -0.01)


@st.composite
def pairs(draw, boundaries=BOUNDARIES, modes=("same", "valid", "full")):
    """(image, target, keywords) of a determined problem: noise on noise, so that nothing holds by accident."""
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    image_shape = tuple(2 * side + draw(st.integers(3, 14)) for side in shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mode = draw(st.sampled_from(modes))
    keywords = {
        "shape": shape,
        "mode": mode,
        "boundary": draw(st.sampled_from(boundaries)),
        "operation": draw(st.sampled_from(["convolution", "correlation"])),
        "method": draw(st.sampled_from(METHODS)),
    }
    if mode == "same":
        keywords["origin"] = tuple(draw(st.integers(0, side - 1)) for side in shape)
    image = rng.normal(1.0, 1.0, image_shape)
    target = rng.normal(0.5, 1.0, naive.target_shape(image_shape, shape, mode))
    return image, target, keywords


def agree(actual, expected, tolerance=1e-9):
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.slow
@given(pairs(), factors, factors)
def test_scaling_the_pair_scales_the_kernel(pair, a, c):
    image, target, keywords = pair
    plain, scaled = find_kernel(image, target, **keywords), find_kernel(a * image, c * target, **keywords)
    agree(scaled.kernel, plain.kernel * c / a)
    agree(scaled.stderr, plain.stderr * abs(c / a))
    assert scaled.rss == pytest.approx(plain.rss * c**2, rel=1e-9)
    assert scaled.r_squared == pytest.approx(plain.r_squared, abs=1e-9)
    assert scaled.condition == pytest.approx(plain.condition, rel=1e-6)
    assert scaled.verdict is plain.verdict


@pytest.mark.slow
@given(pairs(), st.integers(-120, 120), st.integers(-120, 120))
def test_units_do_not_matter(pair, i, j):
    """However large or small the pixels: nothing in the solve is compared with an absolute number."""
    image, target, keywords = pair
    plain = find_kernel(image, target, **keywords)
    scaled = find_kernel(image * 2.0**i, target * 2.0**j, **keywords)
    agree(scaled.kernel * 2.0 ** (i - j), plain.kernel, 1e-12)
    assert [f.verdict for f in scaled.findings] == [f.verdict for f in plain.findings]
    assert scaled.rank == plain.rank


@pytest.mark.slow
@given(pairs(), factors)
def test_targets_add(pair, c):
    """The kernel is linear in the target."""
    image, target, keywords = pair
    other = np.cos(np.arange(target.size)).reshape(target.shape)
    first, second = find_kernel(image, target, **keywords), find_kernel(image, other, **keywords)
    both = find_kernel(image, target + c * other, **keywords)
    expected = first.kernel + c * second.kernel
    scale = np.linalg.norm(first.kernel) + abs(c) * np.linalg.norm(second.kernel)
    assert np.linalg.norm(both.kernel - expected) <= 1e-9 * scale


@pytest.mark.slow
@given(pairs())
def test_transposing_the_pair_transposes_the_kernel(pair):
    image, target, keywords = pair
    plain = find_kernel(image, target, **keywords)
    turned = {**keywords, "shape": keywords["shape"][::-1]}
    if "origin" in keywords:
        turned["origin"] = keywords["origin"][::-1]
    transposed = find_kernel(image.T, target.T, **turned)
    agree(transposed.kernel, plain.kernel.T)
    agree(transposed.stderr, plain.stderr.T)


@given(pairs(), st.sampled_from([0, 1, (0, 1)]))
def test_mirroring_the_pair_mirrors_the_kernel(pair, axis):
    image, target, keywords = pair
    plain = find_kernel(image, target, **keywords)
    flipped = dict(keywords)
    if "origin" in keywords:
        axes = axis if isinstance(axis, tuple) else (axis,)
        sides = zip(keywords["shape"], keywords["origin"], strict=True)
        flipped["origin"] = tuple(k - 1 - o if i in axes else o for i, (k, o) in enumerate(sides))
    mirrored = find_kernel(np.flip(image, axis), np.flip(target, axis), **flipped)
    agree(mirrored.kernel, np.flip(plain.kernel, axis))


@pytest.mark.slow
@given(pairs())
def test_correlation_is_the_flipped_convolution(pair):
    image, target, keywords = pair
    plain = find_kernel(image, target, **keywords)
    other = {"convolution": "correlation", "correlation": "convolution"}[keywords["operation"]]
    turned = {**keywords, "operation": other}
    if "origin" in keywords:
        turned["origin"] = tuple(k - 1 - o for k, o in zip(keywords["shape"], keywords["origin"], strict=True))
    agree(find_kernel(image, target, **turned).kernel, plain.kernel[::-1, ::-1])


@pytest.mark.slow
@given(pairs(boundaries=["wrap"], modes=("same",)), st.data())
def test_shifting_the_target_shifts_the_origin(pair, data):
    """On a torus a target moved by d is the same kernel laid d further."""
    image, target, keywords = pair
    sign = -1 if keywords["operation"] == "convolution" else 1
    moved = tuple(data.draw(st.integers(0, side - 1)) for side in keywords["shape"])
    shift = tuple(sign * (new - old) for new, old in zip(moved, keywords["origin"], strict=True))
    plain = find_kernel(image, target, **keywords)
    shifted = find_kernel(image, np.roll(target, shift, axis=(0, 1)), **{**keywords, "origin": moved})
    agree(shifted.kernel, plain.kernel)


@pytest.mark.slow
@given(pairs(boundaries=["wrap"], modes=("same",)), st.integers(-40, 40), st.integers(-40, 40))
def test_shifting_the_pair_changes_nothing(pair, down, across):
    image, target, keywords = pair
    plain = find_kernel(image, target, **keywords)
    rolled = find_kernel(*(np.roll(a, (down, across), axis=(0, 1)) for a in (image, target)), **keywords)
    agree(rolled.kernel, plain.kernel)
    assert rolled.rss == pytest.approx(plain.rss, rel=1e-9)


@given(pairs(boundaries=["wrap"], modes=("same",)), st.data())
def test_shifting_the_target_shifts_a_kernel_that_stays_inside(pair, data):
    image, _, keywords = pair
    rows, cols = keywords["shape"]
    inner = data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))
    kernel = np.zeros((rows, cols))
    kernel[: inner[0], : inner[1]] = 1.0 + np.arange(inner[0] * inner[1]).reshape(inner)
    shift = data.draw(st.integers(0, rows - inner[0])), data.draw(st.integers(0, cols - inner[1]))
    sign = 1 if keywords["operation"] == "convolution" else -1
    convention = {name: keywords[name] for name in ("mode", "boundary", "origin", "operation")}
    target = naive.apply(image, kernel, **convention)
    fit = find_kernel(image, np.roll(target, (sign * shift[0], sign * shift[1]), axis=(0, 1)), **keywords)
    agree(fit.kernel, np.roll(kernel, shift, axis=(0, 1)))


@given(pairs(modes=("valid",)), st.data())
def test_statistics_add_in_any_grouping(pair, data):
    """Any cut of the rows adds to the whole; + commutes bit for bit and associates to rounding."""
    image, target, keywords = pair
    rows = target.shape[0]
    cuts = [0, *sorted(data.draw(st.lists(st.integers(1, rows - 1), min_size=2, max_size=4, unique=True))), rows]
    over = keywords["shape"][0] - 1
    needed = keywords["shape"][0] * keywords["shape"][1]
    bands = [(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    bands = [b for b in bands if (b[1] - b[0]) * target.shape[1] >= needed]  # each must stand alone as a problem
    parts = [accumulate(image[a : b + over], target[a:b], **keywords) for a, b in bands]
    if not parts:
        return
    left = parts[0]
    for part in parts[1:]:
        left = left + part
    right = parts[-1]
    for part in parts[-2::-1]:
        right = part + right
    agree(left.gram, right.gram, 1e-14)
    agree(left.moment, right.moment, 1e-12)
    assert left.n_pixels == right.n_pixels == sum(b - a for a, b in bands) * target.shape[1]
    assert left.target_energy == pytest.approx(right.target_energy, rel=1e-14)
    if len(bands) == len(cuts) - 1:
        whole = accumulate(image, target, **keywords)
        agree(left.gram, whole.gram, 1e-13)
        agree(left.moment, whole.moment, 1e-12)
        assert left.target_energy == pytest.approx(whole.target_energy, rel=1e-13)
    first, last = parts[0], parts[-1]
    assert (first + last).gram.tobytes() == (last + first).gram.tobytes()
    assert (first + last).moment.tobytes() == (last + first).moment.tobytes()


@given(pairs())
def test_both_engines_agree(pair):
    image, target, keywords = pair
    direct, fft = (accumulate(image, target, **{**keywords, "method": method}) for method in METHODS)
    agree(fft.gram, direct.gram, 1e-13)
    assert np.linalg.norm(fft.moment - direct.moment) <= 1e-13 * np.sqrt(np.trace(direct.gram) * direct.target_energy)
    assert (fft.n_pixels, fft.supports, fft.convention) == (direct.n_pixels, direct.supports, direct.convention)


@pytest.mark.slow
@given(pairs())
def test_the_residual_is_orthogonal_to_every_tap(pair):
    """The normal equations themselves: A'(y - A k) = 0."""
    image, target, keywords = pair
    fit = find_kernel(image, target, **keywords)
    stats = accumulate(image, target, **keywords)
    gradient = stats.moment - stats.gram @ fit.kernel.ravel()
    assert np.linalg.norm(gradient) <= 1e-11 * np.sqrt(np.trace(stats.gram) * stats.target_energy)


@pytest.mark.slow
@given(pairs(), st.integers(0, 2**32))
def test_no_other_kernel_is_better(pair, seed):
    image, target, keywords = pair
    fit = find_kernel(image, target, **keywords)
    rng = np.random.default_rng(seed)
    keywords = {name: value for name, value in keywords.items() if name not in ("shape", "method")}
    matrix, used = naive.design_dense(image, fit.kernel.shape, **keywords)

    def energy(kernel):
        residual = target[used] - matrix @ kernel.ravel()
        return residual @ residual

    best = energy(fit.kernel)
    assert best == pytest.approx(fit.rss, rel=1e-9, abs=1e-18 * (target**2).sum())
    for size in (1e-3, 1e-1):
        assert best <= energy(fit.kernel + size * rng.normal(size=fit.kernel.shape)) * (1 + 1e-12)
