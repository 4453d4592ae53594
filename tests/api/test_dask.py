"""The same call on Dask arrays: any chunks, any scheduler, workers lost on the way."""

import contextlib
import inspect
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
import naive
from helpers import SCENES, assert_close, assert_same_bits, assert_same_stats, grid
from kernelfit import Verdict, accumulate, accumulate_stream, find_kernel
from kernelfit.api import dask as scale
from kernelfit.data import cells
from kernelfit.data import chunked as chunks
from kernelfit.data.plan import make_plan
from kernelfit.fitting import dask_blocks, dask_sources

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


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


@pytest.mark.slow
@grid("of_image, of_target", CHUNKS, 4, ids=str)
def test_any_chunks_give_the_sums_of_the_loops(of_image, of_target):
    rng = np.random.default_rng(3)
    image = rng.normal(0.5, 1.0, (61, 90))
    target = rng.normal(0.5, 1.0, (61, 90))
    convention = {"boundary": "symm", "origin": (4, 0), "operation": "correlation"}
    stats = scale.accumulate(
        chunked(image, *of_image), chunked(target, *of_target), (5, 4), block=(16, 23), **convention
    )
    assert_same_stats(stats, naive.normal_stats_dense(image, target, (5, 4), mode="same", **convention))
    streamed = accumulate_stream([(image, target)], (5, 4), block=(16, 23), **convention)
    assert_same_bits(stats, streamed)


@pytest.mark.slow
def test_every_convention():
    with dask.config.set(scheduler="synchronous"):
        for scene in SCENES[3::60]:
            image, target = da.from_array(scene.image, chunks=(4, 3)), da.from_array(scene.target, chunks=5)
            keywords = {**scene.convention, "block": (4, 5)}
            streamed = accumulate_stream([(scene.image, scene.target)], scene.shape, workers=1, **keywords)
            assert_same_bits(scale.accumulate(image, target, scene.shape, **keywords), streamed)


def big_pair(noise=1.0, dtype=float):
    rng = np.random.default_rng(1)
    image = (100 * rng.random((301, 257))).astype(dtype)
    kernel = rng.random((3, 6))
    target = naive.apply(image[:60], kernel, mode="same", boundary="wrap")  # the loops are slow: check them on a part
    from scipy.signal import convolve2d

    whole = convolve2d(image, kernel, "same", "wrap")
    np.testing.assert_allclose(whole[5:50], target[5:50])
    return image, whole + noise * rng.normal(size=whole.shape), kernel


@grid("noise", [1.0, 0.0], 2)
def test_the_kernel_is_the_one_found_in_memory(noise):
    image, target, kernel = big_pair(noise)
    lazy = chunked(image, 50, 70), chunked(target, 64, 64)
    fit = scale.find_kernel(*lazy, (3, 6), boundary="wrap", block=96)
    expected = find_kernel(image, target, (3, 6), boundary="wrap")
    assert_close(fit.kernel, expected.kernel, 1e-13)
    assert_close(fit.stderr, expected.stderr, 1e-9 if noise else 0.5)
    assert fit.refined == expected.refined and fit.method == expected.method
    assert fit.verdict is expected.verdict and fit.convention == expected.convention
    assert_close(fit.kernel, kernel, 0.01 if noise else 1e-14)
    prior = scale.find_kernel(*lazy, (3, 6), boundary="wrap", block=96, solver=kernelfit.NonNegative())
    assert prior.kernel.min() >= 0 and prior.solver.startswith("NonNegative")


@grid("scheduler", ["synchronous", "threads", "processes"], 3)
def test_schedulers_give_the_same_bits(scheduler):
    image, target, _ = big_pair()
    lazy = chunked(image, 150, 70), chunked(target, 300, 64)
    expected = accumulate_stream([(image, target)], (3, 6), boundary="wrap", block=160)
    with dask.config.set(scheduler=scheduler, num_workers=1 if scheduler == "processes" else 2):
        assert_same_bits(scale.accumulate(*lazy, (3, 6), boundary="wrap", block=160), expected)


def test_pixels_in_memory_are_not_sent_with_every_block():
    image, target, _ = big_pair()
    model = kernelfit.Model((3, 6), boundary="wrap")
    for lazy, own in (
        ((da.from_array(image, chunks=250), da.from_array(target, chunks=250)), False),
        ((image, target), False),
        ((da.random.default_rng(0).random((301, 257), chunks=250),) * 2, True),
        ((chunked(image, 40, 40), chunked(target, 40, 40)), True),
    ):
        plan = make_plan(*lazy, model, kernelfit.Selection(), unmask=dask_blocks.unmasked)
        group = dask_blocks.BlockGroup(plan, 0, "direct", (200, 200))
        assert [group._own(s, t) for _, s, t in group.blocks[0]][0] is own


class Plane:
    """Something that can be sliced, and is no array."""

    ndim = 2

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, key):
        return self.array[key]


def test_an_expression_is_sent_as_it_is(monkeypatch):
    """A dark and a flat, slices and types: no block's graph is cut out on this side."""
    image, target, _ = big_pair()
    rng = np.random.default_rng(8)
    stored = [np.pad(a, ((0, 5), (0, 9)), constant_values=7.0) for a in (image, target)]
    dark, flat = rng.random(image.shape), 1 + rng.random(image.shape)
    z = [da.from_array(Plane(a), chunks=c, asarray=False) for a, c in zip(stored, ((70, 90), (64, 101)), strict=True)]
    others = [da.from_array(Plane(a), chunks=(50, 128), asarray=False) for a in (dark, flat)]
    lazy = [(one[: image.shape[0], : image.shape[1]].astype("f4") - others[0]) / others[1] for one in z]
    arrays = [(a.astype("f4") - dark) / flat for a in (image, target)]
    model = kernelfit.Model((3, 6), boundary="symm")
    with monkeypatch.context() as patched:
        for name in ("get_sync", "get_async"):
            patched.setattr(dask.local, name, None)  # nothing is computed, and
        patched.setattr(dask, "optimize", None)  # nothing is cut out
        plan = make_plan(*lazy, model, kernelfit.Selection(), unmask=dask_blocks.unmasked)
        group = dask_blocks.BlockGroup(plan, 0, "direct", (90, 80))
    assert len(group._recipes) == 2 and all(group._own(s, t) for _, s, t in group.blocks[0])
    expected = accumulate_stream([tuple(arrays)], (3, 6), boundary="symm", block=(90, 80))
    assert_same_bits(scale.accumulate(*lazy, (3, 6), boundary="symm", block=(90, 80)), expected)
    far = lazy[0] - dark.mean(axis=1, keepdims=True).T.repeat(lazy[0].shape[0], axis=0)[:, : lazy[0].shape[1]].mean()
    mixed = da.map_blocks(np.fliplr, far, dtype=far.dtype)  # of each chunk, which therefore has to be whole
    assert_same_bits(
        scale.accumulate(mixed, lazy[1], (2, 3), block=60),
        accumulate_stream([(mixed.compute(), arrays[1])], (2, 3), block=60),
    )


def test_persisted_chunks_are_brought_by_the_scheduler():
    image, target, _ = big_pair()
    lazy = [(chunked(a, 100, 120) * 1.0).persist(scheduler="synchronous") for a in (image, target)]
    plan = make_plan(*lazy, kernelfit.Model((3, 6)), kernelfit.Selection(), unmask=dask_blocks.unmasked)
    group = dask_blocks.BlockGroup(plan, 0, "direct", (90, 80))
    assert not group._recipes
    expected = accumulate_stream([(image, target)], (3, 6), block=(90, 80))
    assert_same_bits(scale.accumulate(*lazy, (3, 6), block=(90, 80)), expected)


def test_an_error_of_a_chunk_is_told_with_the_place_of_its_block():
    def broken(pixels, block_info=None):
        if block_info[0]["chunk-location"] == (2, 1):
            raise OSError("the network is down")
        return pixels

    image, target, _ = big_pair()
    lazy = da.map_blocks(broken, chunked(image, 80, 100), dtype=image.dtype)
    with pytest.raises(OSError, match="the network is down") as caught:
        scale.accumulate(lazy, chunked(target, 80, 100), (3, 6), block=(80, 100))
    assert "block of target pixels that starts at (" in caught.value.__notes__[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["list", "axis", "xarray"])
def test_an_axis_of_time_shares_a_kernel(how):
    """Frames of a movie, in chunks that hold several of them."""
    rng = np.random.default_rng(6)
    movie, kernel = rng.random((5, 61, 47)), rng.normal(size=(3, 4))
    target = np.stack([scipy.signal.convolve2d(frame, kernel, "valid") for frame in movie])
    target += 0.01 * rng.normal(size=target.shape)
    lazy: list = [da.from_array(a, chunks=(2, 30, 20)) * 1.0 for a in (movie, target)]
    more = {}
    if how == "xarray":
        xarray = pytest.importorskip("xarray")
        lazy = [xarray.DataArray(a, dims=("time", "y", "x")) for a in lazy]
    if how == "axis":
        more = {"channel_axis": 0, "channels": "shared"}
    else:
        lazy = [list(a) for a in lazy]
    fit = scale.find_kernel(*lazy, (3, 4), background=0, block=25, **more)
    expected = find_kernel(list(movie), list(target), (3, 4), background=0)
    assert fit.verdict is expected.verdict is Verdict.SOLVED
    assert_close(fit.kernel, expected.kernel, 1e-12)
    assert_close(fit.stderr, expected.stderr, 1e-9)


@pytest.mark.slow
def test_a_sum_can_be_computed_later():
    image, target, _ = big_pair()
    lazy = chunked(image, 150, 70), chunked(target, 300, 64)
    parts = [scale.accumulate(*lazy, (3, k), boundary="wrap", compute=False) for k in (2, 5)]
    for k, stats in zip((2, 5), dask.compute(*parts), strict=True):
        assert_same_bits(stats, scale.accumulate(*lazy, (3, k), boundary="wrap"))


def test_few_tasks_beside_those_that_read_pixels(tmp_path):
    image, target, _ = big_pair()
    stores = [zarr_of(tmp_path, name, array, chunks=(50, 70)) for name, array in (("i", image), ("t", target))]
    total = scale.accumulate(*map(da.from_zarr, stores), 3, block=(20, 400), compute=False)
    names = [str(key).partition("-")[0] for key in dict(total.__dask_graph__())]
    assert sorted(names) == ["_of_sums", "each", "each", "each", "each"]


def test_what_is_refused():
    image, target, _ = big_pair()
    spoiled = image.copy()
    spoiled[200, 100] = np.nan
    with pytest.raises(
        ValueError, match=r"block of target pixels that starts at \(192, 96\), .* it reads: got image with 1"
    ):
        scale.accumulate(chunked(spoiled, 64, 64), chunked(target, 64, 64), (3, 6), boundary="wrap", block=96)
    with pytest.raises(ValueError, match="got image 301x257, target 300x257"):
        scale.accumulate(chunked(image, 64, 64), chunked(target[:-1], 64, 64), (3, 6))
    with pytest.raises(ValueError, match=r"got Wiener\(\) with statistics alone: .* need accumulate_spectra"):
        scale.accumulate(chunked(image, 64, 64), chunked(target, 64, 64), (3, 6), method="wiener")
    unknown = da.from_array(image, chunks=64)[da.from_array(image[:, 0], chunks=64) > 0]
    with pytest.raises(ValueError, match="of unknown shape .*; call its compute_chunk_sizes"):
        scale.accumulate(unknown, unknown, 3)


def test_without_dask_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"pip install 'kernelfit\[dask\]'"):
        scale.accumulate(np.ones((9, 9)), np.ones((9, 9)), 3)


# ---- what does not count, and what there is to doubt ----------------------------------------------------------------


def edge_pair():
    """An image that a kernel sharpens beyond the ends of its type."""
    rng = np.random.default_rng(5)
    image = (60 + 25 * rng.random((241, 190)) * rng.integers(0, 4, (241, 190))).astype("u1")
    kernel = np.array([[0, -1, 0, 0], [-1, 5, -1, 0], [0, -1, 0, 0]], dtype=float)
    return image, scipy.signal.convolve2d(image.astype(float), kernel, "same", "symm"), kernel


def parted(value):
    return chunked(value, 70, 90) if isinstance(value, np.ndarray) else value


def both_find(image, target, shape, **keywords):
    lazy = {name: parted(value) for name, value in keywords.items()}
    with dask.config.set(scheduler="synchronous"):
        return scale.find_kernel(parted(image), parted(target), shape, block=110, **lazy), find_kernel(
            image, target, shape, **keywords
        )


def scenes_to_doubt():
    rng = np.random.default_rng(7)
    sharp, sharpened, _ = edge_pair()
    image = rng.random((203, 170))
    blurred = scipy.signal.convolve2d(image, rng.random((3, 6)), "same", "wrap")
    white = rng.normal(size=image.shape)
    coloured = scipy.ndimage.uniform_filter(white, 3)
    noisy = blurred + 0.01 * white
    spoiled, infinite = noisy.copy(), image.copy()
    spoiled[80, 100], infinite[1, 2] = np.nan, np.inf
    some = rng.random(image.shape)
    yield "clipped", sharp, np.clip(sharpened, 0, 255).astype("u1"), {}, Verdict.SOLVED
    yield "clipped, an edge", sharp, np.clip(sharpened, 0, 255).astype("u1"), {"boundary": "symm"}, Verdict.SOLVED
    yield "clipped, told", sharp, np.clip(sharpened, 10, 240), {"saturated": (10, None)}, Verdict.NONLINEAR
    yield "black and white", sharp, np.where(sharpened > 128, 255, 0).astype("u1"), {}, Verdict.NONLINEAR
    yield "wrapped round", sharp, (2.05 * sharp).astype("i4").astype("u1"), {}, Verdict.WRAPPED
    yield "rounded", sharp, np.rint(sharpened / 4).astype("i2"), {}, Verdict.SOLVED
    yield "coloured", image, blurred + coloured, {}, Verdict.COLOURED_NOISE
    yield "true boundary", image, noisy, {"boundary": "wrap"}, Verdict.SOLVED
    yield "wrong boundary", image, noisy, {"boundary": "mirror"}, Verdict.WRONG_BOUNDARY
    yield "no noise", image, blurred, {"boundary": "wrap"}, Verdict.SOLVED
    yield "bright", image, noisy + 3.0, {"boundary": "wrap", "background": 2}, Verdict.SOLVED
    yield (
        "bright, sandwich",
        image,
        noisy - 2.0,
        {"boundary": "wrap", "background": 0, "errors": "sandwich"},
        Verdict.SOLVED,
    )
    yield (
        "bright, image noise",
        image,
        noisy + 3.0,
        {"boundary": "wrap", "background": 1, "image_noise": 1e-3},
        Verdict.SOLVED,
    )
    yield "one NaN", image, spoiled, {"nan": "mask"}, Verdict.SOLVED
    yield "one in each", infinite, spoiled, {"nan": "mask", "boundary": "mirror"}, Verdict.WRONG_BOUNDARY
    yield "mask", image, blurred + np.where(some > 0.9, 9.0, coloured), {"mask": some > 0.9}, Verdict.COLOURED_NOISE
    where = {"image_mask": some > 0.99, "boundary": "wrap"}
    yield "mask of the image", image + 1e18 * (some > 0.99), noisy, where, Verdict.SOLVED
    yield "weights", image, blurred + 0.1 * white / np.sqrt(some), {"weights": some}, Verdict.SOLVED
    where = {"weights": some, "boundary": "symm"}
    yield "weights, boundary", image, blurred + 0.01 * white / np.sqrt(some), where, Verdict.WRONG_BOUNDARY


@grid("scene", list(scenes_to_doubt()), 3, ids=lambda scene: scene[0])
def test_what_is_doubted_in_memory_is_doubted(scene):
    _, image, target, keywords, verdict = scene
    fit, expected = both_find(image, target, (3, 4) if image.dtype == "u1" else (3, 6), **keywords)
    assert_close(fit.kernel, expected.kernel, 1e-13)
    assert [f.verdict for f in fit.findings] == [f.verdict for f in expected.findings]
    assert fit.verdict is expected.verdict
    assert verdict in [f.verdict for f in fit.findings] or fit.verdict is verdict
    assert_close(fit.stderr, expected.stderr, 1e-9 if expected.rss > 1e-9 else 0.5)
    assert fit.n_pixels == expected.n_pixels and fit.weights is None
    assert bool(fit.notes) is bool(expected.notes)
    if len(keywords) == 0:
        assert fit.notes == expected.notes


@pytest.mark.slow
def test_saturated_pixels_are_left_out():
    image, target, kernel = edge_pair()
    clipped = np.clip(target, 0, 255)
    assert 0.01 < np.mean(clipped != target) < 0.5
    fit, _ = both_find(image, np.rint(clipped).astype("u1"), (3, 4))
    assert_close(fit.kernel, kernel, 1e-9)
    kept, expected = both_find(image, np.rint(clipped).astype("u1"), (3, 4), saturated=None)
    assert_close(kept.kernel, expected.kernel, 1e-13)
    assert kept.kernel[1, 1] < 4.9


def everything_that_excludes():
    rng = np.random.default_rng(3)
    image, target, _ = big_pair()
    image[100, 50], target[7, 250] = np.inf, np.nan
    marks = {"mask": rng.random(image.shape) > 0.8, "image_mask": rng.random(image.shape) > 0.998}
    return image, target, {**marks, "weights": rng.random(image.shape)}, {"nan": "mask", "saturated": (20, 300)}


@pytest.mark.slow
@grid("names", [["mask", "image_mask", "weights"], ["mask"], ["image_mask", "weights"]], 3, ids=str)
@grid("boundary", ["mirror", None, "fill"], 3)
def test_what_is_excluded_is_judged_where_the_block_is(names, boundary):
    image, target, arrays, values = everything_that_excludes()
    own = {name: arrays[name] for name in names}
    how = {"boundary": boundary, "fillvalue": 3.0, **values}
    pair = {"image": image, "target": target, **own}
    expected = accumulate_stream([pair], (3, 6), block=(96, 110), workers=1, **how)
    with dask.config.set(scheduler="synchronous"):
        lazy = {name: parted(value) for name, value in own.items()}
        stats = scale.accumulate(parted(image), parted(target), (3, 6), block=(96, 110), **lazy, **how)
        assert_same_bits(stats, expected)
        assert_same_bits(scale.accumulate(image, target, (3, 6), block=(96, 110), **own, **how), expected)
    assert_same_stats(stats, accumulate(image, target, (3, 6), **own, **how))


@pytest.mark.slow
def test_masked_chunks_bring_their_mask():
    image, target, _ = big_pair()
    mask = np.random.default_rng(0).random(image.shape) > 0.9
    spoiled = np.ma.array(np.where(mask, np.nan, target), mask=mask)
    expected = accumulate_stream([(image, target, mask)], (3, 6), block=96)
    for given in (da.from_array(spoiled, chunks=80), spoiled):
        assert_same_bits(scale.accumulate(chunked(image, 64, 64), given, (3, 6), block=96), expected)


@pytest.mark.slow
def test_nothing_saturated_changes_no_bit():
    image, target, _ = edge_pair()
    lazy = chunked(image, 60, 70), chunked(np.clip(target / 3, 1, 254).astype("u1"), 64, 90)
    assert_same_bits(*(scale.accumulate(*lazy, (3, 4), block=90, saturated=how) for how in (None, "auto")))
    fits = [scale.find_kernel(*lazy, (3, 4), block=90, saturated=how) for how in (None, "auto")]
    assert fits[0].kernel.tobytes() == fits[1].kernel.tobytes() and fits[0].notes == fits[1].notes


def test_a_look_brings_few_pixels():
    class Far(Counted):
        pixels = 0

        def __getitem__(self, key):
            part = super().__getitem__(key)
            self.pixels += part.size
            return part

    rng = np.random.default_rng(0)
    image = rng.random((1100, 900))
    far = [Far(a) for a in (image, image + 0.1 * rng.normal(size=image.shape))]
    for one in far:
        one.pixels = 0
    scale.accumulate(*far, (3, 5), boundary="wrap")
    once = [one.pixels for one in far]
    for one in far:
        one.pixels = 0
    scale.find_kernel(*far, (3, 5), boundary="wrap")
    for one, read in zip(far, once, strict=True):
        assert 0 < one.pixels - read < 16 * 70 * 70 + 20 * 2000


def test_what_is_looked_at_is_brought_at_once_beside_a_bright_background(monkeypatch):
    """Pixels read as zero until it is known which are needed; beside a surface that is all edge and no inside."""
    image = np.random.default_rng(0).random((203, 170))
    target = scipy.signal.convolve2d(image, np.ones((3, 6)), "same", "wrap") + 30.0
    target += 0.1 * np.random.default_rng(1).normal(size=image.shape)
    times, compute = [], dask.compute
    monkeypatch.setattr(dask, "compute", lambda *args, **words: times.append(args) or compute(*args, **words))
    scale.find_kernel(parted(image), parted(target), (3, 6), boundary="wrap", background=2, block=110)
    assert len(times) == 1


def test_a_surface_makes_no_correlation_of_what_is_not_here_yet(monkeypatch):
    """Of sandwich errors white noise needs a few tiles, beside a background, too: not all pixels for their scores."""
    image = np.random.default_rng(0).random((403, 370))
    target = scipy.signal.convolve2d(image, np.ones((3, 6)), "same", "wrap") + 30.0
    target += 0.1 * np.random.default_rng(1).normal(size=image.shape)
    sizes, compute = [], dask.compute
    monkeypatch.setattr(dask, "compute", lambda *args, **words: sizes.append(args) or compute(*args, **words))
    words = {"boundary": "wrap", "background": 1, "errors": "sandwich"}
    fit = scale.find_kernel(parted(image), parted(target), (3, 6), block=110, **words)
    assert len(sizes) == 1 and sum(one.size for one in sizes[0]) < 1.5 * (image.size + target.size)
    expected = find_kernel(image, target, (3, 6), **words)
    assert_close(fit.stderr, expected.stderr, 1e-9)
    assert_close(fit.background.stderr, expected.background.stderr, 1e-9)


def test_bad_calls_are_refused():
    image, target, _ = big_pair()
    lazy = chunked(image, 64, 64), chunked(target, 64, 64)
    with pytest.raises(TypeError, match=r"got workers=, for which dask.accumulate has no use; leave it out"):
        scale.accumulate(*lazy, (3, 6), workers=2)
    with pytest.raises(TypeError, match=r"find_kernel\(\) got an unexpected keyword argument 'maks'"):
        scale.find_kernel(*lazy, (3, 6), maks=None)
    with pytest.raises(ValueError, match="need 'auto', None or a pair"):
        scale.find_kernel(*lazy, (3, 6), saturated="yes")
    few = np.arange(target.size).reshape(target.shape) >= 3
    with pytest.raises(ValueError, match="leave 3 target pixels, need at least 18"):
        scale.accumulate(*lazy, (3, 6), boundary="wrap", mask=few)
    every = inspect.signature(find_kernel).parameters
    mine = inspect.signature(scale.find_kernel).parameters
    assert set(every) - set(mine) == {"workers"} and set(mine) - set(every) == {"block", "checkpoint", "every"}
    assert all(mine[name].default == p.default for name, p in every.items() if name in mine)
    assert scale.find_kernel(*lazy, (3, 6), workers=None).verdict.ok


# ---- a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Two single-threaded worker processes that can import this module. Their own warnings are not ours."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        distributed = pytest.importorskip("distributed")
        # Workers, restarted ones too, are spawned with the path of this process; `pytest` leaves the root out of it.
        patch.syspath_prepend(Path(__file__).parents[__name__.count(".")])

        settings = {
            "distributed.worker.daemon": False,
            "distributed.admin.tick.limit": "60s",
            "distributed.comm.timeouts.connect": "300s",
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bits(client):
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
            assert_same_bits(scale.accumulate(*lazy, (5, 7), block=100), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_judges_and_looks(client):
    image, target, _ = edge_pair()
    spoiled = np.where(np.arange(190) == 30, np.nan, np.clip(target, 0, 255))
    call = {"shape": (3, 4), "boundary": "symm", "block": 110, "nan": "mask", "saturated": (0, 255)}
    with dask.config.set(scheduler="synchronous"):
        expected = scale.find_kernel(chunked(image, 70, 90), chunked(spoiled, 64, 64), **call)
    with client.as_current():
        fit = scale.find_kernel(chunked(image, 70, 90), chunked(spoiled, 64, 64), **call)
        kept = scale.find_kernel(*(chunked(a, 80, 80).persist() for a in (image, spoiled)), **call)
    for other in (fit, kept):
        assert other.kernel.tobytes() == expected.kernel.tobytes()
        assert other.findings == expected.findings and other.notes == expected.notes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_on_the_way_changes_nothing(client):
    image, target = np.random.default_rng(9).normal(size=(2, 700, 500))
    expected = accumulate_stream([(image, target)], (5, 7), block=100)
    lazy = [da.from_array(a, chunks=100).map_blocks(slowly, dtype=float) for a in (image, target)]
    pids = client.run(os.getpid)
    future = client.compute(scale.accumulate(*lazy, (5, 7), block=100, compute=False))
    victim = next(iter(pids.values()))
    time.sleep(0.5)
    assert not future.done()
    os.kill(victim, signal.SIGKILL)
    assert_same_bits(future.result(timeout=300), expected)
    assert victim not in client.run(os.getpid).values()


# ---- stores ---------------------------------------------------------------------------------------------------------


def zarr_of(tmp_path, name, array, **how):
    zarr = pytest.importorskip("zarr")

    stored = zarr.create_array(str(tmp_path / f"{name}.zarr"), shape=array.shape, dtype=array.dtype, **how)
    stored[...] = array
    return stored


def stores(tmp_path, array, name, closing):
    """(what it is, the array in it), for every kind of store that can be sliced."""
    h5py = pytest.importorskip("h5py")
    tifffile = pytest.importorskip("tifffile")
    xarray = pytest.importorskip("xarray")
    zarr = pytest.importorskip("zarr")

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


@pytest.mark.slow
@grid("block", [(301, 90), (64, 90)], 2, ids=str)
def test_every_store_gives_the_bits_of_the_array(tmp_path, block):
    image, target, _ = big_pair()
    pair = np.round(image).astype("u2"), np.round(1000 * target).astype(">i4")
    expected = accumulate(*pair, (3, 6), boundary="wrap")
    streamed = accumulate_stream([pair], (3, 6), boundary="wrap", block=block)
    kinds = []
    with contextlib.ExitStack() as closing:
        both = (stores(tmp_path, array, name, closing) for array, name in zip(pair, "ab", strict=True))
        for (kind, a), (_, b) in zip(*both, strict=True):
            kinds.append(kind)
            assert_same_bits(accumulate(a, b, (3, 6), boundary="wrap"), expected)
            assert_same_bits(accumulate_stream([(a, b)], (3, 6), boundary="wrap", block=block), streamed)
            assert_same_bits(scale.accumulate(a, b, (3, 6), boundary="wrap", block=block), streamed)
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
def test_whole_chunks_are_read_about_once(monkeypatch, budget):
    monkeypatch.setattr(chunks, "BUDGET", budget)
    rng = np.random.default_rng(0)
    data = rng.integers(0, 99, (2, 1700, 1300)).astype("u1")
    stored = [Counting(a, (64, 128)) for a in data]
    words = {"method": "direct", "saturated": None}
    assert_same_bits(accumulate(*stored, (5, 7), **words), accumulate(*data, (5, 7), **words))
    for store in stored:
        assert store.decoded.min() >= 1
        assert store.decoded.mean() <= (1.0 if budget == 2**22 else 1.1)
        assert store.largest * store.dtype.itemsize <= budget // 2


@grid("axis, thickness", [(-1, 3), (0, 3), (1, 2), (-1, 1)], 4)
@grid("channels", ["separate", "shared", "mixed"], 3)
def test_chunks_of_colours_are_read_once(channels, axis, thickness):
    data = np.random.default_rng(0).integers(0, 99, (2, 700, 500, 3)).astype("u1")
    data[1] = data[0] + np.roll(data[0], (1, 2), (0, 1))  # doubtful fits look once more
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
    find_kernel(*stored, (5, 7), channel_axis=-1, channels="separate", method="direct", saturated=None)
    assert max(store.decoded.mean() for store in stored) < 10  # 18 and more if each were read with the others


def test_chunks_of_many_channels_that_are_too_large_to_keep_are_read_a_slice_at_a_time(monkeypatch):
    monkeypatch.setattr(chunks, "BUDGET", 2**13)
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
    xarray = pytest.importorskip("xarray")

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


@pytest.mark.slow
def test_what_only_reads_a_store_is_read_where_it_is_needed():
    image, target, _ = big_pair()
    stores = [da.from_array(Counted(a), chunks=c, asarray=False) for a, c in ((image, (40, 257)), (target, (90, 70)))]
    expected = accumulate_stream([(image, target)], (3, 6), block=(64, 80))
    with dask.config.set(scheduler="synchronous"):
        assert_same_bits(scale.accumulate(*stores, (3, 6), block=(64, 80)), expected)
        assert all(dask_sources.store_of(array) is not None for array in stores)
        for other in (
            da.from_array(Counted(image), chunks=40, lock=True),  # what must not be read by two at a time
            da.from_array(image, chunks=40),  # pixels in memory
            da.from_array(Counted(image), chunks=40) + 0,
            da.from_array(Counted(image), chunks=40)[::-1][::-1],
            da.concatenate([da.from_array(Counted(half), chunks=40) for half in (image[:150], image[150:])]),
        ):
            assert dask_sources.store_of(other) is None
            assert_same_bits(scale.accumulate(other, stores[1], (3, 6), block=(64, 80)), expected)


def test_blocks_of_a_task_decode_what_they_share_once(monkeypatch):
    monkeypatch.setattr(cells, "LEAST", 64)
    image, target = np.random.default_rng(0).integers(0, 999, (2, 700, 330)).astype("u2")
    stores = [Counting(array, (64, 64)) for array in (image, target)]
    for store in stores:
        store.ndim = 2
    lazy = [da.from_array(store, chunks=store.chunks) for store in stores]
    stats = scale.accumulate(*lazy, (9, 7), block=(64, 330))
    expected = kernelfit.accumulate_stream([(image, target)], (9, 7), block=(64, 330))
    np.testing.assert_array_equal(stats.gram, expected.gram)
    for store in stores:
        assert store.decoded.min() == 1 and store.decoded.max() <= 2  # by the tasks on either side
        assert store.decoded.mean() < 1.5


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_error_says_where_also_of_what_the_scheduler_makes(in_memory):
    pixels = np.random.default_rng(0).normal(size=(300, 200))

    def broken(chunk, block_info=None):
        if block_info and block_info[0]["chunk-location"] == (1, 2):
            raise OSError("no such file")
        return chunk

    lazy = da.from_array(pixels, chunks=(120, 70)) if in_memory else da.ones((300, 200), chunks=(120, 70))
    with pytest.raises(OSError, match="no such file") as told:
        scale.accumulate(lazy.map_blocks(broken, dtype=float), pixels, (3, 5))
    place = "chunk of pixels that starts at (120, 140)" if in_memory else "block of target pixels that starts at"
    assert any(place in note for note in told.value.__notes__)
