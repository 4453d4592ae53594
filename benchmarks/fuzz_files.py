"""Damaged files of every kind: only the documented errors, no warning, no crash, nothing that hangs or fills memory.

    python benchmarks/fuzz_files.py --n 5000 --seed 1

prints the number of cases and what was found, and exits with 1 if there is anything. Every case follows from its seed.
A core does some 500 a second, a million in half an hour to an hour.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import kernelfit
from kernelfit.imageio.kernels import read_kernel, write_kernel
from kernelfit.io import ImageFileError, read_image

SECONDS = 20  # that one file may take
MEGABYTES = 400  # that one file may take
BATCH = 20000  # that one process reads, if it does not crash before
SLOW = (".zarr", ".fz", "checkpoint.npz")  # kinds that a third as many cases are of
HOSTILE = [None, True, -1, 0, 1, 10**400, 1e999, -1e999, float("nan"), "", "foo", "\x1b[2J", [], {}, [-1, -1], [0, 0],
           [50, 50], [1.5, 2], [[]], 2**63, -(2**31), "same", [["SOLVED"]], "9" * 5000, [None, None]]  # fmt: skip


def image() -> np.ndarray:
    """Return an image that is not square, with structure that packers can use."""
    rng = np.random.default_rng(7)
    return (rng.integers(0, 60, (33, 46)) + np.arange(46) * 4).astype(np.uint8)


def loaded(cls: type) -> Callable[[Path], object]:
    """Return a reader of statistics or results, which solves them where that is to be done."""

    def read(path: Path) -> object:
        found = cls.load(path)
        return found.stderr if cls is kernelfit.KernelFit else found

    return read


def stream(path: Path) -> object:
    """Go on from a checkpoint."""
    before = image().astype(float)
    pairs = [(before, 2 * before), (before[:20], before[:20])]
    return kernelfit.accumulate_stream(pairs, (3, 2), checkpoint=path, workers=1).gram


def pixels(path: Path) -> object:
    """Read an image, and all of its pixels."""
    return np.asarray(read_image(path, colours=True))


def kernel(path: Path) -> object:
    """Read a kernel's file, and make a result of it."""
    held = read_kernel(str(path))
    held.as_fit()
    return held.kernel


def samples(folder: Path) -> dict[str, Callable[[Path], object]]:
    """Write a file of each kind; return how each is read."""
    import h5py
    import imagecodecs
    import tifffile
    import zarr
    from astropy.io import fits
    from PIL import Image

    gray = image()
    colour = np.stack([gray, gray // 2, gray[::-1]], axis=-1)
    found: dict[str, Callable[[Path], object]] = {}
    for name, array in (("gray.png", gray), ("colour.png", colour), ("gray.jpg", gray), ("gray.bmp", gray),
                        ("colour.webp", colour), ("lzw.tif", gray)):  # fmt: skip
        words = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
        Image.fromarray(array).save(folder / name, **words)
    Image.fromarray(gray).convert("P").save(folder / "palette.png")
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(colour.astype(np.uint16) * 257))
    tifffile.imwrite(folder / "plain.tif", gray)
    tifffile.imwrite(folder / "deflate.tif", colour, compression="zlib", photometric="rgb", rowsperstrip=8)
    tifffile.imwrite(folder / "ome.tif", gray, metadata={"axes": "YX"}, ome=True)
    np.save(folder / "gray.npy", gray)
    np.savetxt(folder / "table.csv", gray, fmt="%d", delimiter=",")
    fits.PrimaryHDU(gray.astype(">i2")).writeto(folder / "plain.fits")
    fits.PrimaryHDU(gray.astype(np.uint16) + 40000).writeto(folder / "scaled.fits.gz")
    for name, how in (("rice", "RICE_1"), ("gzip", "GZIP_1")):
        packed = fits.CompImageHDU(gray.astype(np.int16), compression_type=how)
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / f"{name}.fits.fz")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a", data=gray, chunks=(16, 16), compression="gzip", shuffle=True, fletcher32=True)
    with h5py.File(folder / "plain.h5", "w") as file:
        file["a"] = gray
    for name, version in (("groups.h5", None), ("latest.h5", "latest")):
        with h5py.File(folder / name, "w", libver=version) as file:
            file["g/h/a"], file["g/few"], file["soft"] = gray, gray[0], h5py.SoftLink("/g/h/a")
            file["g/same"], file["g/h/round"] = file["g/h/a"], file["g"]
    for name, codec in (("zstd", "auto"), ("blosc", zarr.codecs.BloscCodec()), ("gzip", zarr.codecs.GzipCodec())):
        zarr.create_array(folder / f"{name}.zarr", data=gray, chunks=(16, 16), compressors=codec)
    zarr.create_array(folder / "two.zarr", data=gray, chunks=(16, 16), zarr_format=2)
    zarr.create_array(folder / "shards.zarr", data=gray, chunks=(8, 8), shards=(16, 16))
    shutil.make_archive(str(folder / "stored.zarr"), "zip", folder / "zstd.zarr")
    found |= {path.name: pixels for path in folder.iterdir()}
    before = gray.astype(float)
    fit = kernelfit.find_kernel(before, 2 * before, (3, 2), solver="auto", background=0)
    for suffix in (".npz", ".json", ".fits", ".tif", ".csv", ".txt", ".npy"):
        write_kernel(folder / f"kernel{suffix}", fit)
        found[f"kernel{suffix}"] = kernel
    fit.save(folder / "fit.npz")
    kernelfit.accumulate(before, 2 * before, (3, 2)).save(folder / "normal.npz")
    kernelfit.accumulate_spectra(before, 2 * before, (3, 2)).save(folder / "spectra.npz")
    stream(folder / "checkpoint.npz")
    found |= {"fit.npz": loaded(kernelfit.KernelFit), "normal.npz": loaded(kernelfit.NormalStats)}
    return found | {"spectra.npz": loaded(kernelfit.SpectralStats), "checkpoint.npz": stream}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with one to four places spoiled."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not out:
            break
        near = rng.random() < 0.6  # headers are where it hurts
        at = int(rng.integers(0, min(len(out), 700 if near else len(out))))
        n = int(rng.integers(1, 64))
        how = rng.integers(0, 8)
        if how == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            out[at] = int(rng.integers(256))
        elif how == 2:
            del out[at:]
        elif how == 3:
            del out[at : at + n]
        elif how == 4:
            out[at:at] = out[at : at + n]
        elif how == 5:
            out[at : at + n] = bytes(n)
        elif how == 6:
            extreme = [0, 1, -1, 2**31 - 1, -(2**31), 65535, 2**24][int(rng.integers(7))]
            out[at : at + 4] = struct.pack("<>"[int(rng.integers(2))] + "i", extreme)
        else:
            out[at : at + n] = rng.bytes(n)
    return bytes(out)


def rewritten(value: object, rng: np.random.Generator) -> object:
    """Return JSON with one value somewhere inside replaced, removed or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: rewritten(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = int(rng.integers(len(value)))
        return [*value[:at], rewritten(value[at], rng), *value[at + 1 :]]
    return HOSTILE[int(rng.integers(len(HOSTILE)))]


def spoil(source: Path, place: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    """Write a damaged copy of a file, or of one file of a folder; return that file and where its copy is."""
    if source.is_dir():
        files = sorted(each for each in source.rglob("*") if each.is_file())
        one = files[int(rng.integers(len(files)))]
        source, place = one, place / one.relative_to(source)
    data = source.read_bytes()
    if source.suffix == ".json" or source.name.startswith(".z"):
        if rng.random() < 0.7:
            text = json.dumps(rewritten(json.loads(data), rng))
            place.write_text(text if rng.random() < 0.95 else "[" * 10000 + text)
            return source, place
    elif source.suffix == ".npz" and rng.random() < 0.7:
        with np.load(source) as file:
            arrays = {name: file[name] for name in file.files if name != "checksum" or rng.random() < 0.1}
        if rng.random() < 0.9:  # files of the first format have no checksum that hides all else
            arrays["header"] = np.array(json.dumps({**json.loads(str(arrays["header"])), "kernelfit": 1}))
        if rng.random() < 0.6:
            arrays["header"] = np.array(json.dumps(rewritten(json.loads(str(arrays["header"])), rng)))
        else:
            name = list(arrays)[int(rng.integers(len(arrays)))]
            array = arrays[name]
            if array.dtype.kind in "fc" and array.size and rng.random() < 0.7:
                array = array.copy()
                array.flat[int(rng.integers(array.size))] = [np.nan, np.inf, -1e300, -1.0][int(rng.integers(4))]
                arrays[name] = array
            else:
                narrow = array.astype(np.float32) if array.dtype.kind == "f" else array
                others = [array[..., :-1] if array.ndim else array, array.astype(str), np.zeros(0), narrow]
                arrays[name] = others[int(rng.integers(4))]
        (np.savez if rng.random() < 0.9 else np.savez_compressed)(place, **arrays)
        return source, place
    place.write_bytes(damaged(data, rng))
    return source, place


def case(source: Path, folder: Path, read: Callable[[Path], object], seed: int) -> str:
    """Damage a copy of a file, read it, and return what is wrong with how that went; empty if nothing is."""
    place = folder / "case" / source.name
    place.parent.mkdir(exist_ok=True)
    if source.is_dir() and not place.exists():
        shutil.copytree(source, place)
    sound, spoilt = spoil(source, place, np.random.default_rng([seed, *source.name.encode()]))
    start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said, wrong = io.StringIO(), ""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(said):
        warnings.simplefilter("always")
        try:
            read(place)
        except ImageFileError as error:
            wrong = "" if place.name in str(error) or str(place.parent) in str(error) else f"no name: {error}"
        except OSError as error:
            wrong = "" if error.filename is not None else f"{error!r}"
        except Exception as error:
            mismatch = read is stream and isinstance(error, ValueError) and place.name in str(error)
            wrong = "" if mismatch else f"{error!r:.300}"
    if caught:
        wrong += f" warned: {caught[0].message!s:.200}"
    if said.getvalue():
        wrong += f" said: {said.getvalue():.200}"
    if (seconds := time.monotonic() - start) > SECONDS / 2:
        wrong += f" took {seconds:.1f} s"
    if (grown := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024) > MEGABYTES:
        wrong += f" took {grown:.0f} MB"
    shutil.copyfile(sound, spoilt)  # the folder is whole again
    return wrong


def run(n: int, seed: int, folder: Path, progress: Path | None = None, only: str = "") -> list[str]:
    """Try n cases; return a line for each that is wrong."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    (folder / "whole").mkdir()
    readers = {name: read for name, read in samples(folder / "whole").items() if only in name}
    turns = [name for name in sorted(readers) for _ in range(1 if name.endswith(SLOW) else 3)]
    found = []
    if threaded := hasattr(signal, "SIGALRM"):
        before = signal.signal(signal.SIGALRM, stop)
    for i in range(n):
        name = turns[i % len(turns)]
        if progress is not None:
            progress.write_text(f"{name} {seed + i}")
        if threaded:
            signal.alarm(SECONDS)
        wrong = case(folder / "whole" / name, folder, readers[name], seed + i)
        if threaded:
            signal.alarm(0)
        if wrong:
            found.append(f"{name} seed {seed + i}: {wrong}")
            print(found[-1], flush=True)
    if threaded:
        signal.signal(signal.SIGALRM, before)
    return found


def main() -> int:
    """Run batches in processes of their own, so that a crash is a finding, too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the file's name")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        with tempfile.TemporaryDirectory() as folder:
            run(args.n, args.seed, Path(folder), Path(os.environ["FUZZ_PROGRESS"]), args.only)
        return 0
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        first, stop = args.seed, args.seed + args.n
        while first < stop:
            last = min(first + BATCH, stop)
            words = ["--child", "--n", str(last - first), "--seed", str(first), "--only", args.only]
            child = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True,
                                   env={**os.environ, "FUZZ_PROGRESS": str(progress)})  # fmt: skip
            lines, first = child.stdout.splitlines(), last
            if child.returncode or child.stderr:
                at = progress.read_text()
                lines.append(f"{at}: exit {child.returncode} {child.stderr[-600:]}")
                first = int(at.split()[-1]) + 1 if child.returncode else last
            print(*lines, *([f"up to seed {first}"] if args.n > BATCH else []), sep="\n", flush=True)
            found += lines
    print(f"{args.n} cases from seed {args.seed}: {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
