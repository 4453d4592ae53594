"""The oracle that every other test rests on: loops, a dense matrix and NumPy agree."""

import numpy as np
import pytest

import naive
from helpers import SCENES


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["same", "valid", "full"])
def test_the_oracle_agrees_with_itself(mode):
    for scene in (scene for scene in SCENES if scene.mode == mode):
        by_loops, used = scene.design
        dense, used_dense = naive.design_dense(scene.image, scene.shape, **scene.convention)
        np.testing.assert_array_equal(by_loops, dense, err_msg=str(scene))
        np.testing.assert_array_equal(used, used_dense, err_msg=str(scene))


def test_the_oracle_of_any_dimension_agrees():
    for scene in SCENES[::40]:
        expected, used = scene.design
        words = {**scene.convention, "origin": scene.origin}
        matrix, seen = naive.design_nd(scene.image, scene.shape, **words)
        np.testing.assert_array_equal(matrix.astype(float), expected, err_msg=str(scene))
        np.testing.assert_array_equal(seen, used, err_msg=str(scene))


def test_the_oracle_sees_the_extended_image():
    """A third way to the same matrix: one window of the extended image for each pixel."""
    for scene in SCENES:
        if scene.boundary is None or scene.mode != "same":
            continue
        rows, cols = scene.shape
        origin = naive.default_origin(scene.shape) if scene.origin is None else scene.origin
        low = origin if scene.operation == "correlation" else (rows - 1 - origin[0], cols - 1 - origin[1])
        high = (rows - 1 - low[0], cols - 1 - low[1])
        extended = naive.extend(scene.image, low, high, scene.boundary, scene.fillvalue)
        windows = np.lib.stride_tricks.sliding_window_view(extended, scene.shape)
        if scene.operation == "convolution":
            windows = windows[..., ::-1, ::-1]
        matrix, _ = scene.design
        np.testing.assert_array_equal(matrix, windows.reshape(matrix.shape), err_msg=str(scene))


@pytest.mark.parametrize(
    "boundary, pad", [("wrap", "wrap"), ("symm", "symmetric"), ("mirror", "reflect"), ("nearest", "edge")]
)
def test_the_oracle_extends_as_numpy_does(boundary, pad):
    image = np.random.default_rng(1).normal(size=(4, 6))
    expected = np.pad(image, ((3, 2), (1, 5)), mode=pad)
    np.testing.assert_array_equal(naive.extend(image, (3, 1), (2, 5), boundary), expected)
