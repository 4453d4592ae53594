"""Every stored chunk is decoded once, twice where a fit is refined, whatever the shapes of image and chunks."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest

import kernelfit
from helpers import assert_close
from kernelfit.data import cells, chunked

RNG = np.random.default_rng(5)


class Counting:
    """A store that counts how often each of its chunks is decoded."""

    def __init__(self, array, sides):
        self.array, self.chunks, self.shape, self.dtype, self.ndim = array, sides, array.shape, array.dtype, 2
        self.decoded = np.zeros([-(-n // c) for n, c in zip(array.shape, sides, strict=True)], int)

    def __getitem__(self, key):
        ends = [k.indices(n) for k, n in zip(key, self.shape, strict=True)]
        self.decoded[tuple(slice(a // c, -(-b // c)) for (a, b, _), c in zip(ends, self.chunks, strict=True))] += 1
        return self.array[key]


@dataclasses.dataclass(frozen=True)
class Case:
    shape: tuple
    chunks: tuple
    of_target: tuple = ()
    kernel: tuple = (3, 5)
    dtype: str = "u2"
    words: tuple = ()

    @property
    def settings(self):
        return {
            "workers": 1,
            **dict(self.words),
        }  # threads that have to wait for their turn ask late for what they share


CASES = [
    Case((1900, 260), (128, 128)),  # tall
    Case((260, 1900), (128, 128)),  # wide
    Case((9000, 260), (128, 128)),  # so tall that a column of chunks is more than may be kept
    Case((260, 9000), (128, 128)),  # a row of chunks is
    Case((1500, 1300), (256, 256)),
    Case((1500, 1300), (100, 140)),  # chunks that do not divide
    Case((1401, 1397), (137, 153), (141, 129)),  # nor agree
    Case((1000, 1200), (26, 1200)),  # whole rows, as in strips
    Case((3000, 600), (20, 600)),
    Case((900, 1000), (900, 22)),  # whole columns
    Case((1280, 1280), (512, 512)),  # chunks above the budget
    Case((1280, 1000), (640, 1000)),
    Case((1280, 1000), (1280, 1000)),  # one chunk
    Case((800, 1280), (16, 16)),  # of a few pixels
    Case((1400, 900), (256, 128), (128, 256)),
    Case((1200, 1000), (256, 256), kernel=(9, 3)),  # read as its transpose
    Case((9000, 260), (128, 128), kernel=(9, 3)),
    Case((1200, 1000), (256, 256), kernel=(21, 17)),
    Case((1200, 1000), (128, 128), words=(("boundary", "wrap"),)),
    Case((1200, 1000), (128, 128), words=(("boundary", "symm"),)),
    Case((1200, 1000), (128, 128), words=(("method", "fft"),)),
    Case((9000, 260), (128, 128), words=(("method", "fft"),)),
    Case((1200, 1000), (128, 128), dtype="f4"),
    Case((1200, 400), (128, 128), dtype="f8"),
]


def stores_of(case, noise):
    image = RNG.integers(100, 4000, case.shape)
    words = dict(case.words)
    target = kernelfit.apply_kernel(image, RNG.random(case.kernel) / 20, boundary=words.get("boundary", "fill"))
    target = target + noise * RNG.normal(size=target.shape)
    if case.dtype == "u2":
        image, target = image.astype("u2"), target.round().clip(0, 65534).astype("u2")
    image, target = image.astype(case.dtype), target.astype(case.dtype)
    return Counting(image, case.chunks), Counting(target, case.of_target or case.chunks)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(chunked, "BUDGET", 2**19)
    monkeypatch.setattr(cells, "LEAST", 128)
    monkeypatch.setattr(cells, "HALO", 2)


@pytest.fixture
def scarce(small, monkeypatch):
    """No memory to keep pixels in for another pass."""
    monkeypatch.setattr(chunked, "free_bytes", lambda: 0)


def cases(plain):
    """The cases, all but some of them for the slow run."""
    return [pytest.param(c, id=str(i), marks=[] if i in plain else pytest.mark.slow) for i, c in enumerate(CASES)]


@pytest.mark.parametrize("case", cases({1, 2, 6, 8, 9, 16}))
def test_statistics_decode_each_chunk_once(case, scarce):
    stores = stores_of(case, 5.0)
    stats = kernelfit.accumulate(*stores, case.kernel, **case.settings)
    expected = kernelfit.accumulate(*(store.array for store in stores), case.kernel, **case.settings)
    assert_close(stats.gram, expected.gram, 1e-12)
    assert_close(stats.moment, expected.moment, 1e-12)
    for store in stores:
        assert (store.decoded.min(), store.decoded.mean()) == (1, 1.0)


@pytest.mark.parametrize("case", cases({0, 5}))
@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_a_fit_decodes_each_chunk_once_a_pass(case, noise, scarce):
    stores = stores_of(case, noise)
    fit = kernelfit.find_kernel(*stores, case.kernel, **case.settings)
    same = kernelfit.find_kernel(*(store.array for store in stores), case.kernel, **case.settings)
    assert_close(fit.kernel, same.kernel, 1e-9)
    assert fit.verdict == same.verdict
    for store in stores:
        assert 1 <= store.decoded.min() and store.decoded.mean() <= 1 + fit.refined


@pytest.mark.parametrize("place", [(0, 0), (700, 333), (1199, 399)])
def test_saturated_pixels_are_met_on_the_way(place, small):
    """What was presumed to be unsaturated is read anew if it is not, with the result that it has in memory."""
    stores = stores_of(Case((1200, 400), (128, 128)), 5.0)
    stores[1].array[place] = 65535
    stores[1].array[5:9, 7] = 0
    fit, stats = (verb(*stores, (3, 5), boundary="symm") for verb in (kernelfit.find_kernel, kernelfit.accumulate))
    arrays = [store.array for store in stores]
    same, expected = (verb(*arrays, (3, 5), boundary="symm") for verb in (kernelfit.find_kernel, kernelfit.accumulate))
    assert fit.notes == same.notes and "5 of 480000 target pixels excluded: saturated" in fit.notes[0]
    assert_close(fit.kernel, same.kernel, 1e-12)
    assert stats.n_pixels == expected.n_pixels == 480000 - 5
    assert_close(stats.gram, expected.gram, 1e-12)


def test_saturated_pixels_that_are_not_used_do_not_count(small):
    stores = stores_of(Case((1200, 400), (128, 128)), 5.0)
    stores[1].array[0] = 65535  # a row that is not used without a boundary
    fit = kernelfit.find_kernel(*stores, (3, 5), workers=1)
    assert not fit.notes and fit.n_pixels == 1198 * 396
    assert max(store.decoded.mean() for store in stores) == 1.0


def test_what_is_not_used_is_not_read_to_look_at_it(small):
    view, seen = chunked.Chunked(Counting(np.ones((900, 800), "u2"), (128, 128))), []
    with chunked.watched([(view, lambda place, pixels: seen.append((place, pixels.shape)), (0, 300, 130, 250))]):
        view[10:20, 400:410]  # as it is read
    assert {place for place, _ in seen} == {(r, r + 128, 128, 256) for r in (0, 128, 256)} | {(0, 128, 384, 512)}
    assert view.array.decoded.sum() == len(seen) == 4


def test_what_was_trimmed_is_read_anew(small):
    view = chunked.Chunked(Counting(RNG.integers(0, 99, (900, 800)).astype("u2"), (128, 128)))
    for _ in range(2):
        for row in range(0, 900, 50):
            np.testing.assert_array_equal(view[row : row + 50, :], view.array.array[row : row + 50])
    assert view.array.decoded.max() == 2
    assert view.cells._bytes == sum(cell.nbytes for cell in view.cells._cells.values()) <= 2**19
    np.testing.assert_array_equal(view[100:300, 250:260], view.array.array[100:300, 250:260])


@pytest.mark.parametrize("words", [{"nan": "mask"}, {"saturated": (None, 9000.0)}], ids=str)
def test_what_may_be_excluded_is_looked_for_on_the_way(words, small):
    """Nothing to exclude costs no further reading; what there is to exclude gives what it gives in memory."""
    stores = stores_of(Case((700, 400), (128, 100), (99, 128), dtype="f4"), 5.0)
    for verb in (kernelfit.accumulate, kernelfit.find_kernel, functools.partial(kernelfit.kernel_map, tiles=2)):
        for store in stores:
            store.decoded[:] = 0
        verb(*stores, (3, 5), workers=1, **words)
        assert all((store.decoded.min(), store.decoded.mean()) == (1, 1.0) for store in stores)
    for store, at in zip(stores, ((650, 390), (33, 200)), strict=True):
        store.array[at] = np.nan if "nan" in words else 9999
        arrays = [one.array for one in stores]
        fit, same = (kernelfit.find_kernel(*pair, (3, 5), workers=1, **words) for pair in (stores, arrays))
        assert fit.notes == same.notes and fit.notes
        assert_close(fit.kernel, same.kernel, 1e-12)


def test_masks_that_can_only_be_sliced_and_single_pixels_anywhere(small):
    stores, mask = stores_of(Case((700, 400), (128, 100)), 5.0), RNG.random((700, 400)) < 0.01
    stored = Counting(mask, (99, 300))
    fit, same = (
        kernelfit.find_kernel(*stores, (3, 5), mask=stored),
        kernelfit.find_kernel(*(one.array for one in stores), (3, 5), mask=mask),
    )
    assert_close(fit.kernel, same.kernel, 1e-12)
    assert fit.notes == same.notes and stored.decoded.max() == 1 and max(one.decoded.mean() for one in stores) <= 2
    view = chunked.Chunked(Counting(np.ones((512, 512), "u2"), (512, 512)))
    for at in range(0, 500, 2):
        np.testing.assert_array_equal(view[at : at + 3, at * 19 % 500 : at * 19 % 500 + 3], 1)
    assert len(view.cells._cells[0, 0].unread) <= 64 and view.array.decoded.max() == 1


SHAPES = [((900, 700), (128, 128)), ((9000, 130), (128, 128)), ((130, 9000), (137, 100)), ((2000, 600), (20, 600))]
AGAIN = {
    "background": {"background": 1},
    "mask": {"mask": lambda shape: np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 400 < 30},
    "pixels": {"mask": lambda shape: np.random.default_rng(1).random(shape) < 0.002},
    "image": {"image_mask": lambda shape: np.random.default_rng(1).random(shape) < 0.001},
    "weights": {"weights": lambda shape: np.random.default_rng(1).uniform(0.5, 2.0, shape)},
    "poisson": {"noise": "poisson"},
    "robust": {"robust": "huber"},
    "sandwich": {"errors": "sandwich"},
    "variation": {"variation": 1},
    "stride": {"stride": 2},
    "cg": {"method": "cg"},
}


@pytest.mark.parametrize("shape", [pytest.param(s, marks=pytest.mark.slow if i else []) for i, s in enumerate(SHAPES)])
@pytest.mark.parametrize("words", [pytest.param(w, id=name) for name, w in AGAIN.items()])
@pytest.mark.parametrize("free", [2**30, pytest.param(0, marks=pytest.mark.slow)])
def test_what_is_read_again_is_kept_if_memory_is_free(shape, words, free, small, monkeypatch):
    monkeypatch.setattr(chunked, "free_bytes", lambda: free)
    case = Case(*shape, kernel=(3, 5))
    stores = stores_of(case, 5.0)
    if "stride" in words:
        stores = stores[0], Counting(stores[1].array[::2, ::2], case.chunks)
    laid = {k: Counting(v(stores[1].shape), (99, 300)) if callable(v) else v for k, v in words.items()}
    fit = kernelfit.find_kernel(*stores, (3, 5), workers=1, **laid)
    plain = {k: v.array if isinstance(v, Counting) else v for k, v in laid.items()}
    same = kernelfit.find_kernel(*(one.array for one in stores), (3, 5), workers=1, **plain)
    assert_close(fit.kernel, same.kernel, 1e-9)
    assert fit.notes == same.notes
    read = [one.decoded for one in (*stores, *laid.values()) if isinstance(one, Counting)]
    if free:
        assert max(one.max() for one in read) == 1
    elif not words.keys() & {"noise", "robust", "method"}:
        assert max(one.mean() for one in read) <= 2.1


def test_saturated_pixels_that_are_met_late_cost_one_reading_more(small):
    stores = stores_of(Case((1400, 900), (128, 128)), 5.0)
    stores[1].array[1390, 880] = 65535
    fit = kernelfit.find_kernel(*stores, (3, 5), workers=1)
    assert "1 of" in fit.notes[0] and max(one.decoded.max() for one in stores) <= 2


def test_the_border_of_a_target_is_not_waited_for(small):
    """What is not used is never read, and must not keep the chunks along the edges in memory."""
    image, target = stores_of(Case((1400, 900), (128, 128)), 5.0)
    view = chunked.Chunked(target)
    kernelfit.accumulate(image, view, (9, 13), workers=1)
    assert len(view.cells._cells) > 20 and all(cell.unread == [] for cell in view.cells._cells.values())


def test_memory_that_is_free(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    assert chunked.free_bytes() < 2**50
    if not pathlib.Path("/proc/meminfo").exists():
        return
    for name, text in (("most", "3000000"), ("used", "1000000"), ("no limit", "max")):
        (tmp_path / name).write_text(text)
    most, used, none = (str(tmp_path / name) for name in ("most", "used", "no limit"))
    monkeypatch.setattr(chunked, "_CONTAINERS", ((none, used), (str(tmp_path / "absent"), used), (most, used)))
    assert chunked.free_bytes() == 2000000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**33, 2**33))
    assert chunked.free_bytes() == 0


def test_each_part_of_a_shard_is_fetched_once(small):
    zarr = pytest.importorskip("zarr")
    fetched = []  # from which store, of which shard, which part of it

    class Fetching(zarr.storage.WrapperStore):
        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            fetched.append((id(self._store), key, str(byte_range)))
            return found

    case = Case((900, 700), (64, 64))
    arrays, pair = [one.array for one in stores_of(case, 5.0)], []
    for array in arrays:
        memory = Fetching(zarr.storage.MemoryStore())
        made = zarr.create_array(memory, shape=array.shape, dtype=array.dtype, chunks=(64, 64), shards=(256, 192),
                                 compressors=None)  # fmt: skip
        made[...] = array
        pair.append(made)
    fetched.clear()
    stats, expected = kernelfit.accumulate(*pair, (3, 5), workers=1), kernelfit.accumulate(*arrays, (3, 5), workers=1)
    assert_close(stats.gram, expected.gram, 1e-12)
    parts = [one for one in fetched if "Suffix" not in one[2]]  # there a shard says where its parts lie
    assert len(parts) == len(set(parts)) == 2 * 15 * 11
