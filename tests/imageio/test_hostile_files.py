"""Files that are damaged, that promise what they do not hold, or that lead outside themselves."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kernelfit
from kernelfit.cli.parser import main
from kernelfit.core import npz
from kernelfit.imageio import limits, scientific
from kernelfit.imageio.kernels import read_kernel, write_kernel
from kernelfit.io import ImageFileError, read_image

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
tifffile = pytest.importorskip("tifffile")
fits = pytest.importorskip("astropy.io.fits")
Image = pytest.importorskip("PIL.Image")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kernelfit.__file__).parents[1])}


def script(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pixels():
    return np.random.default_rng(5).integers(0, 255, (39, 52)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch, pixels):
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", pixels)
    np.save("target.npy", pixels / 2)
    return tmp_path


@pytest.fixture(scope="module")
def fit():
    image = np.random.default_rng(6).normal(size=(30, 41))
    return kernelfit.find_kernel(image, kernelfit.apply_kernel(image, np.arange(6.0).reshape(2, 3)) + 1e-3 * image**2,
                                 (2, 3))  # fmt: skip


def called(capsys, *argv):
    """Exit code, standard output, and the one line of the error."""
    code = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1 and "Traceback" not in err
    return code, out, err


# ---- arrays that are read when they are used ------------------------------------------------------------------------


def damaged_stores(folder, pixels):
    """Stores whose last chunk is damaged, so that opening them shows nothing."""
    with h5py.File(folder / "gzip.h5", "w") as file:
        chunked = file.create_dataset("a", data=pixels, chunks=(13, 13), compression="gzip", fletcher32=True)
        place = chunked.id.get_chunk_info_by_coord((26, 39))
    with h5py.File(folder / "sum.h5", "w") as file:
        summed = file.create_dataset("a", data=pixels, chunks=(13, 13), fletcher32=True)
        other = summed.id.get_chunk_info_by_coord((26, 39))
    for name, info in (("gzip.h5", place), ("sum.h5", other)):
        data = bytearray((folder / name).read_bytes())
        data[info.byte_offset + 20] ^= 255
        (folder / name).write_bytes(data)
    for name, codec, how in (("zstd", zarr.codecs.ZstdCodec(), {}), ("blosc", zarr.codecs.BloscCodec(), {}),
                             ("gzip", zarr.codecs.GzipCodec(), {}),
                             ("shards", zarr.codecs.ZstdCodec(), {"shards": (26, 26)})):  # fmt: skip
        zarr.create_array(folder / f"{name}.zarr", data=pixels, compressors=codec, **{"chunks": (13, 13), **how})
        chunk = folder / f"{name}.zarr" / "c" / ("1/1" if how else "2/3")
        chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    return ["gzip.h5", "sum.h5", "zstd.zarr", "blosc.zarr", "gzip.zarr", "shards.zarr"]


@pytest.mark.slow
def test_a_damaged_chunk_is_one_line_that_names_the_file(folder, pixels, capsys):
    for name in damaged_stores(folder, pixels):
        for call in (
            ("find", name, "target.npy", "--shape", "2,3", "-o", "k.npy"),
            ("find", "image.npy", name, "--shape", "2,3", "--background", "0"),
            ("find", "image.npy", "target.npy", "--shape", "2,3", "--mask", name),
            ("find", name, "target.npy", "--shape", "2,3", "--checkpoint", "c.npz"),
            ("apply", name, "image.npy", "-o", "x.npy"),
        ):
            code, out, err = called(capsys, *call)
            assert (code, out) == (2, "") and name in err, (call, err)
    assert not (folder / "k.npy").exists() and not (folder / "x.npy").exists()


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_shapes_that_no_file_holds_are_refused_and_large_ones_are_not(tmp_path, pixels, kind):
    """Chunks that are not there cost nothing, however many a shape promises."""
    for name, shape in (("endless", (2**33, 2**38)), ("large", (2**30, 2**31)), ("wide", (13, 2**40))):
        path = tmp_path / f"{name}.{kind}"
        if kind == "h5":
            with h5py.File(path, "w") as file:
                words = {"maxshape": (None, None), "chunks": (1024, 1024), "compression": "gzip"}
                file.create_dataset("a", data=pixels[:20, :20], **words).resize(shape)
        else:
            array = zarr.create_array(path, shape=shape, dtype=pixels.dtype, chunks=(1024, 1024))
            array[:20, :20] = pixels[:20, :20]
        if name == "large":
            np.testing.assert_array_equal(read_image(path)[:13, 2:20], pixels[:13, 2:20])
        else:
            with pytest.raises(ImageFileError, match=f"{name}.*need one that a file can hold; save it anew"):
                read_image(path)


def test_chunks_that_are_too_short_to_be_unpacked_are_refused(folder, pixels):
    """HDF5 itself reads beyond the end of its memory then."""
    packings = [{"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True}]
    packings.append({"compression": "gzip", "shuffle": True, "fletcher32": True})
    for words in packings:
        with h5py.File("a.h5", "w") as file:
            info = file.create_dataset("a", data=pixels, chunks=(13, 13), **words).id.get_chunk_info(0)
        data = Path("a.h5").read_bytes()
        # of the first chunk in the index: bytes, filters left out, and where it stands
        place = data.index(struct.pack("<IIQQQ", info.size, info.filter_mask, 0, 0, 0))
        for short in (0, 3):
            Path("b.h5").write_bytes(data[:place] + struct.pack("<I", short) + data[place + 4 :])
            with pytest.raises(ImageFileError, match=f"b.h5.*chunk of {short} bytes"):
                read_image("b.h5")
        twice = data.index(struct.pack("<QQQ", 0, 13, 0))  # HDF5 finds other chunks than it tells of then
        Path("b.h5").write_bytes(data[:twice] + bytes(24) + data[twice + 24 :])
        with pytest.raises(ImageFileError, match="b.h5.*two chunks at one place"):
            read_image("b.h5")


def test_hdf5_groups_that_lead_back_to_themselves(folder, pixels, monkeypatch):
    with h5py.File("a.h5", "w") as file:
        file["z/a"], file["t"], file["type"] = pixels, pixels[0], pixels.dtype
        file["z/same"], file["z/round"], file["soft"] = file["z/a"], file["/"], h5py.SoftLink("/t")
        file["far"] = h5py.ExternalLink("b.h5", "/a")
    np.testing.assert_array_equal(read_image("a.h5"), pixels)
    with h5py.File("a.h5", "a") as file:
        file["b/c/d"] = pixels.astype(float)
    with pytest.raises(ImageFileError, match=r"got 2 arrays \(/b/c/d 39 x 52, /z/a 39 x 52\)"):
        read_image("a.h5")
    for name, most in (("_MOST_LINKS", 6), ("_DEEPEST", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(scientific, name, most)
            with pytest.raises(ImageFileError, match=f"a.h5: got an HDF5 file of .*{most}.*, need fewer"):
                read_image("a.h5", dataset="b/c/d")


@pytest.mark.slow
def test_an_hdf5_index_whose_neighbour_is_itself_is_not_walked_for_ever(folder, pixels):
    """The library's own walk over all objects never comes back, and no signal reaches it."""
    with h5py.File("a.h5", "w") as file:
        file["a"] = pixels
    data = bytearray(Path("a.h5").read_bytes())
    at = data.index(b"TREE")
    data[at + 16 : at + 24] = struct.pack("<Q", at)
    Path("a.h5").write_bytes(data)
    code = "import kernelfit.io as io; print(int(io.read_image('a.h5')[...].sum()))"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, timeout=60)
    assert int(done.stdout) == pixels.sum(), done.stderr


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("ImageLength", {"rowsperstrip": 8}),
        ("ImageLength", {"rowsperstrip": 8, "compression": "zlib"}),
        ("ImageLength", {"tile": (16, 16)}),
        ("ImageWidth", {"tile": (16, 16)}),
    ],
    ids=str,
)
def test_tiff_strips_that_are_not_there_are_no_zeros(folder, tag, words):
    """Memory for all of them would be taken as well."""
    tifffile.imwrite("a.tif", np.ones((40, 50), dtype=np.uint8), metadata=None, **words)
    with tifffile.TiffFile("a.tif", mode="r+b") as file:
        n_chunks = len(file.pages[0].dataoffsets)
        file.pages[0].tags[tag].overwrite(3000)
    for read in (read_image, read_kernel):
        with pytest.raises(ImageFileError, match=f"a.tif: got {n_chunks} of the .* strips or tiles"):
            np.asarray(read("a.tif"))


def test_tiff_samples_of_several_sizes_are_not_multiplied(folder, pixels):
    """Python repeats what is listed, here to more than any memory holds."""
    colours = np.stack([pixels] * 3, axis=-1)
    tifffile.imwrite("a.tif", colours, compression="zlib", photometric="rgb", metadata=None)
    data = Path("a.tif").read_bytes()
    with tifffile.TiffFile("a.tif") as file:
        rows, cols, bits = (file.pages[0].tags[code] for code in (257, 256, 258))
    data = bytearray(data)
    data[bits.valueoffset : bits.valueoffset + 6] = struct.pack("<HHH", 256, 0, 256)
    Path("bits.tif").write_bytes(data)
    data[rows.offset : rows.offset + 2] = struct.pack("<H", 65535)  # no height
    data[cols.offset : cols.offset + 12] = struct.pack("<HHII", 256, 4, 1, 2**32 - 9)
    Path("none.tif").write_bytes(data)
    for name in ("bits.tif", "none.tif"):
        for read in (lambda path: read_image(path, colours=True), read_kernel):
            with pytest.raises(ImageFileError, match=name):
                read(name)


def test_fits_sizes_below_zero_do_not_lead_round_and_round(folder):
    fits.PrimaryHDU(np.zeros((33, 46), ">i2")).writeto("a.fits")
    data = Path("a.fits").read_bytes()
    for name, more in (("negative.fits", b""), ("more.fits", data)):
        Path(name).write_bytes(
            data.replace(b"NAXIS1  =                   46", b"NAXIS1  =                  -46") + more
        )
        for read in (read_image, read_kernel):
            with pytest.raises(ImageFileError, match=name):
                read(name)


def test_sound_stores_come_through_the_same_door_unchanged(folder, pixels):
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("a", data=np.tile(pixels, (20, 20)), chunks=(500, 700), compression="gzip")
    image = read_image("a.h5")
    for key in (np.s_[3:7, 2:9], np.s_[...], np.s_[770], np.s_[..., -1], np.s_[600:, 1000:1040]):
        np.testing.assert_array_equal(image[key], np.tile(pixels, (20, 20))[key])


def test_files_that_are_cut_short_are_refused_before_memory_is_taken(folder):
    array = np.lib.format.open_memmap("huge.npy", mode="w+", dtype="f8", shape=(2, 3))
    del array
    head = Path("huge.npy").read_bytes().replace(b"(2, 3), }         ", b"(200000, 300000), }")
    Path("huge.npy").write_bytes(head[:128])
    for read in (read_image, read_kernel):
        with pytest.raises(ImageFileError, match="huge.npy.*cut short"):
            read("huge.npy")
    fits.PrimaryHDU(np.zeros((40, 60))).writeto("a.fits")
    data = Path("a.fits").read_bytes()
    Path("cut.fits").write_bytes(data[:6000])
    Path("negative.fits").write_bytes(
        data.replace(b"NAXIS1  =                   60", b"NAXIS1  =                   -5")
    )
    tifffile.imwrite("a.tif", np.zeros((40, 60)))
    Path("cut.tif").write_bytes(Path("a.tif").read_bytes()[:-3000])
    Path("none.tif").write_bytes(b"II*\0" + bytes(4))
    for name in ("cut.fits", "negative.fits", "cut.tif", "none.tif"):
        for read in (read_image, read_kernel):
            with pytest.raises(ImageFileError, match=name):
                read(name)


# ---- no more is unpacked than promised ------------------------------------------------------------------------------


def test_bombs_are_refused_without_unpacking_them(tmp_path, monkeypatch):
    bombs = script("bombs")
    monkeypatch.setattr(limits, "FREE", 2**22)  # so that small ones will do
    names = bombs.write_bombs(tmp_path, 64)
    assert len(names) == 13
    for name in names:
        error = bombs.read(tmp_path / name)
        assert error.startswith(str(tmp_path / name)) or name in bombs.HARMLESS, (name, error)
        assert "more than" in error or name in (*bombs.HARMLESS, "kernel.npz", "promise.bmp"), (name, error)


@pytest.mark.slow
def test_pixels_that_pack_well_are_no_bombs(tmp_path):
    flat = np.zeros((3000, 2000), np.uint16)
    flat[5, 7] = 1
    tifffile.imwrite(tmp_path / "a.tif", flat, compression="zlib", rowsperstrip=3000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=flat, chunks=flat.shape, compression="gzip")
    fits.PrimaryHDU(flat).writeto(tmp_path / "a.fits.gz")
    zarr.create_array(tmp_path / "a.zarr", data=flat, chunks=flat.shape, compressors=zarr.codecs.GzipCodec())
    for name in ("a.tif", "a.h5", "a.fits.gz", "a.zarr"):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name)), flat)


@pytest.mark.parametrize(
    "change", [{"chunk_shape": [0, 13]}, {"chunk_shape": [40000, 40000]}, {"chunk_shape": [-1, 3]}]
)
def test_chunks_of_impossible_sizes(change, tmp_path, pixels):
    zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(13, 13))
    path = tmp_path / "a.zarr" / "zarr.json"
    facts = json.loads(path.read_text())
    facts["chunk_grid"]["configuration"] |= change
    path.write_text(json.dumps(facts))
    with pytest.raises(ImageFileError, match="a.zarr"):
        np.asarray(read_image(tmp_path / "a.zarr"))


def test_codecs_that_run_code_are_refused(tmp_path, pixels):
    zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(13, 13), zarr_format=2)
    path = tmp_path / "a.zarr" / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), "filters": [{"id": "pickle"}]}))
    with pytest.raises(ImageFileError, match="a.zarr"):
        read_image(tmp_path / "a.zarr")


# ---- what lies outside the file -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_file_names_outside_itself_is_read_by_leave_only(folder, pixels, capsys):
    (folder / "secret.bin").write_bytes(pixels.tobytes())
    (folder / "s").mkdir()
    with h5py.File("external.h5", "w") as file:
        file.create_dataset("a", pixels.shape, "u1", external=[("secret.bin", 0, pixels.size)])
    with h5py.File("source.h5", "w") as file:
        file["a"] = pixels
    with h5py.File("virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(pixels.shape, "u1")
        layout[...] = h5py.VirtualSource("source.h5", "a", pixels.shape)
        file.create_virtual_dataset("a", layout)
    zarr.create_array("link.zarr", data=pixels, chunks=pixels.shape, compressors=None)
    (folder / "link.zarr/c/0/0").unlink()
    (folder / "link.zarr/c/0/0").symlink_to(folder / "secret.bin")
    for name in ("external.h5", "virtual.h5", "link.zarr"):
        with pytest.raises(ImageFileError, match=f"{name}.*allow_external=True"):
            read_image(name)
        np.testing.assert_array_equal(np.asarray(read_image(name, allow_external=True)), pixels)
        call = ("find", name, "target.npy", "--shape", "2,3")
        code, out, err = called(capsys, *call)
        assert code == 2 and "--allow-external" in err and name in err
        assert called(capsys, *call, "--allow-external")[0] == 0


def test_companions_of_an_ome_tiff(folder, pixels):
    uuids = ["urn:uuid:0000000a-1111-2222-3333-444444444444", "urn:uuid:0000000b-1111-2222-3333-444444444444"]
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for z, (name, uuid) in enumerate(zip(("one.ome.tif", "two.ome.tif"), uuids, strict=True))
    )
    for name, uuid, data in (("one.ome.tif", uuids[0], pixels), ("two.ome.tif", uuids[1], pixels[::-1])):
        text = (
            f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{pixels.shape[1]}" '
            f'SizeY="{pixels.shape[0]}" SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
            f"{planes}</Pixels></Image></OME>"
        )
        tifffile.imwrite(name, data, description=text, metadata=None, photometric="minisblack")
    with pytest.raises(ImageFileError, match="one.ome.tif.*other files.*allow_external"):
        read_image("one.ome.tif")
    np.testing.assert_array_equal(read_image("one.ome.tif", page=0), pixels)  # a page of the file itself
    with pytest.raises(ImageFileError, match="2 planes"):
        read_image("one.ome.tif", allow_external=True)
    tifffile.imwrite("alone.ome.tif", pixels)
    Path("alone.ome.tif").rename("renamed.ome.tif")
    np.testing.assert_array_equal(read_image("renamed.ome.tif"), pixels)


@pytest.mark.parametrize("place", ["image.png", "a.zarr/zarr.json", "a.zarr/c/0/0", "k.npz", "k.csv", "s.npz", "c.npz"])
def test_pipes_are_refused_rather_than_waited_for(place, folder, pixels):
    zarr.create_array("a.zarr", data=pixels)
    Path(place).unlink(missing_ok=True)
    os.mkfifo(place)
    read = {
        "image.png": read_image,
        "k.npz": read_kernel,
        "k.csv": read_kernel,
        "s.npz": kernelfit.NormalStats.load,
        "c.npz": lambda path: kernelfit.accumulate_stream([(pixels, pixels)], (2, 3), checkpoint=path),
    }.get(place, lambda path: np.asarray(read_image("a.zarr")))
    start = time.monotonic()
    with pytest.raises((ImageFileError, FileExistsError), match="pipe|zarr"):
        read(place)
    assert time.monotonic() - start < 30


# ---- one judge for results, statistics and checkpoints --------------------------------------------------------------


def changed(path, name=None, value=None, **header):
    """Rewrite a file without its checksum, as a program that knows the format could."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "checksum"}
    fields = json.loads(str(arrays["header"])) | {"kernelfit": 1}
    for key, new in header.items():
        place, last = fields, key.split("__")
        for part in last[:-1]:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[int(last[-1]) if isinstance(place, list) else last[-1]] = new
    arrays["header"] = np.array(json.dumps(fields))
    if name is not None:
        arrays[name] = value(arrays[name])
    np.savez(path, **arrays)


def at(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


FITS = [
    {"convention__origin": [50]}, {"convention__mode": "foo"}, {"convention__boundary": "bar"}, {"rank": -1},
    {"convention__stride": [0, 0]}, {"convention__offset": [1, 0]}, {"convention__operation": None}, {"n_pixels": 1.5},
    {"convention__fillvalue": "0"}, {"convention__origin": [0.5, 1]}, {"noise_std": -1.0}, {"uncertainty": "none"},
    {"channels": "all"}, {"findings": [["NONSENSE", ""]]}, {"rss": True}, {"solver": 7}, {"priors": 5},
    {"name": "kernel", "value": at((0, 0), np.nan)}, {"name": "factor", "value": at((0, 0), np.inf)},
    {"name": "factor", "value": lambda a: a[:-1]}, {"name": "kernel", "value": lambda a: a.astype(str)},
    {"convention__ndim": True}, {"name": "factor", "value": at((0, 0), np.inf), "root_scale": 0.0},
    {"name": "factor", "value": at((0, 0), 1e300), "root_scale": 1e300},
]  # fmt: skip
STATISTICS = [
    {"name": "gram", "value": at((1, 2), np.nan)}, {"name": "gram", "value": at((1, 2), 1e9)},
    {"name": "gram", "value": at((2, 2), -1.0)}, {"name": "moment", "value": at(0, np.inf)},
    {"name": "gram", "value": lambda a: a[:-1]}, {"n_pixels": -1}, {"n_pixels": "many"}, {"target_energy": -1.0},
    {"supports": [[0, 6]]}, {"supports": [[2, 3, 4]]}, {"convention__origin": [5]}, {"convention__stride": [0, 1]},
    {"weight_sum": "x"}, {"target_sum": float("nan")}, {"name": "moment", "value": at(1, -1e300)},
]  # fmt: skip
SPECTRA = [
    {"name": "image_power", "value": at((0, 1), -1.0)}, {"name": "cross", "value": at((0, 1), np.nan)},
    {"n_blocks": -2}, {"block": [0]}, {"convention__mode": "foo"}, {"shape": [9, 9]}, {"weight_square": float("inf")},
]  # fmt: skip
CHECKPOINTS = [
    {"pairs": -1}, {"blocks": -1}, {"pairs": 0.5}, {"sums__0__place": -1}, {"sums__0__whole__0__0__n_pixels": -5},
    {"call": []}, {"name": "0/whole0/gram", "value": at((0, 0), -1.0)}, {"sums": 3}, {"sums__0__whole": [[1]]},
    {"digest": 5}, {"sums__0__n_pixels": []}, {"sums__0__whole__0__1": "2"},
    {"name": "0/whole0/moment", "value": at(2, 1e300)}, {"sums": []}, {"sums__0__place": [1, 0]},
    {"sums__0__place": [0, 1]}, {"sums__0__place": ["0", 0]}, {"sums__0__whole": []},
]  # fmt: skip
KINDS = {"KernelFit": FITS, "NormalStats": STATISTICS, "SpectralStats": SPECTRA, "Checkpoint": CHECKPOINTS}


def written(kind, path, fit):
    image = np.random.default_rng(6).normal(size=(30, 41))

    def stream(path):
        return kernelfit.accumulate_stream([(image, image)] * 2, (2, 3), checkpoint=path, workers=1)

    if kind == "Checkpoint":
        stream(path)
        return stream
    record = fit if kind == "KernelFit" else kernelfit.accumulate(image, image, (2, 3))
    record = kernelfit.accumulate_spectra(image, image, (2, 3)) if kind == "SpectralStats" else record
    record.save(path, overwrite=True)
    return type(record).load


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_nothing_has_are_refused(kind, tmp_path, fit):
    path = tmp_path / "file.npz"
    for change in KINDS[kind]:
        read = written(kind, path, fit)
        changed(path, **change)
        with pytest.raises(ImageFileError, match="file.npz"):
            read(path)
        path.unlink()
    read = written(kind, path, fit)
    changed(path)  # as versions without a checksum wrote it
    read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checksum_tells_of_any_change(kind, tmp_path, fit):
    path = tmp_path / "file.npz"
    read = written(kind, path, fit)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    data = path.read_bytes()
    spots = np.linspace(0, len(data) - 1, 60).astype(int).tolist()
    for spot in {*range(30), *spots, *range(len(data) - 110, len(data))}:  # names, dates and lengths as well as numbers
        path.write_bytes(data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :])
        with pytest.raises(ImageFileError, match="file.npz"):
            read(path)
    for other in (b"x" + data, data + b"x", data[:-1], data[:-81], data[:-81] + data):
        path.write_bytes(other)
        with pytest.raises(ImageFileError, match="file.npz"):
            read(path)
    np.savez(path, **arrays)  # by another program
    with pytest.raises(ImageFileError, match="file.npz.*checksum"):
        read(path)
    name = next(key for key in arrays if key.endswith(("kernel", "gram", "cross")))
    arrays["header"] = np.array(str(arrays["header"]).replace('"kernelfit": 2', '"kernelfit": 1'))
    np.savez(path, **arrays, checksum=npz._checksum(arrays))  # as version 0.14 wrote it
    read(path)
    arrays["checksum"] = npz._checksum(arrays)
    arrays[name] = arrays[name] * (1 + 1e-12)
    np.savez(path, **arrays)
    with pytest.raises(ImageFileError, match="file.npz.*checksum"):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_another_format_or_packing(kind, tmp_path, fit, monkeypatch):
    path = tmp_path / "file.npz"
    monkeypatch.setattr(npz, "FORMAT", 3)
    read = written(kind, path, fit)
    monkeypatch.undo()
    with pytest.raises(ImageFileError, match="file.npz holds .* this version"):
        read(path)
    path.unlink()
    read = written(kind, path, fit)
    data = bytearray(path.read_bytes()[:-81])  # without the checksum
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez_compressed(path, **arrays)
    with pytest.raises(ImageFileError, match="file.npz.*packed"):
        read(path)
    for at in [i for i in range(len(data) - 46) if data[i : i + 4] == b"PK\1\2"]:
        data[at + 8] |= 1  # encrypted
    path.write_bytes(data)
    with pytest.raises(ImageFileError, match="file.npz.*encrypted"):
        read(path)


KERNELS = [
    '{"kernel": [[1, 2], [3, 4]], "verdict": "solved", "convention": {"origin": [7]}}',
    '{"kernel": [[1, 2], [3, 4]], "convention": {"mode": "foo"}}',
    '{"kernel": [[1, 2], [3, 4]], "convention": {"stride": [0, 0]}}',
    '{"kernel": [[1, 2], [3, 4]], "convention": [1]}',
    '{"kernel": [[1, 2], [3, 4]], "stderr": [[1, -2], [3, 4]]}',
    '{"kernel": [[1, 2], [3, 4]], "stderr": [[1, 2]]}',
    '{"kernel": [[1' + "0" * 400 + ", 2]]}",
    '{"kernel": [[1' + "0" * 5000 + ", 2]]}",
    '{"kernel": [[NaN, 1]]}',
    '{"kernel": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"kernel": {"a": 1}}',
]


@pytest.mark.parametrize("text", KERNELS, ids=range(len(KERNELS)))
def test_kernels_in_json_that_are_none(text, folder, capsys):
    Path("k.json").write_text(text)
    code, out, err = called(capsys, "inspect", "k.json")
    assert (code, out) == (2, "") and "k.json" in err


@pytest.mark.slow
def test_a_verdict_in_one_word_is_read(folder, capsys):
    Path("k.json").write_text('{"kernel": [[1, 2], [3, 4]], "verdict": "solved"}')
    code, out, _ = called(capsys, "inspect", "k.json")
    assert code == 0 and "verdict     solved" in out


def test_kernels_in_fits_tiff_and_npy_are_judged_too(tmp_path, fit):
    write_kernel(tmp_path / "k.fits", fit)
    for key, value in (("KFORIG0", 9.5), ("KFMODE", "foo"), ("KFSTRD1", 0), ("KFFILL", "x"), ("KFORIG1", "one")):
        with fits.open(tmp_path / "k.fits") as hdus:
            hdus[0].header[key] = value
            hdus.writeto(tmp_path / "bad.fits", overwrite=True)
        with pytest.raises(ImageFileError, match="bad.fits"):
            read_kernel(str(tmp_path / "bad.fits"))
    note = json.dumps({"convention": {"origin": [50]}, "shape": [2, 3]})
    tifffile.imwrite(tmp_path / "bad.tif", fit.kernel, description=note, metadata=None)
    head = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1, ((2)), }"
    (tmp_path / "bad.npy").write_bytes(head.ljust(128) + bytes(16))
    for name in ("bad.tif", "bad.npy"):
        with pytest.raises(ImageFileError, match=name):
            read_kernel(str(tmp_path / name))


# ---- at random ------------------------------------------------------------------------------------------------------


def test_damaged_files_raise_nothing_else(tmp_path):
    assert script("fuzz_files").run(170, 20_000, tmp_path) == []


@pytest.mark.slow
def test_bytes_on_standard_error_stay_away(tmp_path):
    """Warnings of tifffile, and those that libtiff writes past Python."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 30)).astype(np.uint8))
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[200:230] = bytes(range(255, 225, -1))
    (tmp_path / "a.tif").write_bytes(data)
    tifffile.imwrite(tmp_path / "b.tif", np.ones((9, 7), np.uint8), software="x" * 40)
    late = (tmp_path / "b.tif").read_bytes().replace(struct_of(305), struct_of(305, 60_000_000))
    (tmp_path / "b.tif").write_bytes(late)
    code = (
        "import sys\nfrom kernelfit.io import read_image, ImageFileError\nfor name in sys.argv[1:]:\n"
        "    try: read_image(name)\n    except ImageFileError: pass"
    )
    names = [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, b"")


def struct_of(tag, count=41):
    return struct.pack("<HHI", tag, 2, count)
