"""What is exported runs in its tool and gives the target."""

import numpy as np
import pytest

import kernelfit

IMAGE = np.random.default_rng(0).normal(100, 20, size=(40, 51))
CASES = [
    {"boundary": "fill", "fillvalue": 7.0},
    {"boundary": "wrap", "origin": (0, 3)},
    {"boundary": "symm", "operation": "correlation"},
    {"boundary": "mirror", "stride": (2, 3), "offset": (1, 2)},
    {"boundary": "nearest", "mode": "full"},
    {"mode": "valid"},
]


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize(("tool", "module"), [("scipy", "scipy"), ("opencv", "cv2"), ("torch", "torch")])
def test_the_source_gives_the_target(tool, module, settings):
    pytest.importorskip(module)
    taps = np.random.default_rng(1).normal(size=(4, 5))
    given = dict(settings)
    target = kernelfit.apply_kernel(IMAGE, taps, **given) + 3.0
    fit = kernelfit.find_kernel(IMAGE, target, (4, 5), background=0, **settings)
    space = {}
    exec(fit.export(tool), space)
    made = space["apply"](IMAGE)
    assert made.shape == target.shape
    np.testing.assert_allclose(made, target, rtol=1e-9, atol=1e-6)


def test_matrices_have_whole_numbers_or_errors():
    noise = np.random.default_rng(2).normal(0, 0.01, IMAGE.shape)
    whole = kernelfit.apply_kernel(IMAGE, np.outer([1, 2, 1], [1, 2, 4, 2, 1]) / 40, boundary="wrap") + noise
    text = kernelfit.find_kernel(IMAGE, whole, (3, 5), boundary="wrap").export("latex")
    assert text.startswith(r"\frac{1}{40}\begin{bmatrix}") and "2 & 4 & 8 & 4 & 2" in text
    other = kernelfit.apply_kernel(IMAGE, np.random.default_rng(3).random((3, 5)), boundary="wrap") + noise
    assert r"\pm" in kernelfit.find_kernel(IMAGE, other, (3, 5), boundary="wrap").export("latex")


def test_what_cannot_be_exported_is_refused():
    fit = kernelfit.find_kernel(IMAGE, IMAGE, (1, 3))
    with pytest.raises(ValueError, match="need one of"):
        fit.export("paint")
    stack = np.stack([IMAGE, 2 * IMAGE], axis=-1)
    with pytest.raises(ValueError, match="split_channels"):
        kernelfit.find_kernel(stack, stack, 1, channel_axis=-1, channels="separate").export("scipy")
    with pytest.raises(ValueError, match="background that varies"):
        kernelfit.find_kernel(IMAGE, IMAGE, (1, 3), background=1).export("scipy")
