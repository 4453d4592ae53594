"""Streams of pairs, blocks of large ones, and checkpoints: always the same sums, however often they are interrupted."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import kernelfit
import naive
from helpers import ENVIRONMENT, SCENES, assert_close, assert_same_bits, assert_same_stats, grid, observe
from kernelfit import accumulate, accumulate_stream
from kernelfit.data import blocks, cells, chunked
from kernelfit.data.blocks import Box, Tree
from kernelfit.fitting import stream


def frames(n, shape=(40, 53), kernel=(3, 4), seed=0):
    """n pairs that share a kernel, each target with noise of its own."""
    rng = np.random.default_rng(seed)
    taps = rng.normal(size=kernel)
    for _ in range(n):
        image = rng.normal(1.0, 1.0, shape)
        target = naive.apply(image, taps, mode="valid", boundary=None)
        yield image, target + rng.normal(size=target.shape)


def small_pair(shape=(61, 47), seed=0):
    return tuple(np.random.default_rng(seed).normal(0.5, 1.0, (2, *shape)))


# ---- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@grid("part", range(4), 4)
def test_blocks_add_up_to_the_loops(method, part):
    """Every convention, in blocks smaller than the kernel's halo: each reads its own surroundings."""
    for scene in SCENES[8 * part + 4 * (method == "fft") :: 32]:
        expected = naive.products(scene.design[0], np.asarray(scene.target), scene.design[1])
        keywords = {**scene.convention, "block": (4, 5), "method": method, "workers": 1}
        assert_same_stats(accumulate_stream([(scene.image, scene.target)], scene.shape, **keywords), expected)


def test_blocks_cover_every_pixel_once_and_end_where_chunks_end():
    class Stored:
        shape, dtype, chunks = (3000, 5001), np.dtype("u2"), (300, 700)

        def __getitem__(self, key):
            return np.zeros(self.shape, self.dtype)[key]

    keywords = {"mode": None, "boundary": None, "fillvalue": 0.0, "origin": None, "operation": "convolution"}
    for kernel in ((5, 7), (40, 3)):
        observation = observe(Stored(), Stored(), kernel, **keywords)
        boxes = blocks.cut(observation)
        seen = np.zeros(observation.size, int)
        for box in boxes:
            seen[box.row : box.row + box.rows, box.col : box.col + box.cols] += 1
        assert (seen == 1).all() and len(boxes) >= 4
        top, left = observation.geometry.offset
        assert all(box.row == 0 or (box.row + top) % 300 == 0 for box in boxes)
        assert all(box.col == 0 or (box.col + left) % 700 == 0 for box in boxes)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 67, 513])
def test_the_tree_adds_as_nested_groups_do(n):
    parts = list(np.random.default_rng(n).normal(size=n) * 10.0 ** np.arange(n % 5, n % 5 + n).clip(0, 9))
    level = parts
    while len(level) > 1:
        groups = [level[i : i + blocks.FAN] for i in range(0, len(level), blocks.FAN)]
        level = [sum(group[1:], group[0]) for group in groups]
    assert blocks.in_tree(parts, lambda a, b: a + b) == level[0]
    tree = Tree(lambda a, b: a + b)
    for part in parts:
        tree.push(part)
    assert len(tree.levels) <= 1 + np.log(n) / np.log(blocks.FAN) + 1e-9


def test_a_box_is_a_problem_of_its_own():
    image, target = small_pair()
    observation = observe(
        image, target, (4, 3), mode="same", boundary="wrap", fillvalue=0.0, origin=(3, 0), operation="correlation"
    )
    part = blocks.sub_observation(observation, Box(50, 40, 11, 7))
    assert part.geometry.n_pixels == 77 and part.size == (11, 7)
    extended = naive.extend(image, (3, 0), (0, 2), "wrap")
    np.testing.assert_array_equal(part.sources[0].block(0, 0, (14, 9)), extended[50:64, 40:49])
    np.testing.assert_array_equal(part.targets[0].block(0, 0, (11, 7)), target[50:, 40:])


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_is_the_sum_of_its_pairs(method):
    pairs = list(frames(11))
    expected = accumulate(*pairs[0], (3, 4), method=method)
    for image, target in pairs[1:]:
        expected = expected + accumulate(image, target, (3, 4), method=method)
    assert_same_stats(accumulate_stream(iter(pairs), (3, 4), method=method), expected, 1e-13)


@pytest.mark.slow
def test_the_number_of_workers_and_the_kind_of_iterable_do_not_matter(monkeypatch):
    pairs = list(frames(9))
    first = accumulate_stream(pairs, (3, 4), block=(16, 20), workers=1)
    for large in (2**19, 100, 1):  # pixels from which on all workers share a block
        monkeypatch.setattr(stream, "_LARGE", large)
        assert_same_bits(accumulate_stream((p for p in pairs), (3, 4), block=(16, 20), workers=3), first)


def test_pairs_smaller_than_the_kernel_count():
    """Tiles of a few pixels each do not determine a kernel, all together they do."""
    image, target = small_pair((30, 21))
    whole = target[:28, :18]
    tiles = [
        (image[r : r + 2 + 2, c : c + 3 + 3], whole[r : r + 2, c : c + 3])
        for r in range(0, 28, 2)
        for c in range(0, 18, 3)
    ]
    stats = accumulate_stream(tiles, (3, 4))
    assert_same_stats(
        stats, naive.normal_stats_dense(image[:30], target[:28, :18], (3, 4), mode="valid", boundary=None)
    )


def test_few_pairs_are_alive_at_a_time():
    alive, most, lock = 0, 0, threading.Lock()

    class Image(np.ndarray):
        def __del__(self):
            nonlocal alive
            if self.base is None:
                with lock:
                    alive -= 1

    def make():
        nonlocal alive, most
        for i in range(40):
            image = np.ndarray.__new__(Image, (30, 25))
            image[...] = np.random.default_rng(i).normal(size=(30, 25))
            with lock:
                alive += 1
                most = max(most, alive)
            yield image, np.asarray(image[1:-1, 2:]).copy()
            del image

    accumulate_stream(make(), 3, workers=2)
    assert 1 <= most <= 8


def test_progress_counts_blocks():
    told = []
    accumulate_stream(list(frames(6)), (3, 4), block=20, progress=lambda *a: told.append(a))
    assert [t[:2] for t in told] == [("reading pixels", i + 1) for i in range(36)]
    assert {t[2] for t in told} == {36}


def test_what_is_refused():
    good = list(frames(3))
    with pytest.raises(ValueError, match="got no pairs, need at least one"):
        accumulate_stream([], 3)
    with pytest.raises(TypeError, match=r"write \[\(image, target\)\]"):
        accumulate_stream(good[0], 3)
    with pytest.raises(TypeError, match="pair 3: got an item of type float, need a pair"):
        accumulate_stream([*good, 1.0], (3, 4))
    with pytest.raises(ValueError, match="pair 3: got image 40x53, target 7x9"):
        accumulate_stream([*good, (good[0][0], good[0][1][:7, :9])], (3, 4))
    spoiled = good[1][0].copy()
    spoiled[7, 5] = np.nan
    with pytest.raises(ValueError, match=r"pair 2: got image with 1 pixel that is NaN .* \(7, 5\)"):
        accumulate_stream([*good[:2], (spoiled, good[1][1])], (3, 4))
    with pytest.raises(ValueError, match="6 target pixels of 1 pairs cannot determine the 12 taps"):
        accumulate_stream([(good[0][0][:4, :6], good[0][1][:2, :3])], (3, 4))
    for keywords, text in (
        ({"block": 0}, "got block=0, need at least one row"),
        ({"every": -1}, "got every=-1, need a number of seconds"),
        ({"method": "cg"}, r"got ConjugateGradient\(\) with statistics alone"),
        ({"mode": "sane"}, "got mode='sane'"),
        ({"workers": 0}, "got workers=0"),
    ):
        with pytest.raises(ValueError, match=text):
            accumulate_stream(good, (3, 4), **keywords)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pair(monkeypatch):
    """Pixels are made as they are asked for: 84 MB of each array, of which a part is alive at a time."""
    import tracemalloc

    monkeypatch.setattr(chunked, "BUDGET", 2**22)

    class Stored:
        chunks, dtype, ndim = (512, 512), np.dtype("u2"), 2

        def __init__(self, rows, factor):
            self.shape, self.factor = (rows, 3001), factor

        def __getitem__(self, key):
            rows, cols = (np.arange(*k.indices(n), dtype=np.uint16) for k, n in zip(key, self.shape, strict=True))
            return (rows[:, None] * self.factor ^ cols * 40503) % np.uint16(251)

    tracemalloc.start()
    try:
        stats = accumulate_stream([(Stored(14000, 31), Stored(14000, 77))], (3, 4), saturated=None, workers=2)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert stats.n_pixels == (14000 - 2) * (3001 - 3)
    assert peak < 110  # of 160 that the pair holds; seen: 53, up to 105 where other processes hold the threads up


# ---- checkpoints ----------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def broken_off(pairs, after, **keywords):
    """Run until `after` blocks are told of, then be interrupted."""

    def progress(stage, done, total):
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        accumulate_stream(pairs, (3, 4), progress=progress, **keywords)


@grid("after, every", [(6, 0), (1, 3600), (24, 3600), (65, 0)], 4)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, after, every):
    pairs = list(frames(11))
    settings = {"block": (16, 20), "workers": 2}
    whole = accumulate_stream(pairs, (3, 4), **settings)
    file = tmp_path / "sums.npz"
    broken_off(pairs, after, checkpoint=file, every=every, **settings)
    read = []
    told = lambda stage, done, total: read.append((done, total))  # noqa: E731
    again = accumulate_stream(iter(pairs), (3, 4), checkpoint=file, progress=told, **settings)
    assert_same_bits(again, whole)
    assert read[0][0] == after + 1 and read[-1] == (66 + 33, 66 + 33)
    # what is finished is not read again, and a longer stream adds only what is new
    assert_same_bits(accumulate_stream(pairs, (3, 4), checkpoint=file, progress=broken_off, **settings), whole)
    more = [*pairs, *frames(2, seed=9)]
    assert_same_bits(
        accumulate_stream(more, (3, 4), checkpoint=file, **settings), accumulate_stream(more, (3, 4), **settings)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["sums.npz"]


def test_an_error_in_a_pair_leaves_what_was_read_before(tmp_path):
    pairs = list(frames(5))
    spoiled = np.full_like(pairs[3][0], np.inf)
    file = tmp_path / "sums.npz"
    with pytest.raises(ValueError, match="pair 3: got image"):
        accumulate_stream([*pairs[:3], (spoiled, pairs[3][1])], (3, 4), checkpoint=file, workers=1)
    read = []
    stats = accumulate_stream(pairs, (3, 4), checkpoint=file, progress=lambda *a: read.append(a[1]))
    assert read == [4, 5]
    assert_same_bits(stats, accumulate_stream(pairs, (3, 4)))


def test_a_call_that_is_refused_leaves_no_empty_checkpoint(tmp_path):
    file = tmp_path / "sums.npz"

    def stopped():
        raise KeyboardInterrupt
        yield

    pairs = [(np.ones((9, 8)), np.ones((3, 4)))]
    for refused, text in ((pairs, "pair 0: got"), ([], "got no pairs"), ([3], "pair 0: got an item of type int")):
        with pytest.raises((TypeError, ValueError), match=text):
            accumulate_stream(refused, (3, 4), checkpoint=file)
        assert not file.exists()
    with pytest.raises(KeyboardInterrupt):
        accumulate_stream(stopped(), (3, 4), checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="pair 0: got"):
        accumulate_stream(pairs, (3, 4), checkpoint=file)
    assert file.read_bytes() == before


def test_a_foreign_checkpoint_is_refused_and_left_alone(tmp_path):
    pairs = list(frames(5))
    file = tmp_path / "sums.npz"
    broken_off(pairs, 3, checkpoint=file, every=0)
    before = file.read_bytes()
    others = list(frames(5, seed=1))
    again = {"checkpoint": file, "every": 0}

    def refused(text, pairs, shape=(3, 4), **keywords):
        with pytest.raises(ValueError, match=text):
            accumulate_stream(pairs, shape, **again, **keywords)
        assert file.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["sums.npz"]

    refused(r"written with shape=\[3, 4\], and a call with shape=\[4, 3\]; repeat the call", pairs, (4, 3))
    refused(r"written with operation='convolution', and", pairs, operation="correlation")
    refused(r"written with block=None, and a call with block=\[16, 16\]", pairs, block=16)
    refused("another stream: one of its first 3 pairs is not the same", others)
    refused("another stream: one of its first 3 pairs", [pairs[1], pairs[0], *pairs[2:]])
    refused("it had at least 3 pairs, this one has 2", pairs[:2])
    for content in (before[: len(before) // 2], before[:-1], b"", b"my thesis"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="got no complete file saved by kernelfit"):
            accumulate_stream(pairs, (3, 4), **again)
        assert file.read_bytes() == content
    file.unlink()
    accumulate(*pairs[0], (3, 4)).save(file)
    before = file.read_bytes()
    refused("holds 'NormalStats', need a 'Checkpoint'", pairs)


def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(tmp_path):
    def never():
        raise AssertionError("asked for a pair")
        yield

    with pytest.raises(FileNotFoundError, match="there is no folder .*; make it first"):
        accumulate_stream(never(), 3, checkpoint=tmp_path / "no" / "sums.npz")


@grid("limit", [300, 0, 1500], 3)
def test_a_full_disk_does_not_stop_the_run(tmp_path, limit):
    """Files of this process may not grow beyond `limit` bytes, as on a disk that is full."""
    pairs = list(frames(8))
    file = tmp_path / "sums.npz"
    broken_off(pairs, 2, checkpoint=file, every=0)
    before = file.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stats = accumulate_stream(pairs, (3, 4), checkpoint=file, every=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert_same_bits(stats, accumulate_stream(pairs, (3, 4)))
    assert len(caught) == 1 and caught[0].category is RuntimeWarning
    assert "cannot be written" in str(caught[0].message) and "the run goes on" in str(caught[0].message)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["sums.npz"]
    assert_same_bits(accumulate_stream(pairs, (3, 4), checkpoint=file), stats)


def test_a_disk_with_room_again_is_written_to(tmp_path, monkeypatch):
    pairs = list(frames(8))
    file = tmp_path / "sums.npz"
    real, calls = kernelfit.core.npz.save, []

    def full(*args, **keywords):
        calls.append(args)
        if 3 <= len(calls) <= 5:
            raise OSError(28, "No space left on device")
        return real(*args, **keywords)

    monkeypatch.setattr(kernelfit.core.npz, "save", full)
    with pytest.warns(RuntimeWarning, match="No space left on device") as caught:
        stats = accumulate_stream(pairs, (3, 4), checkpoint=file, every=0)
    assert len(caught) == 1 and len(calls) == 9
    assert_same_bits(accumulate_stream(pairs, (3, 4), checkpoint=file), stats)


KILLED = """
import sys, numpy as np, kernelfit
path, checkpoint = sys.argv[1:]
image, target = np.load(path, mmap_mode="r")
print("ready", flush=True)
stats = kernelfit.accumulate_stream([(image, target)], (5, 7), block=(64, 96), checkpoint=checkpoint, every=0)
stats.save(checkpoint + ".done")
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """kill -9 after a random time, until the run ends by itself."""
    data = np.random.default_rng(5).normal(size=(2, 700, 900))
    np.save(tmp_path / "pair.npy", data)
    expected = accumulate_stream([(data[0], data[1])], (5, 7), block=(64, 96))
    file = str(tmp_path / "sums.npz")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "pair.npy"), file]
    rng = np.random.default_rng()
    kills = 0
    for attempt in range(3):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
        process.stdout.readline()
        if attempt < 2:
            while not os.path.exists(file) and process.poll() is None:
                time.sleep(0.005)
            time.sleep(float(rng.uniform(0.0, 0.4)))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        else:
            assert process.wait() == 0
        process.stdout.close()
    assert kills >= 1
    assert_same_bits(kernelfit.NormalStats.load(file + ".done"), expected)


def test_blocks_that_are_put_together_from_chunks_do_not_overwrite_each_other(monkeypatch):
    monkeypatch.setattr(cells, "LEAST", 8)
    rng = np.random.default_rng(4)
    image, target = rng.normal(size=(83, 61)), rng.normal(size=(83, 61))

    class Stored:
        shape, dtype, ndim = image.shape, image.dtype, 2

        def __init__(self, array, sides):
            self.array, self.chunks = array, sides

        def __getitem__(self, key):
            return self.array[key]

    stored = Stored(image, (9, 13)), Stored(target, (11, 8))
    for workers, large in ((1, 1), (3, 2**19), (3, 1), (3, 100)):  # the last: large blocks and small ones in turn
        monkeypatch.setattr(stream, "_LARGE", large)
        read = accumulate_stream([stored], (3, 4), block=(20, 16), workers=workers)
        assert_same_bits(read, accumulate_stream([(image, target)], (3, 4), block=(20, 16), workers=1))


# ---- masks and weights ----------------------------------------------------------------------------------------------


def marked(shape, seed=5):
    """A mask of blobs and single pixels, for a target of this shape."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.03
    mask[5:13, 20:31] = True
    return mask


@pytest.mark.parametrize(
    "convention",
    [
        {},
        {"boundary": "wrap", "origin": (0, 3)},
        {"boundary": "mirror", "operation": "correlation"},
        {"stride": (2, 3)},
    ],
    ids=str,
)
def test_masks_and_weights_in_blocks_are_the_loops_over_the_rest(convention):
    rng = np.random.default_rng(2)
    image = rng.normal(0.5, 1.0, (62, 45))
    steps = convention.get("stride", (1, 1))
    target = rng.normal(0.5, 1.0, (-(-62 // steps[0]), -(-45 // steps[1])))
    mask, image_mask = marked(target.shape), rng.random(image.shape) < 0.004
    image_mask[0, 3] = image_mask[-1, -1] = True  # which a boundary mirrors
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], target.shape, p=[0.05, 0.1, 0.8, 0.05])
    for more in ({"mask": mask}, {"image_mask": image_mask}, {"mask": mask, "weights": weights}):
        expected = accumulate(image, target, (3, 4), **more, **convention)
        for block in (None, (13, 9)):
            pairs = [{"image": image, "target": target, **more}]
            stats = accumulate_stream(pairs, (3, 4), block=block, workers=2, mode="same", **convention)
            assert_same_stats(stats, expected, 1e-12)
            assert stats.n_pixels == expected.n_pixels and stats.total_weight == pytest.approx(expected.total_weight)
    if not convention:
        matrix, used = naive.design_dense(image, (3, 4), mode="same", boundary=None)
        bad, _ = naive.design_dense(image_mask.astype(float), (3, 4), mode="same", boundary=None)
        keep = ~mask[used] & ~bad.any(axis=1)
        stats = accumulate_stream(
            [{"image": image, "target": target, "mask": mask, "image_mask": image_mask}], (3, 4), block=(13, 9)
        )
        assert stats.n_pixels == keep.sum()
        np.testing.assert_allclose(stats.gram, matrix[keep].T @ matrix[keep], atol=1e-10)
        np.testing.assert_allclose(stats.moment, matrix[keep].T @ target[used][keep], atol=1e-10)


def test_a_stream_with_masks_is_the_fit_in_memory():
    pairs = list(frames(4, (50, 41)))
    excluded = [marked(target.shape, seed=i) for i, (_, target) in enumerate(pairs)]
    excluded[2] = None
    both = list(zip(pairs, excluded, strict=True))
    spoiled = [(image, np.where(False if m is None else m, np.nan, target)) for (image, target), m in both]
    items = [(*p, m) for p, m in zip(spoiled, excluded, strict=True)]
    expected = kernelfit.find_kernel([p[0] for p in spoiled], [p[1] for p in spoiled], (3, 4), mask=excluded)
    fits = [
        accumulate_stream(iter(items), (3, 4), block=(16, 20)).solve(),
        accumulate_stream([(p[0], np.ma.masked_invalid(p[1])) for p in spoiled], (3, 4)).solve(),
        accumulate_stream(spoiled, (3, 4), nan="mask", block=17).solve(),
    ]
    for fit in fits:
        assert_close(fit.kernel, expected.kernel, 1e-11)
        assert_close(fit.stderr, expected.stderr, 1e-9)
        assert fit.n_pixels == expected.n_pixels
    assert fits[0].weighting in ("patches", "subtract", "patches; subtract", "subtract; patches")


def test_saturated_pixels_of_a_stream():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (60, 43)).astype(np.uint8)
    target = np.clip(1.4 * image[1:-1, :-2] - 20.0, 0, 255).astype(np.uint8)
    assert accumulate(image, target, 3).n_pixels < 0.9 * target.size
    for saturated in ("auto", (0, 255)):
        expected = accumulate(image, target, 3, saturated=saturated)
        stats = accumulate_stream([(image, target)], 3, saturated=saturated, block=20)
        assert stats.n_pixels == expected.n_pixels
        assert_close(stats.gram, expected.gram, 1e-12)


def test_masks_that_are_sliced_and_blocks_without_a_pixel_that_counts(tmp_path, monkeypatch):
    """Whole blocks are excluded, and of a mask in a file no more is read than of the pair."""
    ((image, target),) = frames(1, (70, 61))
    mask = np.zeros(target.shape, np.uint8)
    mask[:40] = 7
    np.save(tmp_path / "mask.npy", mask)
    on_disk = np.load(tmp_path / "mask.npy", mmap_mode="r")
    stats = accumulate_stream([(image, target, on_disk)], (3, 4), block=16)
    monkeypatch.setattr(stream, "_LARGE", 1)
    assert_same_bits(stats, accumulate_stream([(image, target, on_disk)], (3, 4), block=16, workers=2))
    assert_same_bits(stats, accumulate_stream([(image, target, mask != 0)], (3, 4), block=16, workers=1))
    assert_close(stats.gram, accumulate(image[40:], target[40:], (3, 4)).gram, 1e-12)
    with pytest.raises(ValueError, match="0 target pixels of 1 pairs cannot determine the 12 taps .* or exclude less"):
        accumulate_stream([(image, target, np.ones(target.shape, bool))], (3, 4))


@pytest.mark.slow
def test_an_interrupted_stream_with_masks_goes_on_to_the_same_bits(tmp_path):
    items = [(*p, marked(p[1].shape, seed=i)) for i, p in enumerate(frames(5))]
    settings = {"block": (16, 20), "workers": 2, "nan": "mask"}
    file = tmp_path / "sums.npz"
    broken_off(items, 8, checkpoint=file, every=0, **settings)
    with pytest.raises(ValueError, match="written with nan='mask', and a call with nan='error'"):
        accumulate_stream(items, (3, 4), block=(16, 20), checkpoint=file)
    others = [(*i[:2], ~i[2]) for i in items]
    with pytest.raises(ValueError, match="one of its first . pairs is not the same"):
        accumulate_stream(others, (3, 4), checkpoint=file, **settings)
    assert_same_bits(
        accumulate_stream(items, (3, 4), checkpoint=file, **settings), accumulate_stream(items, (3, 4), **settings)
    )


@pytest.mark.parametrize(
    "item, text",
    [
        ({"image": 0}, "pair 0: got a pair without target"),
        ({"mask": None, "image": None}, "pair 0: got a pair without image and target"),
        ({"masks": 0}, "pair 0: got a pair with 'masks', need no keys but image, target, mask, image_mask, weights"),
        ({"mask": np.ones((3, 4), bool)}, r"pair 0: got mask of shape \(3, 4\), need \(38, 50\)"),
        ({"mask": np.ones((38, 50))}, "pair 0: got mask of dtype float64, need bool"),
        (
            {"weights": -np.ones((38, 50))},
            r"pair 0: in the block .* starts at \(0, 0\), .*: got weights with 1900 of them",
        ),
    ],
)
def test_items_that_are_refused(item, text):
    ((image, target),) = frames(1)
    pair = {} if item.keys() & {"image"} else {"image": image, "target": target}
    with pytest.raises((ValueError, TypeError), match=text):
        accumulate_stream([{**pair, **item}], (3, 4))


def test_a_stream_of_which_a_corner_differs_is_another(tmp_path):
    pairs = list(frames(4))
    for row, col in ((0, 0), (-1, -1)):
        file = tmp_path / f"sums{row}.npz"
        broken_off(pairs, 2, checkpoint=file, every=0)
        others = [(image.copy(), target) for image, target in pairs]
        others[1][0][row, col] += 1.0
        with pytest.raises(ValueError, match="another stream"):
            accumulate_stream(others, (3, 4), checkpoint=file, every=0)
