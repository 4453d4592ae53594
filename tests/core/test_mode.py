"""Sizes that fit no mode: the message names what may have made such a target."""

import re

import numpy as np
import pytest

import kernelfit
from kernelfit.cli import main
from kernelfit.core.mode import infer_mode

KERNEL = (5, 7)


@pytest.mark.parametrize(
    "image, target, stride, words",
    [
        ((512, 500), (256, 250), (1, 1), "or stride=2, with which 'same' is 256x250"),
        ((512, 500), (254, 247), (1, 1), "or stride=2, with which 'valid' is 254x247"),
        ((90, 120), (45, 30), (1, 1), "or stride=(2, 4), with which 'same'"),
        ((90, 120), (30, 40), (2, 2), "or stride=3, with which 'same'"),
        ((512, 500), (170, 166), (1, 1), "3.012 x 3.012, is not whole, so that no stride fits, unless the target is "),
        ((512, 500), (170, 166), (3, 3), "is not whole; if 3 is right and a remainder was left out, crop the image"),
        ((511, 499), (256, 250), (1, 1), "not whole, so that no stride fits, unless the target is [::2, ::2] ("),
        ((512, 500), (341, 333), (1, 1), "is not whole, so that no stride fits; if the target was resized"),
        ((512, 500), (390, 430), (1, 1), "or say where it lies (mode='crop')"),
        ((512, 500), (512, 500), (2, 2), "1 x 1, is not the stride"),
        ((512, 500), (500, 512), (1, 1), "exchanged: transpose one of the two"),
        ((256, 250), (512, 500), (1, 1), "larger than all of these"),
        ((3, 6), (1, 2), (1, 1), "or stride=3"),
        ((3, 6), (2, 5), (1, 1), "impossible (kernel larger than the image)"),
    ],
)  # fmt: skip
def test_what_the_sizes_say(image, target, stride, words):
    with pytest.raises(ValueError) as error:
        infer_mode(image, target, KERNEL, None, stride)
    assert words in str(error.value)


def pair(value):
    rows, cols = map(int, value) if len(value := re.findall(r"\d+", value)) == 2 else map(int, value * 2)
    return rows, cols


def test_a_stride_that_is_advised_fits():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(400):
        image = tuple(int(n) for n in rng.integers(8, 60, 2))
        target = tuple(int(n) for n in rng.integers(1, 30, 2))
        try:
            infer_mode(image, target, (3, 4), None)
        except ValueError as error:
            text = str(error)
            found = re.search(r"(or|unless)\b.*?\bstride=(\(.*?\)|\d+)(?:, offset=(\(.*?\)|\d+))?", text)
            if found:
                seen.add(found[1])
                infer_mode(image, target, (3, 4), None, pair(found[2]), pair(found[3] or "0"))
    assert seen == {"or", "unless"}


def doors(image, target):
    """Call each door that takes a pair."""
    da = pytest.importorskip("dask.array")
    yield kernelfit.find_kernel, (image, target, KERNEL)
    yield kernelfit.find_kernel, ([image], [target], KERNEL)
    yield kernelfit.accumulate, (image, target, KERNEL)
    yield kernelfit.accumulate_spectra, (image, target, KERNEL)
    yield kernelfit.kernel_map, (image, target, KERNEL, (2, 2))
    yield kernelfit.accumulate_stream, ([(image, target)], KERNEL)
    fit = kernelfit.find_kernel(image, image, KERNEL)
    yield kernelfit.check_boundary, (image, target, fit)
    yield kernelfit.check_noise, (image, target, fit)
    yield kernelfit.scale.find_kernel, (da.from_array(image), da.from_array(target), KERNEL)


def test_every_door_says_so(tmp_path, capsys):
    image = np.random.default_rng(0).random((60, 80))
    for target, words in ((image[::2, ::4], "or stride=(2, 4)"), (image[:21, :27], "2.857 x 2.963, is not whole")):
        for call, given in doors(image, target):
            with pytest.raises(ValueError, match=re.escape(words)):
                call(*given)
        for name, array in (("a.npy", image), ("b.npy", target)):
            np.save(tmp_path / name, array)
        assert main(["find", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--shape", "5,7"]) == 2
        assert words.replace("stride=(2, 4)", "--stride 2,4") in capsys.readouterr().err
