"""Files of a megabyte that would unpack to a gigabyte: how long until they are refused, and with how much memory.

    python benchmarks/bombs.py [--megabytes 1000]

prints the seconds of processor time and the peak of the memory above that of a start, for each format, and exits with 1
if one takes more than 2 s or 200 MiB, or is not refused although it holds more than its header promises.
"""

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

BLOCK = 2**24
HARMLESS = ("gray.png", "deep.png")  # no more than the header promises is ever unpacked of it


def zeros(megabytes: int, form: str = "zlib") -> bytes:
    """Return zeros packed by deflate, as zlib, gzip or a raw stream."""
    n = max(1, megabytes * 2**20 // BLOCK)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)) * n + b"\x03\x00"
    if form == "raw":
        return packed
    if form == "zlib":
        return b"\x78\xda" + packed + struct.pack(">HH", n * BLOCK % 65521, 1)
    check = 0
    for _ in range(n):
        check = zlib.crc32(bytes(BLOCK), check)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed + struct.pack("<II", check, n * BLOCK % 2**32)


def zstd(megabytes: int, *, sized: bool) -> bytes:
    """Return zeros packed by Zstandard, whose frame says how many, or not: blocks of one repeated byte (RFC 8878)."""
    n = megabytes * 8
    block = b"".join(((2**17 << 3) | 2 | (i + 1 == n)).to_bytes(3, "little") + b"\0" for i in range(n))
    head = b"\xa0" + struct.pack("<I", n * 2**17) if sized else b"\x00\x38"
    return b"\x28\xb5\x2f\xfd" + head + block


def png(packed: bytes, depth: int, colour: int) -> bytes:
    """Return a PNG file of 16 x 12 pixels with these packed ones."""
    head = struct.pack(">IIBBBBB", 16, 12, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(packed: bytes) -> bytes:
    """Return a TIFF file of 16 x 12 pixels in one strip of deflate."""
    tags = {256: 16, 257: 12, 258: 8, 259: 8, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 12, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed


def fits_header(**cards: object) -> bytes:
    """Return the header of a FITS file."""
    text = {True: "T", False: "F"}
    lines = [f"{key.replace('_', '-'):8}= {text.get(value, value)!s:>20}" for key, value in cards.items()]
    joined = "".join(line.ljust(80) for line in [*lines, "END"])
    return joined.ljust(-(-len(joined) // 2880) * 2880).encode()


def write_bombs(folder: Path, megabytes: int = 1000) -> list[str]:
    """Write a bomb of each format whose readers are installed; return their names."""
    import h5py
    import zarr
    from astropy.io import fits

    packed = zeros(megabytes)
    (folder / "deep.png").write_bytes(png(packed, 16, 2))
    (folder / "gray.png").write_bytes(png(packed, 8, 0))
    (folder / "deflate.tif").write_bytes(tiff(packed))
    gzipped = zeros(megabytes, "gzip")
    start = fits_header(SIMPLE=True, BITPIX=8, NAXIS=2, NAXIS1=16, NAXIS2=12) + bytes(2880)
    gz = zlib.compressobj(9, zlib.DEFLATED, 31)
    (folder / "image.fits.gz").write_bytes(gz.compress(start) + gz.flush() + gzipped)
    with h5py.File(folder / "image.h5", "w") as file:
        file.create_dataset("a", (12, 16), "u1", chunks=(12, 16), compression="gzip").id.write_direct_chunk(
            (0, 0), packed
        )
    small = np.zeros((12, 16), np.uint8)
    for name, codec, data in (
        ("gzip.zarr", zarr.codecs.GzipCodec(), gzipped),
        ("zstd.zarr", zarr.codecs.ZstdCodec(), zstd(megabytes, sized=True)),
        ("stream.zarr", zarr.codecs.ZstdCodec(), zstd(megabytes, sized=False)),
    ):
        zarr.create_array(folder / name, data=small + 1, chunks=(12, 16), compressors=codec)
        (folder / name / "c" / "0" / "0").write_bytes(data)
    codecs = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}]
    (folder / "shards.zarr").mkdir()
    shard = {"chunk_shape": [12, 16], "codecs": codecs, "index_codecs": [{"name": "bytes", "configuration":
             {"endian": "little"}}], "index_location": "end"}  # fmt: skip
    facts = {"zarr_format": 3, "node_type": "array", "shape": [12, 16], "data_type": "uint8", "fill_value": 0,
             "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [12, 16]}},
             "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, "attributes": {},
             "codecs": [{"name": "sharding_indexed", "configuration": shard}]}  # fmt: skip
    (folder / "shards.zarr" / "zarr.json").write_text(json.dumps(facts))
    (folder / "shards.zarr" / "c" / "0").mkdir(parents=True)
    (folder / "shards.zarr" / "c" / "0" / "0").write_bytes(gzipped + struct.pack("<QQ", 0, len(gzipped)))
    with zipfile.ZipFile(folder / "packed.zarr.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in (folder / "zstd.zarr").rglob("*.json"):
            archive.write(path, path.relative_to(folder / "zstd.zarr"))
        with archive.open("c/0/0", "w", force_zip64=True) as member:
            for _ in range(max(1, megabytes * 2**20 // BLOCK)):
                member.write(bytes(BLOCK))
    with zipfile.ZipFile(folder / "kernel.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in ("header", "kernel"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                n = 5 if name == "header" else megabytes * 2**17
                np.lib.format.write_array_header_1_0(member, {"shape": (n,), "fortran_order": False, "descr": "<f8"})
                for _ in range(max(1, n * 8 // BLOCK)):
                    member.write(bytes(min(BLOCK, n * 8)))
    table = fits.CompImageHDU(np.arange(192, dtype=np.int16).reshape(12, 16), compression_type="GZIP_1",
                              tile_shape=(12, 16))  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / "tiles.fits.fz")
    with fits.open(folder / "tiles.fits.fz", disable_image_compression=True) as hdus:
        column = fits.Column("COMPRESSED_DATA", "1PB", array=np.array([np.frombuffer(gzipped, np.uint8)], dtype=object))
        made = fits.BinTableHDU.from_columns([column], header=hdus[1].header)
        fits.HDUList([fits.PrimaryHDU(), made]).writeto(folder / "tiles.fits.fz", overwrite=True)
    (folder / "promise.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 2**20, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(2**20)
    )
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> str:
    """Read all of a file; return the error in words, empty if it could be read."""
    from kernelfit.imageio.kernels import read_kernel
    from kernelfit.io import ImageFileError, read_image

    try:
        if path.suffix == ".npz":
            read_kernel(str(path))
        else:
            np.asarray(read_image(path, colours=True))
    except ImageFileError as error:
        return str(error)
    return ""


def main() -> int:
    """Measure each format in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        import astropy.io.fits  # noqa: F401
        import h5py  # noqa: F401
        import PIL.Image  # noqa: F401
        import tifffile  # noqa: F401
        import zarr  # noqa: F401

        import kernelfit.imageio.kernels  # noqa: F401

        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        error = read(args.child)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps([time.process_time() - start, peak, error]))
        return 0
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        for name in write_bombs(Path(folder), args.megabytes):
            path = Path(folder) / name
            size = sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())
            child = subprocess.run([sys.executable, __file__, "--child", path], capture_output=True, text=True)
            seconds, peak, error = json.loads(child.stdout)
            wrong = seconds > 2 or peak > 200 or not (error or name in HARMLESS)
            bad |= wrong
            said = error.removeprefix(str(path))[:70] or "read"
            print(f"{'BAD' if wrong else 'ok':4}{name:16}{size / 1e6:6.2f} MB {seconds:6.2f} s {peak:6.0f} MiB {said}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
