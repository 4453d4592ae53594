"""Which pixel stands where beyond an edge, against NumPy's own padding."""

import numpy as np
import pytest

from kernelfit.core.geometry import positions

PADS = {"wrap": "wrap", "symm": "symmetric", "mirror": "reflect", "nearest": "edge", None: "edge", "fill": "edge"}


@pytest.mark.parametrize("boundary", PADS)
@pytest.mark.parametrize("n", [2, 5, 8])
def test_positions_are_those_of_padding(boundary, n):
    room = 3 * n
    padded = np.pad(np.arange(n), room, mode=PADS[boundary])
    for step in (1, 2, 3):
        for start in range(-room, n):
            count = 1 + (n + room - 1 - start) // step
            found = positions(start, count, step, n, boundary)
            np.testing.assert_array_equal(found, padded[start + room :: step][:count], f"{start}, step {step}")
