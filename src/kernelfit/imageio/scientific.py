"""One gray plane out of FITS, HDF5 and Zarr, whose files hold several arrays by number or by name."""

import contextlib
import itertools
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.npz import ImageFileError, reading, require_plain
from . import limits
from .planes import Choice, pick_plane, require

_MOST_NAMES = 8  # of what is in a file, in a message
_MOST_LINKS, _DEEPEST = 100_000, 100  # in an HDF5 file


@contextlib.contextmanager
def open_fits(path: Path, **words: Any) -> Iterator[Any]:
    """Open a FITS file, gzipped or not."""
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="reading FITS")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        words |= {"memmap": words.get("memmap", False) and not packed}
        with fits.open(limits.unpacked(path) if packed else file, **words) as hdus:
            last = -1
            for hdu in hdus:
                place = (hdu.fileinfo() or {}).get("hdrLoc", last + 1)
                if place <= last:  # a size below zero leads back, and round and round
                    raise ImageFileError(f"{path}: got an HDU that ends before it begins, need a whole file")
                last = place
            yield hdus


def fits_pixels(path: Path, hdus: Any, hdu: Any) -> Any:
    """Return the pixels of an image HDU, whose header promises no more than the file holds."""
    if min(hdu.shape) < 1 or any(hdu.header.get(f"NAXIS{axis}", 1) < 0 for axis in range(1, len(hdu.shape) + 1)):
        raise ImageFileError(f"{path}: got an image of shape {hdu.shape}, need pixels; save it anew")
    depth = abs(int(hdu.header["BITPIX"])) // 8
    limits.require_possible(path, math.prod(hdu.shape) * depth, path.stat().st_size)
    if "GZIP" in str(getattr(hdu, "compression_type", "")):
        with open_fits(path, disable_image_compression=True) as tables:
            table = tables[[one is hdu for one in hdus].index(True)].data
            for name in {"COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"} & set(table.names):
                for tile in table[name]:
                    limit = 8 * math.prod(hdu.tile_shape) + 1024
                    limits.require_bounded(path, np.ascontiguousarray(tile).view(np.uint8), limit, "gzip")
    return hdu.data


def chosen_hdu(path: Path, hdus: Any, choice: Choice) -> Any:
    """Return the HDU that holds the image that a choice means: the only one, if it says none."""
    images = {at: hdu for at, hdu in enumerate(hdus) if getattr(hdu, "is_image", False) and hdu.shape}
    names = [f"{at} {hdu.name} {' x '.join(map(str, hdu.shape))}".replace("  ", " ") for at, hdu in images.items()]
    if choice.hdu is None:
        if not images:
            raise ImageFileError(f"{path}: got a FITS file without an image, need one with an image HDU")
        if len(images) > 1:
            listed = _list(names)
            msg = f"{path}: got {len(images)} images ({listed}), need one; choose it (--hdu {next(iter(images))})"
            raise ImageFileError(msg)
        hdu = next(iter(images.values()))
    else:
        try:
            hdu = hdus[choice.hdu]
        except (KeyError, IndexError):
            hdu = None
        if hdu is None or not getattr(hdu, "is_image", False) or not hdu.shape:
            msg = f"{path}: got hdu={choice.hdu!r}, need one that holds an image: {_list(names) or 'there is none'}"
            raise ImageFileError(msg)
    return hdu


def read_fits(path: Path, choice: Choice) -> Any:
    """Read one image of a FITS file; the rows come in the order of the file, the first one at the bottom of the sky."""
    choice.refuse_unused(path, "FITS", page=True, hdu=True)
    with open_fits(path, memmap=True) as hdus, open_fits(path) as in_memory:
        hdu = chosen_hdu(path, hdus, choice)
        try:
            data = fits_pixels(path, hdus, hdu)
        except ImageFileError:
            raise
        except ValueError:  # numbers that are stored scaled cannot be mapped
            data = in_memory[list(hdus).index(hdu)].data
        if data.ndim > 2 and choice.page is None and data.size == data.shape[-1] * data.shape[-2]:
            data = data.reshape(data.shape[-2:])
        return pick_plane(path, np.asanyarray(data), choice)


def read_hdf5(path: Path, choice: Choice) -> Any:
    """Return one dataset of an HDF5 file, read when it is used."""
    choice.refuse_unused(path, "HDF5", page=True, dataset=True, channel=True)
    h5py = require("h5py", package="h5py", extra="io", purpose="reading HDF5")
    file = h5py.File(path, "r")
    try:
        found = _hdf5_arrays(h5py, path, file)
        key = (choice.dataset or "").strip("/")
        if choice.allow_external and f"/{key}" not in found and isinstance(file.get(key or "/"), h5py.Dataset):
            found[f"/{key}"] = file[key]  # by a link, which is not followed unasked
        dataset = _chosen(path, found, choice.dataset)
        if dataset.is_virtual or dataset.external:
            choice.refuse_external(path, "pixels of HDF5 in external storage or of a virtual dataset")
        return pick_plane(path, StoredArray(path, dataset, _hdf5_judge(path, dataset)), choice)
    except BaseException:
        file.close()
        raise


def _hdf5_arrays(h5py: Any, path: Path, file: Any) -> dict[str, Any]:
    """Return the arrays of numbers of a file by name, each once, and without following links.

    The library's own walk asks each group for the size of its index, for ever where that leads back to itself.
    """
    found: dict[str, Any] = {}
    seen, count, waiting = set(), 0, [b""]
    while waiting:
        place = waiting.pop()
        item = file[place or b"/"]
        names: list[bytes] = []

        def look(name: bytes, info: Any, names: list[bytes] = names) -> bool:
            nonlocal count
            count += 1
            if info.type == h5py.h5l.TYPE_HARD and info.u not in seen:
                seen.add(info.u)
                names.append(name)
            return count > _MOST_LINKS  # ends the iteration

        if isinstance(item, h5py.Group):
            item.id.links.iterate(look, info=True)
            if count > _MOST_LINKS or place.count(b"/") > _DEEPEST:
                what = f"more than {_MOST_LINKS} names, or of groups that are {_DEEPEST} deep"
                raise ImageFileError(f"{path}: got an HDF5 file of {what}, need fewer; copy what is to be read")
            waiting += [place + b"/" + name for name in reversed(names)]
        elif isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "biufc":
            found[os.fsdecode(place)] = item
    return found


_MOST_CHUNKS = 2**24  # along an axis
_SHUFFLE, _FLETCHER = 2, 3  # HDF5's numbers of the filters that pack nothing


def _hdf5_judge(path: Path, dataset: Any) -> Callable[[Any], None] | None:
    """Return what judges the packed chunks that a key touches, before HDF5 unpacks them; None if it packs none."""
    if dataset.chunks is None:
        return None
    _require_chunks(path, dataset, dataset.chunks)
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if filters.count(1) > 1:
        raise ImageFileError(f"{path}: got chunks that are packed twice, need them packed once; save it anew")
    if not filters:
        return None
    size, places = math.prod(dataset.chunks) * dataset.dtype.itemsize, set()

    def look(info: Any) -> None:  # HDF5 unpacks what is too short without looking, into memory that it does not have
        skipped = {n for i, n in enumerate(filters) if info.filter_mask >> i & 1}
        packed = any(n not in (_SHUFFLE, _FLETCHER, *skipped) for n in filters)
        if info.size < (5 if packed else size):
            raise ImageFileError(f"{path}: got a chunk of {info.size} bytes, need a whole file; write it anew")
        places.add(info.chunk_offset)

    dataset.id.chunk_iter(look)
    if len(places) < dataset.id.get_num_chunks():
        raise ImageFileError(f"{path}: got two chunks at one place, need a whole file; write it anew")
    limit = size + 1024

    def judge(key: Any) -> None:
        touched = list(_touched(key, dataset.shape, dataset.chunks))
        few: Iterable[tuple[int, ...]]
        if math.prod(map(len, touched)) < len(places):
            few = itertools.product(*touched)
        else:  # of a shape that need not be true most are not there
            few = (place for place in places if all(map(range.__contains__, touched, place)))
        for place in few:
            info = dataset.id.get_chunk_info_by_coord(place)
            if info.size > limits.FREE // limits.DEFLATE:
                limits.require_bounded(path, dataset.id.read_direct_chunk(place)[1], limit)

    return judge if 1 in filters else None


def _touched(key: Any, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[range]:
    """Yield, for each axis, where the chunks begin that a key of slices and numbers touches."""
    given = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, one in enumerate(given) if one is Ellipsis), len(given))
    given[at : at + 1] = [slice(None)] * (len(shape) - len(given) + (at < len(given)))
    for one, n, side in zip(given, shape, chunks, strict=False):
        start, stop = 0, n
        if isinstance(one, slice):
            start, stop, _ = one.indices(n)
        elif isinstance(one, (int, np.integer)):
            start, stop = int(one) % max(n, 1), int(one) % max(n, 1) + 1
        yield range(start // side * side, stop, side)


def _require_chunks(path: Path, array: Any, chunks: tuple[int, ...]) -> None:
    """Refuse chunks without pixels, and those that are far larger than the array."""
    size = math.prod(chunks) * array.dtype.itemsize
    if min(chunks, default=1) < 1 or size > limits.FREE + 4 * math.prod(array.shape) * array.dtype.itemsize:
        msg = f"{path}: got chunks of {' x '.join(map(str, chunks))} for an array of shape {array.shape}"
        raise ImageFileError(f"{msg}, need some of at least one pixel that are not larger; save it anew")


class StoredArray:
    """An array of an HDF5 or Zarr file, read when it is used; damage is an error that names the file."""

    def __init__(self, path: Path, stored: Any, judge: Callable[[Any], None] | None = None) -> None:
        self.path, self.stored, self.judge = path, stored, judge
        shape, chunks = stored.shape, getattr(stored, "chunks", None) or stored.shape
        many = any(n // max(1, side) > _MOST_CHUNKS for n, side in zip(shape, chunks, strict=False))
        if many or math.prod(shape) * stored.dtype.itemsize > sys.maxsize:
            what = f"shape {shape} in chunks of {chunks}" if many else f"shape {shape}"
            raise ImageFileError(f"{path}: got an array of {what}, need one that a file can hold; save it anew")

    def __getattr__(self, name: str) -> Any:
        """Return what the array itself has of that name, such as its shape."""
        if name.startswith("__") or name == "stored":
            raise AttributeError(name)
        return getattr(self.stored, name)

    def __getitem__(self, key: Any) -> Any:
        with reading(self.path, "unreadable pixels", "a whole file; write it anew"):
            if self.judge is not None:
                self.judge(key)
            return self.stored[key]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)


def read_zarr(path: Path, choice: Choice) -> Any:
    """Return one array of a Zarr store, read when it is used."""
    choice.refuse_unused(path, "Zarr", page=True, dataset=True, channel=True)
    zarr = require("zarr", package="zarr", extra="io", purpose="reading Zarr")
    store = _bounded_store(zarr, path, choice)
    node = zarr.open(store=store, mode="r")
    if isinstance(node, zarr.Array):
        if choice.dataset is not None:
            msg = f"{path}: got dataset={choice.dataset!r} for a Zarr array, which holds no others; leave it out"
            raise ImageFileError(msg)
        array = node
    else:
        found = {f"/{name}": item for name, item in node.members(max_depth=None) if isinstance(item, zarr.Array)}
        found = {name: item for name, item in found.items() if item.ndim >= 2 and item.dtype.kind in "biufc"}
        array = _chosen(path, found, choice.dataset)
    if array.dtype.kind not in "biufc":
        raise ImageFileError(f"{path}: got an array of {array.dtype}, need numbers")
    store.limit, store.codec = _zarr_packing(path, array)
    return pick_plane(path, StoredArray(path, array), choice)


def _zarr_packing(path: Path, array: Any) -> tuple[int, str]:
    """Return how many bytes a chunk has unpacked, and what packs it; refuse codecs that are not for numbers."""
    facts, chunks = array.metadata.to_dict(), array.chunks
    _require_chunks(path, array, getattr(array, "shards", None) or chunks)
    _require_chunks(path, array, chunks)
    if facts["zarr_format"] == 2:
        names = [each["id"] for each in (*(facts["filters"] or ()), facts["compressor"]) if each]
    else:
        codecs = list(facts["codecs"])
        for each in codecs:  # those of the chunks in a shard are behind it
            codecs += each.get("configuration", {}).get("codecs", ()) if each["name"] == "sharding_indexed" else ()
        names = [each["name"] for each in codecs]
    names = [name.removeprefix("numcodecs.") for name in names]
    packers = [name for name in names if name in _PACKERS]
    if len(packers) > 1 or (other := [name for name in names if name not in _PACKERS + _CODECS]):
        what = "more than one codec" if len(packers) > 1 else f"{other[0]!r}"
        raise ImageFileError(f"{path}: got chunks packed by {what}, need one of {', '.join(_PACKERS)}; save it anew")
    return math.prod(chunks) * max(array.dtype.itemsize, 8) + 1024, (*packers, "")[0]


_PACKERS = ("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma")
_CODECS = (  # which do not change the number of bytes, or hardly
    "bytes", "transpose", "sharding_indexed", "shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "astype",
    "crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3", "pcodec", "zfpy", "packbits", "scale_offset",
    "cast_value",
)  # fmt: skip


def _bounded_store(zarr: Any, path: Path, choice: Choice) -> Any:
    """Return the store of a folder or ZIP file, which unpacks no chunk to more than it should have."""
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > max(limits.FREE, limits.TIGHTEST * path.stat().st_size):
            msg = f"{path}: got a ZIP file that unpacks to more than {limits.TIGHTEST} times its size"
            raise ImageFileError(f"{msg}; unpack it and read the folder")
        store = zarr.storage.ZipStore(path, mode="r")
    else:
        root = os.path.realpath(path)
        for folder, folders, files in os.walk(root):
            for entry in (os.path.join(folder, name) for name in (*folders, *files)):
                if os.path.islink(entry) and not f"{os.path.realpath(entry)}/".startswith(f"{root}/"):
                    choice.refuse_external(path, f"a link to {os.path.realpath(entry)}")
                if os.path.exists(entry):
                    require_plain(entry)
        store = zarr.storage.LocalStore(path, read_only=True)

    class Bounded(zarr.storage.WrapperStore):  # type: ignore[misc]
        limit, codec = 0, ""

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found = await super().get(key, prototype, byte_range)
            if found is not None and self.codec and not key.endswith(("json", ".zarray", ".zgroup", ".zattrs")):
                limits.require_bounded(path, found.to_bytes(), self.limit, self.codec)
            return found

    return Bounded(store)


def _chosen(path: Path, found: dict[str, Any], name: str | None) -> Any:
    """Return the dataset of that name, or the only one."""
    listed = _list([f"{key} {' x '.join(map(str, item.shape))}" for key, item in found.items()])
    if name is None:
        if len(found) == 1:
            return next(iter(found.values()))
        what = f"{len(found)} arrays ({listed})" if found else "no array of numbers"
        raise ImageFileError(f"{path}: got {what}, need one; choose it (--dataset {next(iter(found), '/name')})")
    key = "/" + name.strip("/")
    if key not in found:
        raise ImageFileError(f"{path}: got dataset={name!r}, need one of: {listed or 'there is none'}")
    return found[key]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
