"""Kernels that vary over the image by functions that are given as arrays."""

import dataclasses

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close
from kernelfit.core.field import Field
from kernelfit.engines.forward import propagated

SHAPE = (50, 64)


def tables(variation, shape=SHAPE):
    """The functions of another variation as arrays."""
    rows, cols = (a.ravel().astype(float) for a in np.indices(shape))
    return variation.at(rows, cols, shape).reshape(variation.n_functions, *shape)


def pair(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(10, 3, SHAPE)
    target = kernelfit.apply_kernel(image * np.linspace(1, 2, SHAPE[1]), np.full((3, 4), 1 / 12), boundary="symm")
    return image, target + 7 + rng.normal(0, 0.1, SHAPE)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"boundary": "symm", "operation": "correlation", "background": 1},
        pytest.param({"mask": np.random.default_rng(1).random(SHAPE) > 0.8}, marks=pytest.mark.slow),
        {"weights": np.random.default_rng(2).random(SHAPE) + 0.5, "boundary": "wrap"},
        pytest.param({"image_noise": 0.5, "solver": "auto"}, marks=pytest.mark.slow),
    ],
    ids=lambda words: "-".join(words) or "plain",
)
def test_functions_of_a_polynomial_as_arrays_give_the_same(words):
    image, target = pair()
    one, other = (
        kernelfit.find_kernel(image, target, (3, 4), variation=variation, **words)
        for variation in (kernelfit.Polynomial(1), kernelfit.Basis(tables(kernelfit.Polynomial(1))))
    )
    tolerance = 1e-8 if "image_noise" not in words else 5e-3  # whose mean over the field is taken at other places
    assert_close(other.kernel, one.kernel, tolerance)
    assert_close(other.stderr, one.stderr, tolerance)
    assert_close(other.at(13.5, 40.25).kernel, one.at(13.5, 40.25).kernel, tolerance)
    assert_close(other.sum_map(), one.sum_map(), tolerance)
    known = np.isfinite(one.predict(image))
    assert_close(other.predict(image)[known], one.predict(image)[known], tolerance)


def test_kernels_of_two_chips_are_found_exactly():
    rng = np.random.default_rng(3)
    image, kernels = rng.normal(size=(30, 41)), rng.normal(size=(2, 2, 3))
    left = np.zeros(image.shape)
    left[:, :17] = 1
    functions = np.stack([left, 1 - left])
    target = sum(
        naive.apply(image * f, k, mode="same", boundary="fill") for f, k in zip(functions, kernels, strict=True)
    )
    fit = kernelfit.find_kernel(image, target, (2, 3), boundary="fill", variation=kernelfit.Basis(functions))
    assert_close(fit.kernel, kernels, 1e-10)
    assert_close(fit.at(5, 3).kernel, kernels[0], 1e-10)
    assert_close(fit.at(5, 30).kernel, kernels[1], 1e-10)
    assert_close(fit.residual(image, target) + target, target, 1e-10)
    strided = kernelfit.find_kernel(
        image,
        target[1::2, ::3],
        (2, 3),
        boundary="fill",
        variation=kernelfit.Basis(functions),
        stride=(2, 3),
        offset=(1, 0),
    )
    assert_close(strided.kernel, kernels, 1e-9)


def test_variance_through_kernels_of_given_functions():
    rng = np.random.default_rng(4)
    field = Field(kernelfit.Basis(rng.normal(size=(2, 7, 9))), (7, 9))
    conv = dataclasses.replace(kernelfit.Model((3, 2), boundary="mirror").convention("same"), field=field)
    variance, kernel = rng.random((7, 9)), rng.normal(size=(2, 3, 2))
    want = naive.variance_through(
        variance, lambda *at: np.tensordot(field.at(*at), kernel, 1), (3, 2), (1, 0), "mirror"
    )
    assert_close(propagated(variance, kernel, conv), want, 1e-12)


def test_constant_flux():
    image, target = pair()
    functions = tables(kernelfit.Polynomial(1))
    one, other = (
        kernelfit.find_kernel(image, target, (3, 4), variation=variation)
        for variation in (kernelfit.Polynomial(1, flux="constant"), kernelfit.Basis(functions, flux="constant"))
    )
    assert_close(other.kernel, one.kernel, 1e-8)
    assert np.ptp(other.sum_map()) < 1e-9


def test_files_hold_the_functions(tmp_path):
    image, target = pair()
    basis = kernelfit.Basis(tables(kernelfit.Polynomial(1)))
    fit = kernelfit.find_kernel(image, target, (3, 4), variation=basis)
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert again.convention == fit.convention and again.convention.field.variation == basis
    assert np.array_equal(again.predict(image), fit.predict(image), equal_nan=True)
    stats = kernelfit.accumulate(image, target, (3, 4), variation=basis)
    stats.save(tmp_path / "stats.npz")
    loaded = kernelfit.NormalStats.load(tmp_path / "stats.npz")
    assert_close((loaded + stats).solve().kernel, fit.kernel, 1e-8)
    assert "variation=kernelfit.Basis(functions)" in fit.reproduce() and "a basis of 3 functions" in fit.summary()


def test_equal_where_the_functions_are():
    table = np.random.default_rng(5).normal(size=(2, 4, 5))
    one, same, other = kernelfit.Basis(table), kernelfit.Basis(table.copy()), kernelfit.Basis(table + 1)
    table[0, 0, 0] = 99.0  # a copy was kept
    assert one == same and hash(one) == hash(same) and one != other and one.functions[0, 0, 0] != 99
    assert one != kernelfit.Polynomial(2) and one.levels == (1, 1) and repr(one) == "Basis(functions)"


@pytest.mark.parametrize(
    ("functions", "flux", "error", "match"),
    [
        (np.ones(5), "free", ValueError, "need .functions, rows, cols."),
        (np.ones((0, 4, 5)), "free", ValueError, "one at least"),
        (np.full((1, 4, 5), np.nan), "free", ValueError, "NaN or infinite"),
        (np.ones((1, 4, 5)) * 1j, "free", TypeError, "need real numbers"),
        (np.full((1, 4, 5), 2.0), "constant", ValueError, "need np.ones"),
        (np.ones((1, 4, 5)), "some", ValueError, "need one of 'free', 'constant'"),
    ],
)
def test_functions_that_are_none(functions, flux, error, match):
    with pytest.raises(error, match=match):
        kernelfit.Basis(functions, flux=flux)


def test_functions_of_another_shape_are_refused_before_any_work():
    with pytest.raises(ValueError, match="functions on 4x5 pixels for an image of 50x64"):
        kernelfit.find_kernel(*pair(), 3, variation=kernelfit.Basis(np.ones((2, 4, 5))))


def test_one_function_that_is_a_number_is_no_one():
    image = np.random.default_rng(0).random((40, 33))
    target = kernelfit.apply_kernel(image, np.arange(6.0).reshape(2, 3), boundary="symm")
    fit = kernelfit.find_kernel(image, target, (2, 3), variation=kernelfit.Basis(np.full((1, 40, 33), 2.0)))
    assert_close(fit.kernel, np.arange(6.0).reshape(2, 3) / 2, 1e-9)
    with pytest.raises(ValueError, match="functions on 33x40 pixels for an image of 40x33"):
        kernelfit.find_kernel(image, target, (2, 3), variation=kernelfit.Basis(np.full((1, 33, 40), 2.0)))


@pytest.mark.parametrize("at", [0, 1])
def test_a_function_that_is_zero_everywhere_is_named(at):
    functions = np.ones((2, 8, 9))
    functions[at] = 0
    with pytest.raises(ValueError, match=f"got function {at} of 2 .* that is 0 everywhere"):
        kernelfit.Basis(functions)
