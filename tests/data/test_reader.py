"""Blocks of an extended image, read and seen without a copy."""

import dataclasses
import itertools

import numpy as np
import pytest

from kernelfit.core.variation import Separable
from kernelfit.data.reader import Reader, read_all

IMAGE = np.arange(1.0, 71.0).reshape(7, 10)


@pytest.mark.parametrize(
    ("shape", "before"), [((7, 10), (0, 0)), ((9, 13), (1, 2)), ((4, 6), (-2, -3)), ((8, 7), (3, -1))]
)
def test_a_part_of_the_array_stands_for_a_block_where_it_holds_it(shape, before):
    """Outside of the shape all reads as zero, beyond the edge as the boundary says; neither is in the array."""
    reader = Reader(IMAGE, shape, before, "wrap")
    whole = reader.block(-3, -3, (shape[0] + 6, shape[1] + 6))
    seen = 0
    for row, col, rows, cols in itertools.product(range(-3, 9), range(-3, 11), (1, 2, 5), (1, 3)):
        view = reader.view(row, col, (rows, cols))
        y, x = row - before[0], col - before[1]
        within = (
            0 <= row <= shape[0] - rows and 0 <= col <= shape[1] - cols and 0 <= y <= 7 - rows and 0 <= x <= 10 - cols
        )
        assert (view is not None) == within
        if view is not None:
            assert np.shares_memory(view, IMAGE)
            np.testing.assert_array_equal(view, reader.block(row, col, (rows, cols)))
            np.testing.assert_array_equal(view, whole[row + 3 : row + 3 + rows, col + 3 : col + 3 + cols])
            seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    "array", [IMAGE.astype(np.float32), IMAGE.astype(">f8"), np.asfortranarray(IMAGE), IMAGE[:, ::2], IMAGE[::-1]]
)
def test_other_arrays_are_copied(array):
    assert Reader(array, array.shape).view(0, 0, (2, 3)) is None


def test_a_stride_or_a_weight_has_no_part_that_stands_for_a_block():
    assert Reader(IMAGE, (3, 5), stride=(2, 2)).view(0, 0, (2, 3)) is None
    assert Reader(IMAGE, IMAGE.shape).view(5, 7, (2, 3)) is not None


def test_what_differs_in_its_weight_alone_is_read_once():
    rng = np.random.default_rng(2)
    seen = []

    class Image:
        shape, pixels = (9, 12), rng.normal(size=(9, 12))

        def __getitem__(self, key):
            seen.append(key)
            return self.pixels[key]

    image, other = Image(), rng.normal(size=(9, 12))
    weights = [None, *(Separable(rng.normal(size=9), rng.normal(size=12)) for _ in range(3))]
    readers = [Reader(image, (6, 5), (1, 2), "symm", stride=(2, 3), weight=weight) for weight in weights]
    readers += [dataclasses.replace(readers[1], before=(0, 1)), dataclasses.replace(readers[2], array=other)]
    expected = [reader.block(-1, 1, (4, 3)) for reader in readers]
    seen.clear()
    single = dataclasses.replace(readers[0]).block(-1, 1, (4, 3))
    once = len(seen)
    seen.clear()
    out = np.empty((6, 4, 3))
    read_all(readers, out, -1, 1)
    assert len(seen) == 2 * once + 1  # without a weight, with weights, and from a place that no edge is near
    assert (out == expected).all()
    assert (out[0] == single).all()
    assert not np.array_equal(out[1], out[2])
