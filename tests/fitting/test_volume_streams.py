"""Streams of volumes: the sums of pairs read one after the other, and what is read from files larger than memory."""

import numpy as np
import pytest

import kernelfit
from helpers import assert_close, grid
from kernelfit import accumulate_stream, find_kernel
from kernelfit.fitting.stream import Stream

KERNEL = (2, 3, 2)


def pairs(n=3, noisy=0.1):
    rng = np.random.default_rng(2)
    k = rng.normal(size=KERNEL)
    out = []
    for at in range(n):
        x = rng.normal(0.4, 1.0, (6 + at, 10, 9 + at))
        y = kernelfit.apply_kernel(x, k, boundary="wrap") + noisy * rng.normal(size=x.shape)
        out.append((x, y + 2 * at))
    return out, k


@grid("kind", ["background", "plain", "mask", "nan", "again", "poisson"], 6)
def test_a_stream_is_the_list_of_its_pairs(kind):
    given, _ = pairs()
    words = {"boundary": "wrap", "background": {"background": 1, "poisson": 0, "mask": 0}.get(kind)}
    masks = [np.random.default_rng(at).random(y.shape) < 0.2 for at, (_, y) in enumerate(given)]
    lists, items = dict(words), [{"image": x, "target": y} for x, y in given]
    if kind == "mask":
        lists["mask"] = masks
        items = [{**item, "mask": mask} for item, mask in zip(items, masks, strict=True)]
    elif kind == "nan":
        for item, mask in zip(items, masks, strict=True):
            item["target"] = np.where(mask, np.nan, item["target"])
        words["nan"] = lists["nan"] = "mask"
    elif kind == "poisson":
        items = [{"image": 50 + 9 * i["image"], "target": np.abs(30 * i["target"]) + 20} for i in items]
        words["noise"] = lists["noise"] = "poisson"
    xs, ys = [item["image"] for item in items], [item["target"] for item in items]
    expected = find_kernel(xs, ys, KERNEL, **lists)
    stats = accumulate_stream(items if kind in ("again", "poisson") else iter(items), KERNEL, **words)
    fit = stats.solve()
    assert_close(fit.kernel, expected.kernel, 1e-5 if kind == "poisson" else 1e-9)
    assert_close(fit.stderr, expected.stderr, 1e-4 if kind == "poisson" else 1e-8)
    assert fit.n_pixels == expected.n_pixels and stats.supports == (KERNEL,)
    if words["background"] is not None:
        assert_close(fit.background.coefficients, expected.background.coefficients, 1e-4)
        assert fit.background.shapes == tuple(y.shape for y in ys)
    if kind == "again":
        assert_close(stats.gram, kernelfit.accumulate(xs, ys, KERNEL, **lists).gram, 1e-12)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    given, _ = pairs()
    path, words = tmp_path / "sums.npz", {"boundary": "wrap", "background": 1}
    read = []

    def stream(stop):
        for at, pair in enumerate(given):
            if at == stop:
                raise KeyboardInterrupt
            read.append(at)
            yield pair

    with pytest.raises(KeyboardInterrupt):
        accumulate_stream(stream(2), KERNEL, checkpoint=path, every=0, **words)
    stats = accumulate_stream(stream(9), KERNEL, checkpoint=path, every=0, **words)
    whole = accumulate_stream(given, KERNEL, **words)
    assert_close(stats.gram, whole.gram, 1e-14)
    assert stats.n_pixels == whole.n_pixels and len(stats.backgrounds) == 3
    assert_close(stats.solve().kernel, whole.solve().kernel, 1e-9)
    assert stats.solve().verdict is whole.solve().verdict


@pytest.mark.parametrize("background", [None, 1])
def test_volumes_all_of_whose_voxels_count_are_read_as_accumulate_reads_them(background):
    """To the bit, by any number of threads; others plane by plane."""
    given, _ = pairs(2)
    words = {"boundary": "symm", "background": background, "method": "fft"}
    alone = [kernelfit.accumulate(*pair, KERNEL, **words) for pair in given]
    for workers in (1, 3):
        told = []
        progress = lambda *seen: told.append(seen)  # noqa: E731, B023
        stats = accumulate_stream(iter(given), KERNEL, workers=workers, progress=progress, **words)
        assert [done for _, done, _ in told] == [6, 13]
        np.testing.assert_array_equal(stats.gram, (alone[0] + alone[1]).gram)
        assert stats.n_pixels == sum(alone).n_pixels
        assert stats.solve().notes == sum(alone).solve().notes
        assert stats.solve().verdict is sum(alone).solve().verdict
    masks = [np.zeros(y.shape, dtype=bool) for _, y in given]
    masks[0][2, 3, 4] = True
    expected = kernelfit.accumulate(*map(list, zip(*given, strict=True)), KERNEL, mask=masks, **words)
    assert_close(accumulate_stream(given, KERNEL, mask=masks, **words).gram, expected.gram, 1e-12)
    assert_close(accumulate_stream(given, KERNEL, block=5, **words).gram, (alone[0] + alone[1]).gram, 1e-12)


def test_a_run_killed_between_two_planes_goes_on_with_the_others(tmp_path, monkeypatch):
    """Where a volume was read plane by plane, as one of another version was."""
    given, _ = pairs(2)
    path, words = tmp_path / "sums.npz", {"boundary": "wrap", "method": "fft"}

    def stop(_, done, total):
        if done == 9:  # three planes into the second one
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stream, "_at_once", lambda *_: False)
        accumulate_stream(given, KERNEL, checkpoint=path, every=0, progress=stop, **words)
    told = []
    stats = accumulate_stream(
        given, KERNEL, checkpoint=path, every=0, progress=lambda *seen: told.append(seen[1:]), **words
    )
    assert told[-1] == (13, 13)
    whole = accumulate_stream(given, KERNEL, **words)
    assert_close(stats.gram, whole.gram, 1e-12)
    assert stats.n_pixels == whole.n_pixels


def test_volumes_on_disk_are_read_plane_by_plane(tmp_path):
    (pair, *_), _ = pairs(1)
    for name, array in zip("xy", pair, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    expected = kernelfit.accumulate(*pair, KERNEL, boundary="symm")
    assert_close(kernelfit.accumulate(*mapped, KERNEL, boundary="symm").gram, expected.gram, 1e-14)
    assert_close(accumulate_stream([tuple(mapped)], KERNEL, boundary="symm").gram, expected.gram, 1e-12)
    with pytest.raises(ValueError, match="pair 0.*larger than the volume|pair 0.*no 9x9x9 footprint"):
        accumulate_stream([pair], (9, 9, 9))
    with pytest.raises(ValueError, match="cannot determine the 700 taps of a 7x10x10 kernel"):
        accumulate_stream([tuple(a[:, :10, :10] for a in (np.ones((8, 12, 12)),) * 2)], (7, 10, 10))
