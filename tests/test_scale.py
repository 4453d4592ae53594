"""The same call on Dask arrays: any chunks, any scheduler, workers lost on the way."""

import contextlib
import os
import signal
import sys
import time
import warnings

import dask
import dask.array as da
import numpy as np
import pytest

import kernelfit
import naive
from kernelfit import accumulate, accumulate_stream, chunks, find_kernel, scale


def chunked(array, rows, cols):
    """A Dask array whose chunks are computed, so that a block's graph can be sent with it."""
    return da.from_array(array, chunks=(rows, cols)) + 0


CHUNKS = [
    ((7, 9), (7, 9)),
    ((2, 3), (50, 60)),
    ((11, 4), (6, 13)),
    ((1, 90), (70, 2)),
    (((3, 17, 1, 40), (90,)), (61, 11)),
]


@pytest.mark.parametrize("of_image, of_target", CHUNKS, ids=str)
def test_any_chunks_give_the_sums_of_the_loops(of_image, of_target, same_stats, same_bits):
    rng = np.random.default_rng(3)
    image = rng.normal(0.5, 1.0, (61, 90))
    target = rng.normal(0.5, 1.0, (61, 90))
    convention = {"boundary": "symm", "origin": (4, 0), "operation": "correlation"}
    stats = scale.accumulate(
        chunked(image, *of_image), chunked(target, *of_target), (5, 4), block=(16, 23), **convention
    )
    same_stats(stats, naive.normal_stats_dense(image, target, (5, 4), mode="same", **convention))
    streamed = accumulate_stream([(image, target)], (5, 4), block=(16, 23), **convention)
    same_bits(stats, streamed)


def test_every_convention(all_scenes, same_bits):
    with dask.config.set(scheduler="synchronous"):
        for scene in all_scenes[3::60]:
            image, target = da.from_array(scene.image, chunks=(4, 3)), da.from_array(scene.target, chunks=5)
            keywords = {**scene.convention, "block": (4, 5)}
            streamed = accumulate_stream([(scene.image, scene.target)], scene.shape, workers=1, **keywords)
            same_bits(scale.accumulate(image, target, scene.shape, **keywords), streamed)


def big_pair(noise=1.0, dtype=float):
    rng = np.random.default_rng(1)
    image = (100 * rng.random((301, 257))).astype(dtype)
    kernel = rng.random((3, 6))
    target = naive.apply(image[:60], kernel, mode="same", boundary="wrap")  # the loops are slow: check them on a part
    from scipy.signal import convolve2d

    whole = convolve2d(image, kernel, "same", "wrap")
    np.testing.assert_allclose(whole[5:50], target[5:50])
    return image, whole + noise * rng.normal(size=whole.shape), kernel


@pytest.mark.parametrize("noise", [1.0, 0.0])
def test_the_kernel_is_the_one_found_in_memory(noise, close):
    image, target, kernel = big_pair(noise)
    lazy = chunked(image, 50, 70), chunked(target, 64, 64)
    fit = scale.find_kernel(*lazy, (3, 6), boundary="wrap", block=96)
    expected = find_kernel(image, target, (3, 6), boundary="wrap")
    close(fit.kernel, expected.kernel, 1e-13)
    close(fit.stderr, expected.stderr, 1e-9 if noise else 0.5)
    assert fit.refined == expected.refined and fit.method == expected.method
    assert fit.verdict is expected.verdict and fit.convention == expected.convention
    close(fit.kernel, kernel, 0.01 if noise else 1e-14)
    prior = scale.find_kernel(*lazy, (3, 6), boundary="wrap", block=96, solver=kernelfit.NonNegative())
    assert prior.kernel.min() >= 0 and prior.solver.startswith("NonNegative")


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers_give_the_same_bits(scheduler, same_bits):
    image, target, _ = big_pair()
    lazy = chunked(image, 150, 70), chunked(target, 300, 64)
    expected = accumulate_stream([(image, target)], (3, 6), boundary="wrap", block=160)
    with dask.config.set(scheduler=scheduler, num_workers=1 if scheduler == "processes" else 2):
        same_bits(scale.accumulate(*lazy, (3, 6), boundary="wrap", block=160), expected)


def test_pixels_in_memory_are_not_sent_with_every_block():
    image, target, _ = big_pair()
    keywords = {"mode": None, "boundary": "wrap", "fillvalue": 0.0, "origin": None, "operation": "convolution"}
    for lazy, own in (
        ((da.from_array(image, chunks=250), da.from_array(target, chunks=250)), False),
        ((image, target), False),
        ((da.random.default_rng(0).random((301, 257), chunks=250),) * 2, True),
        ((chunked(image, 40, 40), chunked(target, 40, 40)), True),
    ):
        plan = scale._Plan(*lazy, (3, 6), "auto", 200, keywords)
        assert [plan._own(s, t) for _, s, t in plan.blocks][0] is own


def test_a_sum_can_be_computed_later(same_bits):
    image, target, _ = big_pair()
    lazy = chunked(image, 150, 70), chunked(target, 300, 64)
    parts = [scale.accumulate(*lazy, (3, k), boundary="wrap", compute=False) for k in (2, 5)]
    for k, stats in zip((2, 5), dask.compute(*parts), strict=True):
        same_bits(stats, scale.accumulate(*lazy, (3, k), boundary="wrap"))


def test_what_is_refused():
    image, target, _ = big_pair()
    spoiled = image.copy()
    spoiled[200, 100] = np.nan
    with pytest.raises(ValueError, match=r"block of target pixels that starts at \(192, 96\): got image with 1 pixel"):
        scale.accumulate(chunked(spoiled, 64, 64), chunked(target, 64, 64), (3, 6), boundary="wrap", block=96)
    with pytest.raises(ValueError, match="got image 301x257, target 300x257"):
        scale.accumulate(chunked(image, 64, 64), chunked(target[:-1], 64, 64), (3, 6))
    with pytest.raises(ValueError, match="got method='wiener', need one of 'auto', 'direct', 'fft'"):
        scale.accumulate(chunked(image, 64, 64), chunked(target, 64, 64), (3, 6), method="wiener")
    unknown = da.from_array(image, chunks=64)[da.from_array(image[:, 0], chunks=64) > 0]
    with pytest.raises(ValueError, match="of unknown shape .*; call its compute_chunk_sizes"):
        scale.accumulate(unknown, unknown, 3)


def test_without_dask_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"pip install 'kernelfit\[dask\]'"):
        scale.accumulate(np.ones((9, 9)), np.ones((9, 9)), 3)


# ---- a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Two single-threaded worker processes. Their own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import distributed

        settings = {
            "distributed.worker.daemon": False,
            "distributed.admin.tick.limit": "60s",
            "distributed.nanny.pre-spawn-environ.PYTHONPATH": os.path.dirname(os.path.dirname(kernelfit.__file__)),
        }
        with (
            dask.config.set(settings),
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as found,
        ):
            yield found


def slowly(block):
    """The pixels, a little later: so that there is a moment in which to be killed."""
    time.sleep(0.05)
    return block


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bits(client, same_bits):
    image, target = np.random.default_rng(8).normal(size=(2, 700, 500))
    expected = accumulate_stream([(image, target)], (5, 7), block=100)
    with client.as_current():
        for lazy in (
            [da.from_array(a, chunks=(200, 500)) for a in (image, target)],
            [
                da.from_array(a, chunks=(90, 110)).map_blocks(np.negative).map_blocks(np.negative)
                for a in (image, target)
            ],
            [da.from_array(a, chunks=(200, 500)).persist() for a in (image, target)],
        ):
            same_bits(scale.accumulate(*lazy, (5, 7), block=100), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_on_the_way_changes_nothing(client, same_bits):
    image, target = np.random.default_rng(9).normal(size=(2, 700, 500))
    expected = accumulate_stream([(image, target)], (5, 7), block=100)
    lazy = [da.from_array(a, chunks=100).map_blocks(slowly, dtype=float) for a in (image, target)]
    pids = client.run(os.getpid)
    future = client.compute(scale.accumulate(*lazy, (5, 7), block=100, compute=False))
    victim = next(iter(pids.values()))
    time.sleep(0.5)
    assert not future.done()
    os.kill(victim, signal.SIGKILL)
    same_bits(future.result(timeout=60), expected)
    assert victim not in client.run(os.getpid).values()


# ---- stores ---------------------------------------------------------------------------------------------------------


def zarr_of(tmp_path, name, array, **how):
    import zarr

    stored = zarr.create_array(str(tmp_path / f"{name}.zarr"), shape=array.shape, dtype=array.dtype, **how)
    stored[...] = array
    return stored


def stores(tmp_path, array, name, closing):
    """(what it is, the array in it), for every kind of store that can be sliced."""
    import h5py
    import tifffile
    import xarray
    import zarr

    def opened(file):
        return closing.enter_context(tifffile.TiffFile(tmp_path / file))

    yield "zarr", zarr_of(tmp_path, name, array, chunks=(40, 50))
    yield "zarr with shards", zarr_of(tmp_path, name + "s", array, chunks=(20, 25), shards=(80, 100))
    file = closing.enter_context(h5py.File(tmp_path / f"{name}.h5", "w"))
    yield "h5py", file.create_dataset("a", data=array, chunks=(33, 70), compression="gzip")
    yield "h5py, not in chunks", file.create_dataset("b", data=array)
    tifffile.imwrite(tmp_path / f"{name}.tif", array, tile=(32, 48))
    yield "tiff in tiles", zarr.open(opened(f"{name}.tif").aszarr(), mode="r")
    tifffile.imwrite(tmp_path / f"{name}2.tif", array, rowsperstrip=3)
    yield "tiff in strips", zarr.open(opened(f"{name}2.tif").aszarr(), mode="r")
    memory = np.memmap(tmp_path / f"{name}.raw", mode="w+", dtype=array.dtype, shape=array.shape)
    memory[...] = array
    yield "memmap", memory
    yield "dask", da.from_array(array, chunks=(37, 60))
    yield "xarray", xarray.DataArray(array, dims=("y", "x"), coords={"y": np.arange(array.shape[0]) * 0.5})
    yield "xarray of dask", xarray.DataArray(da.from_array(array, chunks=(37, 60)), dims=("y", "x"))


def test_every_store_gives_the_bits_of_the_array(tmp_path, same_bits):
    image, target, _ = big_pair()
    pair = np.round(image).astype("u2"), np.round(1000 * target).astype(">i4")
    expected = accumulate(*pair, (3, 6), boundary="wrap")
    streamed = accumulate_stream([pair], (3, 6), boundary="wrap", block=(64, 90))
    kinds = []
    with contextlib.ExitStack() as closing:
        both = (stores(tmp_path, array, name, closing) for array, name in zip(pair, "ab", strict=True))
        for (kind, a), (_, b) in zip(*both, strict=True):
            kinds.append(kind)
            same_bits(accumulate(a, b, (3, 6), boundary="wrap"), expected)
            same_bits(accumulate_stream([(a, b)], (3, 6), boundary="wrap", block=(64, 90)), streamed)
            same_bits(scale.accumulate(a, b, (3, 6), boundary="wrap", block=(64, 90)), streamed)
    assert len(kinds) == 10


class Counting:
    """A store that counts how often each of its chunks is decoded, and how many pixels at most at a time."""

    def __init__(self, array, sides):
        self.array, self.chunks, self.shape, self.dtype = array, sides, array.shape, array.dtype
        self.decoded, self.largest = np.zeros([-(-n // c) for n, c in zip(array.shape, sides, strict=True)], int), 0

    def __getitem__(self, key):
        full = [*key, *[slice(None)] * (len(self.shape) - len(key))]
        ends = [
            slice(k, k + 1).indices(n) if isinstance(k, int) else k.indices(n)
            for k, n in zip(full, self.shape, strict=True)
        ]
        self.decoded[tuple(slice(a // c, -(-b // c)) for (a, b, _), c in zip(ends, self.chunks, strict=True))] += 1
        part = self.array[key]
        self.largest = max(self.largest, part.size)
        return part


@pytest.mark.parametrize("budget", [2**22, 2**19])
def test_whole_chunks_are_read_about_once(monkeypatch, budget, same_bits):
    monkeypatch.setattr(chunks, "BUDGET", budget)
    rng = np.random.default_rng(0)
    data = rng.integers(0, 99, (2, 1700, 1300)).astype("u1")
    stored = [Counting(a, (64, 128)) for a in data]
    same_bits(accumulate(*stored, (5, 7), method="direct"), accumulate(*data, (5, 7), method="direct"))
    for store in stored:
        assert store.decoded.min() >= 1
        assert store.decoded.mean() <= (1.0 if budget == 2**22 else 4.0)
        assert store.largest * store.dtype.itemsize <= budget // 4


@pytest.mark.parametrize("axis, thickness", [(-1, 3), (0, 3), (1, 2), (-1, 1)])
@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
def test_chunks_of_colours_are_read_once(channels, axis, thickness):
    data = np.random.default_rng(0).integers(0, 99, (2, 700, 500, 3)).astype("u1")
    words = {"channel_axis": axis, "channels": channels, "method": "direct"}
    arrays = [np.moveaxis(a, -1, axis) for a in data]
    sides = np.insert([64, 128], range(3)[axis], thickness).tolist()
    stored = [Counting(a, sides) for a in arrays]
    got, expected = (find_kernel(*pair, (5, 7), **words) for pair in (stored, arrays))
    assert got.kernel.tobytes() == expected.kernel.tobytes()
    for store in stored:
        assert store.decoded.min() == store.decoded.max() == 1


def test_channels_in_chunks_of_their_own_keep_to_those(monkeypatch):
    monkeypatch.setattr(chunks, "BUDGET", 2**18)  # less than a plane, so that parts of it are read several times
    data = np.random.default_rng(0).integers(0, 99, (2, 700, 500, 3)).astype("u1")
    stored = [Counting(a, (64, 128, 1)) for a in data]
    find_kernel(*stored, (5, 7), channel_axis=-1, channels="separate", method="direct")
    assert max(store.decoded.mean() for store in stored) < 10  # 18 and more if each were read with the others


def test_chunks_of_many_channels_that_are_too_large_to_keep_are_read_a_slice_at_a_time(monkeypatch):
    monkeypatch.setattr(chunks, "BUDGET", 2**16)
    data = np.random.default_rng(0).integers(0, 99, (2, 300, 200, 5)).astype("u1")
    stored = [Counting(a, (150, 100, 5)) for a in data]
    got, expected = (find_kernel(*pair, (3, 2), channel_axis=-1) for pair in (stored, data))
    assert got.kernel.tobytes() == expected.kernel.tobytes()
    assert max(store.largest for store in stored) <= 300 * 200


def test_a_store_that_fails_is_asked_again():
    class Failing(Counting):
        broken = True

        def __getitem__(self, key):
            if self.broken:
                raise OSError("the network is down")
            return super().__getitem__(key)

    store = Failing(np.arange(9999.0).reshape(99, 101), (10, 10))
    view = chunks.Chunked(store)
    with pytest.raises(OSError, match="the network is down"):
        view[3:9, 4:50]
    store.broken = False
    np.testing.assert_array_equal(view[3:90, 4:50], store.array[3:90, 4:50])


def test_labels_that_contradict_each_other_are_refused():
    import xarray

    image, target = np.random.default_rng(0).random((2, 20, 30))
    y, x = np.arange(20) * 0.25, np.arange(30.0)
    label = lambda a, y=y, dims=("y", "x"): xarray.DataArray(a, dims=dims, coords={dims[0]: y, dims[1]: x})  # noqa: E731
    fit = find_kernel(label(image), label(target), (2, 3))
    np.testing.assert_array_equal(fit.kernel, find_kernel(image, target, (2, 3)).kernel)
    find_kernel(label(image), target, (2, 3))
    find_kernel(label(image), label(target, dims=("row", "col")), (2, 3))
    find_kernel(label(image), label(target)[:-1, :-2], (2, 3))
    for call in (find_kernel, scale.find_kernel, lambda a, b, s: accumulate_stream([(a, b)], s)):
        with pytest.raises(
            ValueError, match=r"coordinates along 'y' differ \(from 0.0 to 4.75, and from 4.75 to 0.0\)"
        ):
            call(label(image), label(target, y=y[::-1]), (2, 3))
        with pytest.raises(ValueError, match=r"axes \('y', 'x'\) and a target with axes \('x', 'y'\); transpose"):
            call(label(image), label(target).transpose("x", "y"), (2, 3))


class Counted:
    """Anything that can be sliced, with a count of how often it is."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim, self.reads = array, array.shape, array.dtype, 2, 0

    def __getitem__(self, key):
        self.reads += 1
        return self.array[key]


def test_what_only_reads_a_store_is_read_where_it_is_needed(same_bits):
    image, target, _ = big_pair()
    stores = [da.from_array(Counted(a), chunks=c, asarray=False) for a, c in ((image, (40, 257)), (target, (90, 70)))]
    expected = accumulate_stream([(image, target)], (3, 6), block=(64, 80))
    with dask.config.set(scheduler="synchronous"):
        same_bits(scale.accumulate(*stores, (3, 6), block=(64, 80)), expected)
        assert all(scale._store(array) is not None for array in stores)
        for other in (
            da.from_array(Counted(image), chunks=40, lock=True),  # what must not be read by two at a time
            da.from_array(image, chunks=40),  # pixels in memory
            da.from_array(Counted(image), chunks=40) + 0,
            da.from_array(Counted(image), chunks=40)[::-1][::-1],
            da.concatenate([da.from_array(Counted(half), chunks=40) for half in (image[:150], image[150:])]),
        ):
            assert scale._store(other) is None
            same_bits(scale.accumulate(other, stores[1], (3, 6), block=(64, 80)), expected)
