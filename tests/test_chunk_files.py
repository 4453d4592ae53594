"""Zarr arrays read from their files: what Zarr itself would read, in memory that is used again."""

import gc
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs

from kernelfit import accumulate, accumulate_stream, find_kernel
from kernelfit.api import dask
from kernelfit.data import buffer_pool, chunked, zarr_local
from kernelfit.data.zarr_local import ChunkFiles, direct

SHAPE, SIDES = (97, 131), (40, 50)  # chunks stick out at both edges
KINDS = {
    "plain": {"compressors": None},
    "zstd": {},
    "zstd with checksums": {"compressors": zarr.codecs.ZstdCodec(level=7, checksum=True)},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")},
    "floats": {"dtype": "f4", "compressors": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")},
    "bytes": {"dtype": "u1", "compressors": None},
    "truth": {"dtype": "?"},
    "dots for keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "version 2": {"zarr_format": 2, "compressors": None},
    "version 2, zstd": {"zarr_format": 2},
    "version 2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "one chunk": {"chunks": (200, 300)},
    "one plain chunk": {"chunks": (200, 300), "compressors": None},
    "small chunks": {"chunks": (7, 5)},
}
OTHERS = {
    "shards": {"chunks": (20, 25), "shards": (40, 50)},
    "big-endian codec": {"serializer": zarr.codecs.BytesCodec(endian="big"), "dtype": "u2"},
    "big-endian, version 2": {"dtype": ">f4", "zarr_format": 2},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "two codecs": {"compressors": (zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec())},
    "transposed": {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
    "columns first": {"zarr_format": 2, "order": "F"},
    "filters, version 2": {"zarr_format": 2, "filters": [numcodecs.Delta("u2")], "dtype": "u2"},
    "lz4, version 2": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
}


def stored(place, array, **how):
    made = zarr.create_array(str(place), shape=array.shape, **{"dtype": "i4", "chunks": SIDES, **how})
    made[...] = array
    return zarr.open_array(str(place), mode="r")


def pair_of(tmp_path, how):
    """A pair in memory and the same in Zarr."""
    rng = np.random.default_rng(3)
    dtype = np.dtype(how.get("dtype", "i4"))
    pair = [rng.integers(0, 2 if dtype.kind == "b" else 200, SHAPE).astype(dtype) for _ in range(2)]
    return pair, [stored(tmp_path / f"{name}.zarr", a, **how) for name, a in zip("ab", pair, strict=True)]


@pytest.fixture
def forbidden(monkeypatch):
    """Zarr, not allowed to read."""

    def refuse(self, key):
        raise AssertionError("Zarr was asked")

    return lambda: monkeypatch.setattr(zarr.Array, "__getitem__", refuse)


@pytest.mark.parametrize("least", [1, 60, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_known_kinds_are_read_without_zarr(tmp_path, monkeypatch, kind, least, forbidden, same_bits):
    monkeypatch.setattr(chunked, "LEAST_OF_FILES", least)
    pair, arrays = pair_of(tmp_path, KINDS[kind])
    expected = accumulate(*pair, (3, 6), boundary="wrap")
    streamed = accumulate_stream([pair], (3, 6), boundary="wrap", block=(33, 90))
    forbidden()
    same_bits(accumulate(*arrays, (3, 6), boundary="wrap"), expected)
    same_bits(accumulate_stream([arrays], (3, 6), boundary="wrap", block=(33, 90)), streamed)
    same_bits(dask.accumulate(*arrays, (3, 6), boundary="wrap", block=(33, 90)), streamed)
    view = direct(arrays[0])
    assert isinstance(view, ChunkFiles) and isinstance(direct(view), ChunkFiles)
    assert view[:, :].dtype == pair[0].dtype
    for key in (np.s_[3:90, 49:51], np.s_[40:80, 50:100], np.s_[:, :], np.s_[5:5, 1:9], np.s_[90:300, -3:]):
        np.testing.assert_array_equal(view[key], pair[0][key])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view))[:, :], pair[0])


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_left_to_zarr(tmp_path, kind, same_bits):
    pair, arrays = pair_of(tmp_path, OTHERS[kind])
    assert all(direct(array) is array for array in arrays)
    same_bits(accumulate(*arrays, (3, 6), boundary="wrap"), accumulate(*pair, (3, 6), boundary="wrap"))


def test_other_stores_are_left_to_zarr(tmp_path):
    class Own(zarr.storage.LocalStore):
        pass

    for store in (
        zarr.storage.MemoryStore(),
        Own(tmp_path / "own"),
        zarr.storage.ZipStore(tmp_path / "x.zip", mode="w"),
    ):
        array = zarr.create_array(store, shape=SHAPE, dtype="u1")
        assert direct(array) is array
    swapped = zarr.create_array(tmp_path / "swapped", shape=SHAPE, dtype=">u2")  # not so once it is opened again
    assert direct(swapped) is swapped or swapped.dtype.isnative
    group = zarr.create_group(tmp_path / "group")
    assert isinstance(direct(group.create_array("deep/er", shape=SHAPE, dtype="u1")), ChunkFiles)


@pytest.mark.parametrize("kind", ["plain", "zstd", "blosc", "version 2"])
def test_missing_chunks_hold_the_fill_value(tmp_path, kind, same_bits):
    pair, _ = pair_of(tmp_path, KINDS[kind])
    pair[0][40:80, 50:100] = 7
    array = stored(tmp_path / "c.zarr", pair[0], fill_value=7, **KINDS[kind])
    path = tmp_path / "c.zarr" / array.metadata.encode_chunk_key((1, 1))
    assert not path.exists()
    np.testing.assert_array_equal(direct(array)[:, :], pair[0])
    same_bits(accumulate(array, pair[1], (3, 6)), accumulate(*pair, (3, 6)))


SPOILED = {
    "half": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "longer": lambda b: b + b"1234",
    "something else": lambda b: bytes(range(256)) * 4,
    "less in it": lambda b: numcodecs.Zstd().encode(np.arange(100)),
    "more in it": lambda b: numcodecs.Zstd().encode(np.arange(9999)),
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("kind", ["plain", "zstd", "zstd with checksums", "version 2"])
def test_damaged_chunks_are_left_to_zarr(tmp_path, kind, how):
    pair, (array, _) = pair_of(tmp_path, KINDS[kind])
    path = tmp_path / "a.zarr" / array.metadata.encode_chunk_key((1, 1))
    path.write_bytes(SPOILED[how](path.read_bytes()))
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        array[40:80, 50:100]
    with pytest.raises(theirs.type) as ours:
        accumulate(array, pair[1], (3, 6))
    assert str(ours.value) == str(theirs.value)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    _, (array, _) = pair_of(tmp_path, KINDS["zstd with checksums"])
    path = tmp_path / "a.zarr" / array.metadata.encode_chunk_key((1, 1))
    spoiled = bytearray(path.read_bytes())
    spoiled[-2] ^= 1
    path.write_bytes(spoiled)
    with pytest.raises(RuntimeError, match="checksum"):
        direct(array)[40:80, 50:100]


def test_a_frame_of_unknown_size_is_left_to_zarr(tmp_path):
    pair, (array, _) = pair_of(tmp_path, KINDS["zstd"])
    raw = np.arange(40 * 50, dtype="i4").tobytes()
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + (1 + (len(raw) << 3)).to_bytes(3, "little") + raw  # one block, not compressed
    (tmp_path / "a.zarr" / array.metadata.encode_chunk_key((1, 1))).write_bytes(frame)
    assert zarr_local.zstd_size(memoryview(frame)) == -1
    assert direct(array)[40:80, 50:100].tobytes() == raw


@pytest.mark.parametrize("kept", [0, 5, 16, 700])
def test_an_incomplete_chunk_of_blosc_is_never_decoded(tmp_path, kept):
    """Zarr would read on behind the end of it, and sometimes crashes."""
    pair, (array, _) = pair_of(tmp_path, KINDS["blosc"])
    path = tmp_path / "a.zarr" / array.metadata.encode_chunk_key((1, 1))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=rf"1: got a chunk of {kept} bytes, need the \d+ that its header tells of; write"
    ):
        accumulate(array, pair[1], (3, 6))
    path.write_bytes(numcodecs.Blosc().encode(np.arange(100)))
    with pytest.raises(ValueError, match="cannot reshape"):
        direct(array)[40:80, 50:100]


def test_a_zarr_that_is_not_known_is_still_an_array(tmp_path, monkeypatch):
    _, (array, _) = pair_of(tmp_path, KINDS["zstd"])
    assert isinstance(direct(array), ChunkFiles)
    monkeypatch.setattr(type(array.metadata), "to_dict", lambda self: {"zarr_format": 4})
    assert direct(array) is array


@pytest.mark.parametrize("axis, thickness", [(-1, 3), (0, 3), (1, 2), (-1, 1)])
@pytest.mark.parametrize("codec", ["plain", "zstd"])
def test_colours(tmp_path, axis, thickness, codec, forbidden):
    data = np.random.default_rng(0).integers(0, 99, (2, 70, 90, 3)).astype("u1")
    arrays = [np.moveaxis(a, -1, axis) for a in data]
    sides = tuple(np.insert([32, 64], range(3)[axis], thickness).tolist())
    how = {**KINDS[codec], "chunks": sides, "dtype": "u1"}
    pair = [stored(tmp_path / f"{name}.zarr", a, **how) for name, a in zip("ab", arrays, strict=True)]
    forbidden()
    for channels in ("shared", "separate", "mixed"):
        words = {"channel_axis": axis, "channels": channels, "method": "direct"}
        got, expected = (find_kernel(*some, (5, 7), **words) for some in (pair, arrays))
        assert got.kernel.tobytes() == expected.kernel.tobytes()


def test_of_a_plain_chunk_only_the_rows_needed_are_read(tmp_path, monkeypatch):
    data = np.arange(900 * 1000, dtype="i4").reshape(900, 1000)
    view = direct(stored(tmp_path / "a.zarr", data, compressors=None, chunks=(900, 1000)))
    sizes, empty = [], buffer_pool.empty
    monkeypatch.setattr(buffer_pool, "empty", lambda shape, dtype: sizes.append(shape) or empty(shape, dtype))
    np.testing.assert_array_equal(view[500:510, 30:80], data[500:510, 30:80])
    assert sizes[0] == (10 * 1000 * 4,)


def test_a_part_of_a_chunk_does_not_keep_all_of_it(tmp_path):
    data = np.arange(30 * 2000).reshape(30, 2000)
    view = direct(stored(tmp_path / "a.zarr", data, chunks=(1000, 1000)))
    part = view[:, :1000]
    np.testing.assert_array_equal(part, data[:, :1000])
    assert (part if part.base is None else part.base).nbytes < 2 * part.nbytes


# ---- read ahead -----------------------------------------------------------------------------------------------------


class Slow:
    """A store of four cells, the first of which takes until others have been read, or refused."""

    def __init__(self, others, broken=()):
        self.array = np.arange(40.0 * 60).reshape(40, 60)
        self.shape, self.dtype, self.chunks = self.array.shape, self.array.dtype, (20, 30)
        self.others, self.broken, self.read, self.more = others, broken, [], threading.Condition()

    def __getitem__(self, key):
        place = key[0].start // 20, key[1].start // 30
        with self.more:
            self.read.append(place)
            self.more.notify_all()
            if place == (0, 0):
                assert self.more.wait_for(lambda: len(self.read) > self.others, timeout=10)
        if place in self.broken:
            raise OSError("broken")
        return self.array[key]


@pytest.mark.parametrize("broken", [(), [(1, 0)]])
def test_who_waits_for_a_cell_reads_another(monkeypatch, broken):
    monkeypatch.setattr(chunked, "LEAST", 1)
    store = Slow(1, broken)
    view = chunked.Chunked(store)
    with ThreadPoolExecutor(2) as pool:
        for got in list(pool.map(lambda n: view[n:19, 2:9], (0, 1))):
            assert got[0, 0] in (2.0, 62.0)
    assert store.read == [(0, 0), (1, 0)]
    if broken:
        with pytest.raises(OSError, match="broken"):
            view[22:30, 2:9]
        store.broken = ()
    np.testing.assert_array_equal(view[22:30, 2:9], store.array[22:30, 2:9])


def test_there_is_nothing_to_read_after_the_last_cell(monkeypatch):
    monkeypatch.setattr(chunked, "LEAST", 1)
    view = chunked.Chunked(Slow(0))
    cells = view.cells
    cell = cells._cells[1, 1] = chunked._Cell()
    threading.Timer(0.05, lambda: (cells._read(1, 1, cell), cell.reading.release())).start()
    np.testing.assert_array_equal(view[20:40, 30:60], view.array.array[20:40, 30:60])
    assert view.array.read == [(1, 1)]


@pytest.mark.parametrize("step", ["before", "after"])
def test_nobody_waits_for_a_cell_whose_reading_was_interrupted(monkeypatch, step):
    monkeypatch.setattr(chunked, "LEAST", 1)
    view, read = chunked.Chunked(Slow(0)), chunked.Cells._read

    def interrupted(self, row, col, cell):
        if step == "after":
            read(self, row, col, cell)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(chunked.Cells, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view[22:30, 2:9]
    assert not view.cells._cells  # otherwise the next one would wait for ever
    np.testing.assert_array_equal(view[22:30, 2:9], view.array.array[22:30, 2:9])


# ---- memory that is used again --------------------------------------------------------------------------------------


@pytest.fixture
def shelf():
    return buffer_pool.Shelf()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_of_it_is_gone(shelf):
    first = shelf.empty((300, 400), "f4")
    assert first.shape == (300, 400) and first.dtype == "f4" and first.flags.c_contiguous and first.flags.writeable
    first[...] = 5
    where, view = address(first), np.moveaxis(first[10:, 3:].T[::2].view("i4"), 0, 1)
    del first
    gc.collect()
    assert address(shelf.empty((300, 400), "f4")) != where
    assert np.all(view.view("f4") == 5)
    del view
    assert address(shelf.empty((301, 399), "i4")) == where  # nearly as large will do


def test_no_more_is_kept_than_said(shelf, monkeypatch):
    monkeypatch.setattr(buffer_pool, "KEPT", 2**22)
    arrays = [shelf.empty((n * 2**17,), "u1") for n in (4, 6, 8, 8, 8)]
    assert arrays[-1].base is None  # all five are more, and this one is not used again
    sizes = [a.nbytes for a in arrays]
    while arrays:
        del arrays[0]
    assert shelf.n_bytes == sum(sizes[:4]) <= 2**22
    again = shelf.empty((7 * 2**17,), "u1")
    assert again.base is not None and [len(memory) for memory in shelf.free] == sizes[1:4]  # the first made room
    assert shelf.empty((2**22,), "u1").base is None and shelf.empty((9,), "u1").base is None


def test_garbage_that_is_collected_in_the_midst_of_it_does_no_harm(shelf):
    array = shelf.empty((2**17,), "u1")
    with shelf.lock:  # the thread that holds it would wait for itself
        del array
    assert not shelf.free and shelf.returned
    again = shelf.empty((2**17,), "u1")
    assert again.base is not None and not shelf.returned


def test_no_code_runs_when_memory_comes_back(shelf):
    """A Ctrl-C that came in the midst of it would be lost."""
    array, seen = shelf.empty((2**17,), "u1"), []
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    del array
    sys.setprofile(None)
    assert len(shelf.returned) == 1 and "call" not in seen


def test_memory_is_not_taken_back_from_what_still_runs_at_the_end():
    held = "held = [recycled.empty((2**18,), 'u1')]"
    late = "print(np.shares_memory(held[0], recycled.empty((2**18,), 'u1')))"
    script = (
        f"import atexit\natexit.register(lambda: {late})\nimport numpy as np\nfrom kernelfit import recycled\n{held}"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_threads_do_not_share_memory(shelf):
    def work(own):
        rng = np.random.default_rng(own)
        held = []
        for _ in range(300):
            array = shelf.empty((int(rng.integers(1, 40)) * 2**13,), "u1")
            array[:: 2**10] = own
            held.append(array[::2])
            if len(held) > 5:
                assert (held.pop(int(rng.integers(5)))[:: 2**9] == own).all()
        return own

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


def test_the_frames_of_zstandard_tell_their_size():
    for n in (1, 200, 256, 257, 66000, 2**17):
        packed = numcodecs.Zstd().encode(np.arange(n, dtype="u1" if n < 257 else "u4"))
        assert zarr_local.zstd_size(memoryview(packed)) == n * (1 if n < 257 else 4)
