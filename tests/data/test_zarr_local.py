"""Zarr arrays read from their files: what Zarr itself would read, in memory that is used again."""

import pickle

import numpy as np
import pytest

from helpers import assert_same_bits, grid
from kernelfit import accumulate, accumulate_stream, find_kernel
from kernelfit.api import dask
from kernelfit.data import buffer_pool, cells, zarr_local
from kernelfit.data.zarr_local import ChunkFiles, direct

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")
pytest.importorskip("zarr.codecs")

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


@grid("least", [1, 60, 256], 3)
@grid("kind", KINDS, 2)
def test_known_kinds_are_read_without_zarr(tmp_path, monkeypatch, kind, least, forbidden):
    monkeypatch.setattr(cells, "LEAST_OF_FILES", least)
    pair, arrays = pair_of(tmp_path, KINDS[kind])
    expected = accumulate(*pair, (3, 6), boundary="wrap")
    streamed = accumulate_stream([pair], (3, 6), boundary="wrap", block=(33, 90))
    forbidden()
    assert_same_bits(accumulate(*arrays, (3, 6), boundary="wrap"), expected)
    assert_same_bits(accumulate_stream([arrays], (3, 6), boundary="wrap", block=(33, 90)), streamed)
    assert_same_bits(dask.accumulate(*arrays, (3, 6), boundary="wrap", block=(33, 90)), streamed)
    view = direct(arrays[0])
    assert isinstance(view, ChunkFiles) and isinstance(direct(view), ChunkFiles)
    assert view[:, :].dtype == pair[0].dtype
    for key in (np.s_[3:90, 49:51], np.s_[40:80, 50:100], np.s_[:, :], np.s_[5:5, 1:9], np.s_[90:300, -3:]):
        np.testing.assert_array_equal(view[key], pair[0][key])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view))[:, :], pair[0])


def test_folders_that_dask_opens_are_read_without_zarr(tmp_path, forbidden):
    da = pytest.importorskip("dask.array")
    pair, _ = pair_of(tmp_path, KINDS["blosc"])
    lazy = [da.from_zarr(str(tmp_path / f"{name}.zarr")) for name in "ab"]
    expected = accumulate_stream([pair], (3, 6), block=(33, 90))
    forbidden()
    assert_same_bits(dask.accumulate(*lazy, (3, 6), block=(33, 90)), expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_left_to_zarr(tmp_path, kind):
    pair, arrays = pair_of(tmp_path, OTHERS[kind])
    assert all(direct(array) is array for array in arrays)
    assert_same_bits(accumulate(*arrays, (3, 6), boundary="wrap"), accumulate(*pair, (3, 6), boundary="wrap"))


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
def test_missing_chunks_hold_the_fill_value(tmp_path, kind):
    pair, _ = pair_of(tmp_path, KINDS[kind])
    pair[0][40:80, 50:100] = 7
    array = stored(tmp_path / "c.zarr", pair[0], fill_value=7, **KINDS[kind])
    path = tmp_path / "c.zarr" / array.metadata.encode_chunk_key((1, 1))
    assert not path.exists()
    np.testing.assert_array_equal(direct(array)[:, :], pair[0])
    assert_same_bits(accumulate(array, pair[1], (3, 6)), accumulate(*pair, (3, 6)))


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


@pytest.mark.slow
@grid("axis, thickness", [(-1, 3), (0, 3), (1, 2), (-1, 1)], 3)
@grid("codec", ["zstd", "plain"], 2)
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


def test_the_frames_of_zstandard_tell_their_size():
    for n in (1, 200, 256, 257, 66000, 2**17):
        packed = numcodecs.Zstd().encode(np.arange(n, dtype="u1" if n < 257 else "u4"))
        assert zarr_local.zstd_size(memoryview(packed)) == n * (1 if n < 257 else 4)
