"""Statistics are added, cropped, taken apart, saved and read again."""

import dataclasses

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_same_bits, assert_same_stats, smooth_image
from kernelfit import accumulate
from kernelfit.core.normal_equations import added


@pytest.mark.parametrize("cut", [1, 90, 199])
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_two_parts_add_to_the_whole(cut, operation, method):
    shape = (6, 3)
    image = smooth_image(205, 140, seed=24)
    target = smooth_image(200, 138, seed=25)
    keywords = {"mode": "valid", "operation": operation, "method": method}
    whole = accumulate(image, target, shape, **keywords)
    top = accumulate(image[: cut + shape[0] - 1], target[:cut], shape, **keywords)
    bottom = accumulate(image[cut:], target[cut:], shape, **keywords)
    assert top.n_pixels + bottom.n_pixels == whole.n_pixels == target.size
    assert_same_stats(top + bottom, whole)
    assert_same_stats(bottom + top, whole)
    np.testing.assert_allclose((top + bottom).solve().kernel, whole.solve().kernel, rtol=0, atol=1e-8)


def test_two_images_with_one_kernel(method):
    pairs = [(smooth_image(*size, seed=26), smooth_image(*size, seed=27)) for size in [(40, 55), (71, 33)]]
    first, second = (accumulate(*pair, (3, 4), boundary="wrap", method=method) for pair in pairs)
    matrices = [naive.design_dense(image, (3, 4), mode="same", boundary="wrap")[0] for image, _ in pairs]
    matrix = np.concatenate(matrices)
    target = np.concatenate([target.ravel() for _, target in pairs])
    assert_same_stats(first + second, naive.products(matrix, target, np.ones(target.size, dtype=bool)))


def test_targets_of_the_same_images_share_a_gram_matrix_in_sums():
    rng = np.random.default_rng(32)
    some, others = ([accumulate(rng.normal(size=(9, 13)), rng.normal(size=(9, 13)), (2, 3))] for _ in range(2))
    some, others = ([dataclasses.replace(one[0], target_sum=float(i)) for i in range(3)] for one in (some, others))
    others[2] = accumulate(*rng.normal(size=(2, 9, 13)), (2, 3))
    found = added(some, others)
    assert found[0].gram is found[1].gram is not found[2].gram
    for one, a, b in zip(found, some, others, strict=True):
        assert_same_bits(one, a + b)
    with pytest.raises(ValueError, match="different kernels"):
        added(some, [dataclasses.replace(others[0], convention=accumulate(*rng.normal(size=(2, 9, 13)), (2, 3),
                     operation="correlation").convention)] * 3)  # fmt: skip


def test_addition_leaves_its_operands_alone():
    rng = np.random.default_rng(30)
    image, target = rng.normal(size=(2, 20, 31))
    first, second = accumulate(image, target, (2, 3)), accumulate(target, image, (2, 3))
    total = first + second
    assert_same_bits(first, accumulate(image, target, (2, 3)))
    assert_same_bits(total, second + first)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (3, 2)},
        {"origin": (1, 0)},
        {"operation": "correlation"},
    ],
    ids=str,
)
def test_different_conventions_do_not_add(change):
    rng = np.random.default_rng(31)
    image = rng.normal(size=(20, 31))
    settings = {
        "shape": (2, 3),
        "boundary": "fill",
        "fillvalue": 0.0,
        "origin": None,
        "operation": "convolution",
        "mode": "same",
    }

    def stats(settings):
        target = rng.normal(size=naive.target_shape(image.shape, settings["shape"], settings["mode"]))
        return accumulate(image, target, **settings)

    first, second = stats(settings), stats({**settings, **change})
    with pytest.raises(ValueError):
        first + second


def test_only_statistics_add():
    rng = np.random.default_rng(32)
    stats = accumulate(*rng.normal(size=(2, 20, 31)), (2, 3))
    with pytest.raises(TypeError):
        stats + 1


def test_statistics_are_frozen():
    rng = np.random.default_rng(33)
    stats = accumulate(*rng.normal(size=(2, 20, 31)), (2, 3))
    with pytest.raises(AttributeError):
        stats.n_pixels = 3


@pytest.fixture
def stats(method):
    rng = np.random.default_rng(36)
    image, target = rng.normal(size=(2, 40, 23))
    return accumulate(
        image, target, (3, 2), boundary="fill", fillvalue=0.1, origin=(2, 0), operation="correlation", method=method
    )


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_saved_statistics_come_back(stats, kind, tmp_path):
    path = tmp_path / "stats.npz"
    stats.save(kind(path))
    back = kernelfit.NormalStats.load(kind(path))
    assert_same_bits(back, stats)
    assert back.convention == stats.convention and back.supports == stats.supports
    assert type(back.n_pixels) is int and type(back.target_energy) is float
    assert_same_bits(back + stats, stats + stats)
    assert back.solve().kernel.tobytes() == stats.solve().kernel.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.npz"]
    with np.load(path, allow_pickle=False) as archive:  # every entry readable without pickle
        assert all(archive[name].dtype != object for name in archive.files)


def test_a_saved_file_is_not_overwritten_unasked(stats, tmp_path):
    path = tmp_path / "stats.npz"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="stats.npz"):
        stats.save(path)
    assert path.read_bytes() == b"precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.npz"]
    stats.save(path, overwrite=True)
    assert_same_bits(kernelfit.NormalStats.load(path), stats)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.npz"]


@pytest.mark.parametrize(
    "content", ["text", "empty", "other npz", "object npz", "half", "all but the end", "fit", "npy"]
)
def test_a_file_that_is_no_statistics_is_refused(content, stats, tmp_path):
    path = tmp_path / "file.npz"
    stats.save(path)
    whole = path.read_bytes()
    path.unlink()
    if content == "text":
        path.write_text("gram,moment\n1,2\n")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "other npz":
        np.savez(path, gram=np.eye(6))
    elif content == "object npz":
        np.savez(path, gram=np.array([{}, None], dtype=object))
    elif content == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "all but the end":
        path.write_bytes(whole[:-30])
    elif content == "fit":
        stats.solve().save(path)
    elif content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.eye(6))
    with pytest.raises(ValueError, match="file.npz"):
        kernelfit.NormalStats.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        kernelfit.NormalStats.load(tmp_path / "nothing.npz")
