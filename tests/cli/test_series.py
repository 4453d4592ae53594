"""Folders and patterns of files on the command line, and checkpoints: the kernel of all pairs, read one at a time."""

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import kernelfit
import naive
from helpers import ENVIRONMENT, assert_close
from kernelfit.cli import parser, progress
from kernelfit.imageio import read as io

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")
Image = pytest.importorskip("PIL.Image")

KERNEL = np.array([[0.1, 0.3, 0.0], [0.2, 0.3, 0.1]])
NAMES = ["a", "b", "c10", "c9", "d"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two folders of five pairs of PNG and TIFF of several sizes, and of masks; the current folder meanwhile."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name in ("sharp", "blurred", "masks"):
        os.mkdir(name)
    for i, name in enumerate(NAMES):
        image = rng.integers(5, 250, (41 + 2 * i, 37)).astype(np.uint8)
        target = naive.apply(image, KERNEL, mode="same", boundary="symm") + rng.normal(0, 0.5, image.shape)
        mask = rng.random(image.shape) < 0.02
        target[mask] = 1e4
        Image.fromarray(image).save(f"sharp/{name}.png")
        tifffile.imwrite(f"blurred/{name}.tif", target.astype(np.float32))
        Image.fromarray(mask).save(f"masks/{name}.png")
    return tmp_path


def run(capsys, *argv):
    code = parser.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return code, out, err


def everything(**more):
    """The fit of all pairs in memory."""
    images = [io.read_image(f"sharp/{n}.png") for n in NAMES]
    targets = [io.read_image(f"blurred/{n}.tif") for n in NAMES]
    masks = [io.read_image(f"masks/{n}.png") != 0 for n in NAMES]
    return kernelfit.find_kernel(images, targets, (2, 3), **{"mask": masks, **more})


# ---- find -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("sharp", "blurred", "masks"), ("sharp/*.png", "blurred/*.tif", "masks/*.png")], ids=str
)
def test_a_series_is_the_fit_of_all_pairs(names, folder, capsys):
    words = ["--shape", "2,3", "--boundary", "symm", "--solver", "least-squares", "--mask", names[2]]
    code, out, err = run(capsys, "find", *names[:2], *words, "-o", "k.npz")
    expected = everything(boundary="symm")
    fit = kernelfit.KernelFit.load("k.npz")
    assert (code, err) == (0, "") and fit.summary() in out
    assert f"for {expected.n_pixels} target pixels of 5 pairs; kernel written to k.npz" in out
    assert_close(fit.kernel, expected.kernel, 1e-11)
    assert_close(fit.stderr, expected.stderr, 1e-8)
    code, out, _ = run(capsys, "find", *names[:2], *words, "--json", "--workers", "1")
    found = json.loads(out)
    np.testing.assert_array_equal(found["kernel"], fit.kernel)
    known = {}
    exec(found["python"], known)  # what it says does the same
    np.testing.assert_array_equal(known["fit"].kernel, fit.kernel)
    capsys.readouterr()


@pytest.mark.parametrize("channels", ["shared", pytest.param("mixed", marks=pytest.mark.slow)])
def test_colours_with_a_background(channels, tmp_path, monkeypatch, capsys):
    """Pictures with alpha, a constant for each, and kernels as of all in memory; the Python does the same."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    images, targets = [], []
    os.mkdir("one")
    os.mkdir("other")
    for at in range(2):
        images.append(rng.integers(0, 256, (31 + at, 40, 4)).astype(np.uint8))
        planes = [naive.apply(images[-1][..., c], KERNEL, mode="same", boundary="symm") for c in range(3)]
        targets.append(np.stack(planes, axis=-1) + 5 * at + rng.normal(0, 0.5, (31 + at, 40, 3)))
        Image.fromarray(images[-1], "RGBA").save(f"one/{at}.png")
        np.save(f"other/{at}.npy", targets[-1])
    words = ["--shape", "2,3", "--channels", channels, "--background", "0", "--solver", "least-squares", "--json"]
    code, out, err = run(capsys, "find", "one", "other", *words)
    found, known = json.loads(out), {}
    plain = [image[..., :3] for image in images]
    expected = kernelfit.find_kernel(plain, targets, (2, 3), channels=channels, channel_axis=-1, background=0)
    assert (code, err) == (0, "")
    assert_close(np.array(found["kernel"]), expected.kernel, 1e-9)
    exec(found["python"], known)
    np.testing.assert_array_equal(known["fit"].kernel, found["kernel"])


def test_one_mask_for_all_and_saturated_pixels(folder, capsys):
    """Integer targets are left out where they are saturated, as those of a single pair are."""
    os.mkdir("bytes")
    mask = np.zeros((41, 37), bool)
    mask[3:9, 20:30] = True
    np.save("bad.npy", mask.astype(np.uint8))
    images, targets = [], []
    for name in NAMES:
        images.append(io.read_image(f"sharp/{name}.png")[:41])
        Image.fromarray(images[-1]).save(f"sharp/{name}.png")
        targets.append(np.clip(naive.apply(images[-1], 2 * KERNEL, mode="same", boundary="symm"), 0, 255).astype("u1"))
        Image.fromarray(targets[-1]).save(f"bytes/{name}.png")
    call = ["find", "sharp", "bytes", "--shape", "2,3", "--solver", "least-squares", "--mask", "bad.npy", "-o"]
    assert run(capsys, *call, "k.npy")[0] == 0
    expected = kernelfit.find_kernel(images, targets, (2, 3), mask=[mask] * 5)
    assert expected.n_pixels < 0.9 * 5 * 41 * 37
    assert_close(np.load("k.npy"), expected.kernel, 1e-10)
    assert run(capsys, *call, "k2.npy", "--saturated", "none")[0] < 2
    expected = kernelfit.find_kernel(images, targets, (2, 3), mask=[mask] * 5, saturated=None)
    assert_close(np.load("k2.npy"), expected.kernel, 1e-10)


def test_an_error_names_the_files(folder, capsys):
    np.save("bad.npy", np.zeros((41, 37), dtype=np.uint8))
    code, _, err = run(capsys, "find", "sharp", "blurred", "--shape", "2,3", "--mask", "bad.npy", "-o", "k.npy")
    files = " ".join(os.path.join(f, n) for f, n in (("sharp", "b.png,"), ("blurred", "b.tif:")))
    assert code == 2 and f"{files} got mask of shape (41, 37), need (43, 37)" in err


@pytest.mark.slow
def test_pairs_are_read_one_at_a_time(folder, capsys, monkeypatch):
    alive, most = set(), 0
    real = io.read_image

    class Image(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def read(path, **words):
        nonlocal most
        image = np.array(real(path, **words)).view(Image)
        alive.add(id(image))
        most = max(most, len(alive))
        return image

    for i in range(30):
        for side, end in (("sharp", "png"), ("blurred", "tif")):
            (folder / side / f"more{i}.{end}").write_bytes((folder / side / f"a.{end}").read_bytes())
    monkeypatch.setattr(io, "read_image", read)
    assert run(capsys, "find", "sharp", "blurred", "--shape", "2,3", "--workers", "1")[0] < 2
    assert 2 <= most <= 6


@pytest.mark.parametrize(
    "more, text",
    [
        ("--robust huber", "got --robust with --checkpoint or a series of pairs, whose pixels are read once"),
        ("--channels shared", "a.png: got an image of one plane with --channels, need colours"),
        ("--report r.html", "got --report with"),
        ("--method wiener", "got --method wiener with --checkpoint or a series"),
        ("--checkpoint sums.txt", "got sums.txt for the checkpoint, need a name that ends in .npz"),
        ("--checkpoint no/sums.npz", "no folder .*no; make it first"),
        ("--checkpoint k.npz", "got k.npz both as checkpoint and as output"),
        ("--mask sharp/a.png", r"b.tif: got mask of shape \(41, 37\), need \(43, 37\)"),
        ("--mask sharp/a.png --checkpoint sums.npz", r"b.tif: got mask of shape \(41, 37\), need"),
        ("--mask -", "got - with --checkpoint or a series"),
        ("--boundary wrap --shape 60,3", "a.tif: got a kernel of 60x3, larger than the image of 41x37"),
    ],
)
def test_what_a_series_is_refused_for_is_one_line(more, text, folder, capsys):
    before = sorted(os.listdir(folder))
    code, out, err = run(capsys, "find", "sharp", "blurred", "--shape", "2,3", "-o", "k.npz", *more.split())
    assert (code, out) == (2, "") and err.count("\n") == 1 and re.search(text, err), err
    assert sorted(os.listdir(folder)) == before


def test_patterns_that_the_shell_has_spread_out_and_files_that_are_no_images(folder, capsys):
    code, _, err = run(capsys, "find", "sharp/a.png", "sharp/b.png", "blurred/a.tif", "--shape", "3")
    assert code == 2 and "needs quotes: 'folder/*.png'" in err
    for side in ("sharp", "blurred"):
        (folder / side / "notes.txt").write_text("of the night")
    code, _, err = run(capsys, "find", "sharp", "blurred", "--shape", "3", "--checkpoint", "sums.npz")
    assert code == 2 and "notes.txt: got a file of another format" in err
    assert not (folder / "sums.npz").exists()


# ---- checkpoints ----------------------------------------------------------------------------------------------------

CALL = "find sharp blurred --shape 2,3 --mask masks --solver least-squares --checkpoint sums.npz --json".split()


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_from_its_checkpoint(folder, capsys):
    """Ctrl-C after three pairs; the next call reads the other two, and ends with the same bits."""
    script = textwrap.dedent("""
        import os, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from kernelfit import cli
        from kernelfit.cli import progress
        class Bar(progress.Bar):
            def __call__(self, stage, done, total):
                if done == 3:
                    os.kill(os.getpid(), signal.SIGINT)
        progress.Bar = Bar
        sys.exit(cli.main(sys.argv[1:]))
    """)
    done = subprocess.run([sys.executable, "-c", script, *CALL], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (parser.STOPPED, "")
    assert done.stderr == "kernelfit: stopped; the same call goes on from sums.npz\n"
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.Bar, "__call__", lambda self, *a: told.append(a))
        code, out, _ = run(capsys, *CALL)
    assert code == 0 and told == [("reading pixels", i, 5) for i in (4, 5)]
    again = json.loads(out)["kernel"]
    code, out, _ = run(capsys, *[word for word in CALL if word not in ("--checkpoint", "sums.npz")])
    assert json.loads(out)["kernel"] == again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.Bar, "__call__", lambda self, *a: pytest.fail("read again"))
        assert json.loads(run(capsys, *CALL)[1])["kernel"] == again
    assert sorted(os.listdir(folder)) == ["blurred", "masks", "sharp", "sums.npz"]


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_refused_and_left_alone(folder, capsys):
    code, _, err = run(capsys, *CALL)
    assert (code, err) == (0, "")
    before = (folder / "sums.npz").read_bytes()

    def refused(text, *call):
        code, out, err = run(capsys, *call)
        assert (code, out) == (2, "") and err.count("\n") == 1 and re.search(text, err), err

    text = r"got --checkpoint sums.npz, which was written with --shape \[2, 3\], and a call with --shape 3"
    refused(text, *CALL, "--shape", "3")
    for name in ("a", "b"):
        Image.fromarray(np.zeros(io.read_image(f"blurred/{name}.tif").shape, np.uint8)).save(f"sharp/{name}.png")
    refused("another stream: one of its first 5 pairs is not the same", *CALL)
    assert (folder / "sums.npz").read_bytes() == before
    for content in (before[:-1], before[:999], b"", b"my thesis"):
        (folder / "sums.npz").write_bytes(content)
        refused("sums.npz: got no complete file saved by kernelfit", *CALL)
        assert (folder / "sums.npz").read_bytes() == content


@pytest.mark.slow
def test_one_large_pair_with_a_checkpoint(folder, capsys):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(300, 170))
    target = naive.apply(image[:60], KERNEL, mode="same", boundary="wrap")
    for name, array in (("in.zarr", image[:60]), ("out.zarr", target)):
        zarr.save_array(name, array)
    call = "find in.zarr out.zarr --shape 2,3 --boundary wrap --checkpoint sums.npz -o k.npy".split()
    code, out, err = run(capsys, *call, "--solver", "least-squares")
    assert (code, err) == (0, "") and "of 1 pair; kernel written to k.npy; sums kept in sums.npz" in out
    assert_close(np.load("k.npy"), KERNEL, 1e-9)


@pytest.mark.slow
def test_a_full_disk_is_a_line_and_the_run_goes_on(folder):
    """Files of the process may not grow beyond some bytes once the checkpoint exists."""
    script = textwrap.dedent("""
        import resource, sys
        from kernelfit import cli
        from kernelfit.fitting import checkpoint
        real = checkpoint.Checkpoint._save_sometimes
        def full(self, *, now=False):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
            return real(self, now=True)
        checkpoint.Checkpoint._save_sometimes = full
        sys.exit(cli.main(sys.argv[1:]))
    """)
    done = subprocess.run([sys.executable, "-c", script, *CALL], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 and json.loads(done.stdout)["n_pixels"] > 1000
    assert done.stderr.count("\n") == 1
    assert re.match("kernelfit: the checkpoint sums.npz cannot be written .*; the run goes on", done.stderr)
