"""What masks leave decides: the rank of a background, and whether a mask means the opposite."""

import numpy as np
import pytest
import scipy.ndimage

import kernelfit
import naive
from kernelfit import Verdict, apply_kernel, find_kernel
from kernelfit.core import background

SHAPE = (3, 4)
KERNEL = np.random.default_rng(7).random(SHAPE)


def scene(seed=0, size=(34, 47), degree=2):
    """An image, its target with a surface beside it, and the surface's coefficients."""
    rng = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=size), 0.6) * 20 + 50
    truth = rng.normal(size=background.n_terms(degree))
    surface = background.Background(degree, truth, truth, (size,)).image()
    made = apply_kernel(image, rng.random(SHAPE), boundary="symm")
    return image, made + surface + 0.05 * rng.normal(size=size), truth


def rows_left(size):
    mask = np.ones(size, dtype=bool)
    mask[10:12] = False
    return mask


def columns_left(size):
    mask = np.ones(size, dtype=bool)
    mask[:, [7, 30]] = False
    return mask


@pytest.mark.parametrize("left", [rows_left, columns_left])
@pytest.mark.parametrize("settings", [
    {}, {"solver": kernelfit.ConjugateGradient()}, {"solver": kernelfit.Penalized()}, {"robust": "huber"},
    {"noise": (0.001, 0.05)}, {"errors": "sandwich"}, {"weights": True},
], ids=lambda s: next(iter(s), "plain"))  # fmt: skip
def test_a_background_that_the_mask_leaves_open_is_said(left, settings):
    image, target, truth = scene()
    mask = left(image.shape)
    if "weights" in settings:
        settings = {"weights": 400.0 * ~mask}
    else:
        settings = {**settings, "mask": mask}
    fit = find_kernel(image, target, SHAPE, background=2, **settings)
    assert not fit.verdict.ok
    assert Verdict.BACKGROUND_UNDETERMINED in [f.verdict for f in fit.findings]
    found, error = fit.background.coefficients, fit.background.stderr
    known = np.isfinite(error)
    assert known.sum() == 3 and (np.abs(found - truth) < 5 * error).all()
    assert fit.stderr.max() < 0.2 and np.isfinite(fit.stderr).all()


def test_at_every_door():
    image, target, _ = scene()
    mask, words = rows_left(image.shape), {"background": 2}
    found = kernelfit.accumulate(image, target, SHAPE, mask=mask, **words).solve()
    streamed = kernelfit.accumulate_stream([(image, target, mask)], SHAPE, **words).solve()
    pairs = find_kernel([image, image], [target, target], SHAPE, mask=[mask, None], **words)
    for fit in (found, streamed, pairs):
        assert Verdict.BACKGROUND_UNDETERMINED in [f.verdict for f in fit.findings]
    grid = kernelfit.kernel_map(image, target, 1, (1, 2), mask=mask, **words)
    assert all(Verdict.BACKGROUND_UNDETERMINED in [f.verdict for f in own] for row in grid.findings for own in row)


def test_one_that_is_determined_is_not_doubted():
    image, target, truth = scene(degree=1)
    mask = np.ones(image.shape, dtype=bool)
    mask[10:14, 20:30] = False
    fit = find_kernel(image, target, 2, background=1, mask=mask)
    assert Verdict.BACKGROUND_UNDETERMINED not in [f.verdict for f in fit.findings]
    assert np.isfinite(fit.background.stderr).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pairs", [1, 2])
def test_errors_of_a_background_beside_conjugate_gradients(masked, pairs):
    scenes = [scene(seed, degree=1) for seed in range(pairs)]
    images, targets = [s[0] for s in scenes], [s[1] for s in scenes]
    masks = [np.random.default_rng(i).random(t.shape) < 0.2 * masked for i, t in enumerate(targets)]
    fit = find_kernel(images, targets, SHAPE, background=1, mask=masks, solver=kernelfit.ConjugateGradient())
    blocks, right = [], []
    for i, (image, target, mask) in enumerate(zip(images, targets, masks, strict=True)):
        matrix, inside = naive.design_dense(image, SHAPE, mode="same", boundary=None)
        terms = [background.Background(1, c, c, (target.shape,)).image() for c in np.eye(3)]
        beside = np.zeros((inside.sum(), 3 * pairs))
        beside[:, 3 * i : 3 * i + 3] = np.stack([term[inside] for term in terms], axis=1)
        counts = ~mask[inside]
        blocks.append(np.hstack([matrix, beside])[counts])
        right.append(target[inside][counts])
    design, y = np.vstack(blocks), np.concatenate(right)
    inverse = np.linalg.inv(design.T @ design)
    rest = y - design @ (inverse @ (design.T @ y))
    expected = np.sqrt(rest @ rest / (len(y) - design.shape[1]) * np.diag(inverse))[-3 * pairs :]
    np.testing.assert_allclose(fit.background.stderr.ravel(), expected, rtol=0.03)


# ---- a mask of the opposite meaning ---------------------------------------------------------------------------------


def spoiled(seed=0, size=(70, 90)):
    """An image, a target that is right in a part only, and that part."""
    rng = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=size), 1.0) * 50 + 100
    target = apply_kernel(image, KERNEL, boundary="symm") + 0.3 * rng.normal(size=size)
    right = np.zeros(size, dtype=bool)
    right[8:60, 11:70] = True
    return image, np.where(right, target, rng.normal(size=size) * 60 + 20), right


def doubts(fit):
    return [f.detail for f in fit.findings if "may mean the opposite" in f.detail]


def test_a_mask_of_the_opposite_meaning():
    image, target, right = spoiled()
    fit = find_kernel(image, target, SHAPE, mask=right)
    (text,) = doubts(fit)
    assert "mask= excludes" in text and not fit.verdict.ok
    assert not doubts(find_kernel(image, target, SHAPE, mask=~right))
    (text,) = doubts(find_kernel(image, target, SHAPE, weights=1.0 - right))
    assert "weights= excludes" in text
    spoilt = np.where(right, image, np.random.default_rng(1).normal(size=image.shape) * 60)
    inner = scipy.ndimage.binary_erosion(right, iterations=6)
    (text,) = doubts(find_kernel(spoilt, target, SHAPE, image_mask=inner))
    assert "image_mask= excludes" in text
    holes = target.copy()
    holes[30:33, 20:50] = holes[2, 3] = np.nan  # on either side, but never used
    assert doubts(find_kernel(image, holes, SHAPE, mask=right | np.isnan(holes)))
    constant = np.where(right, target, 255.0)  # what the mask leaves holds nothing at all
    assert doubts(find_kernel(image, constant, SHAPE, mask=right))


def test_in_pairs_and_channels():
    scenes = [spoiled(seed) for seed in range(2)]
    images, targets, rights = (list(part) for part in zip(*scenes, strict=True))
    assert doubts(find_kernel(images, targets, SHAPE, mask=rights))
    assert not doubts(find_kernel(images, targets, SHAPE, mask=[~r for r in rights]))
    stacks = [np.stack(part, axis=-1) for part in (images, targets, rights)]
    for channels in ("shared", "separate", "mixed"):
        words = {"channel_axis": -1, "channels": channels}
        assert doubts(find_kernel(*stacks[:2], SHAPE, mask=stacks[2], **words)), channels


def test_a_poor_fit_under_a_right_mask_is_not_blamed_on_it():
    rng = np.random.default_rng(0)
    image, right = spoiled()[0], spoiled()[2]
    target = apply_kernel(image, rng.random(SHAPE), boundary="symm")
    target += 3 * target.std() * rng.normal(size=target.shape)
    for mask in (right, ~right):
        fit = find_kernel(image, target, SHAPE, mask=mask)
        assert fit.r_squared < 0.5 and not doubts(fit)


# ---- few pixels ---------------------------------------------------------------------------------------------------


def advises_edges(fit):
    return any("declare the boundary" in finding.detail for finding in fit.findings)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, kernelfit.Penalized(), kernelfit.ConjugateGradient()])
def test_few_interior_pixels_bring_up_the_boundary(solver):
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(1, 86))
    target = apply_kernel(signal, rng.normal(size=(1, 40)), boundary="fill", mode="full")
    target += 0.01 * rng.normal(size=target.shape)
    inside = find_kernel(signal, target, (1, 40), solver=solver)
    assert not inside.verdict.ok and advises_edges(inside)
    assert find_kernel(signal, target, (1, 40), solver=solver, boundary="fill").verdict.ok
    # no advice that cannot help: many pixels of an image without detail, or a boundary that is declared already
    flat = np.full((60, 70), 3.0)
    assert not advises_edges(find_kernel(flat, flat, (3, 4), solver=solver))
    assert not advises_edges(find_kernel(signal, target[:, :86], (1, 86), solver=solver, boundary="wrap"))
