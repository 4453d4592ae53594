"""The pages for each kind of user: from files of that kind to an answer, by what the page says and nothing else."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from kernelfit.cli.parser import main
from kernelfit.imageio.kernels import read_kernel

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "users"


def texture(rng):
    return scipy.ndimage.gaussian_filter(rng.normal(size=(132, 160)), 0.6) + 0.3 * rng.normal(size=(132, 160))


def png(name, pixels):
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)).save(name)


def gaussian(side, *sigmas):
    places = np.meshgrid(*[np.arange(n) - n // 2 for n in side], indexing="ij")
    kernel = np.exp(-sum((place / sigma) ** 2 for place, sigma in zip(places, sigmas, strict=True)) / 2)
    return kernel / kernel.sum()


def photo(rng):
    image = 120 + 45 * texture(rng)
    png("before.png", image)
    png("after.png", scipy.ndimage.gaussian_filter(np.rint(np.clip(image, 0, 255)), 1.5))
    png("other.png", image[::-1])
    return {"kernel.npz": gaussian((13, 13), 1.5, 1.5)}


def lens(rng):
    image = 120 + 45 * texture(rng)
    truth = gaussian((11, 11), 1.4, 1.8)
    blurred = scipy.signal.convolve2d(image, truth, "same", "symm")
    png("sharp.png", image)
    png("blurred.png", blurred + rng.normal(0, 1, image.shape))
    png("turned.png", scipy.ndimage.rotate(blurred, 0.4, reshape=False, order=5, mode="mirror"))
    cells = rng.integers(0, 2, (130, 146)) * 200 + 20.0  # two cells to a pixel, each of three points
    fine = np.pad(np.kron(cells, np.ones((3, 3))), 100, constant_values=180.0)
    capture = scipy.ndimage.gaussian_filter(fine, (3.4, 2.8))[3::6, 3::6]
    png("pattern.png", cells)
    png("capture.png", capture + rng.normal(0, 1, capture.shape))
    return {"blur.npz": truth}


def astronomy(rng):
    fits = pytest.importorskip("astropy.io.fits")
    shape = 132, 160
    stars = np.zeros(shape)
    stars[tuple(rng.integers(0, n, 300) for n in shape)] = rng.exponential(20000, 300)
    seeing = scipy.ndimage.gaussian_filter(stars, 1.0, mode="constant")
    truth = gaussian((15, 15), 1.5, 1.9)
    sky = 100 + np.add.outer(np.linspace(0, 20, shape[0]), np.linspace(0, 9, shape[1]))
    electrons = 1.5 * (scipy.signal.convolve2d(seeing, truth, "same") + sky)
    blurred = (rng.poisson(electrons) + rng.normal(0, 5, shape)) / 1.5
    image = seeing * 40  # long enough for the noise of the image to be none
    for name, pixels in (("sharp.fits", image / 40), ("blurred.fits", blurred)):
        fits.PrimaryHDU(pixels.astype(np.float32)).writeto(name)
    return {"kernel.npz": truth}


def microscopy(rng):
    tifffile = pytest.importorskip("tifffile")
    beads = np.zeros((10, 44, 50))
    beads[tuple(rng.integers(0, n, 300) for n in beads.shape)] = rng.uniform(2000, 16000, 300)
    sharp = np.rint(scipy.ndimage.gaussian_filter(beads, 0.6)).astype(np.uint16)
    truth = gaussian((5, 5, 7), 1.1, 0.8, 1.0)
    made = rng.poisson(10 + scipy.signal.fftconvolve(sharp, truth, "same").clip(0))
    tifffile.imwrite("sharp.tif", sharp)
    tifffile.imwrite("blurred.tif", made.astype(np.uint16))
    centres = rng.uniform(3, [13, 41, 47], (50, 3))
    spread = np.sqrt(np.square([1.2, 1.0, 1.1]) + 0.8**2 / 5)  # of a bead of radius 0.8, a little more
    stack = np.full((16, 44, 50), 20.0)
    for centre in centres:
        places = np.ix_(*((np.arange(n) - c) / w for n, c, w in zip(stack.shape, centre, spread, strict=True)))
        stack += 400 * np.exp(-sum(place**2 for place in places) / 2)
    tifffile.imwrite("beads.tif", rng.poisson(stack).astype(np.uint16))
    np.savetxt("beads.csv", centres, delimiter=",")
    return {"kernel.npz": truth}


def audio(rng):
    import scipy.io.wavfile

    dry = rng.normal(size=12000).astype(np.float32) / 8
    truth = np.exp(-np.arange(1200) / 160) * rng.normal(size=1200) * 0.2
    truth[0] = 1
    wet = scipy.signal.fftconvolve(dry, truth)[:12000] + rng.normal(0, 1e-3, 12000)
    for name, samples in (("dry.wav", dry), ("wet.wav", wet)):
        scipy.io.wavfile.write(name, 8000, samples.astype(np.float32))
    return {"response.npz": truth, "response.wav": truth}


def downsampling(rng):
    truth = gaussian((12, 12), 1.6, 2.0)
    truth = scipy.ndimage.shift(truth, (-0.5, -0.5), order=3)
    truth /= truth.sum()
    for folder in ("HR", "LR"):
        Path(folder).mkdir()
    made = texture(rng)
    for at in range(3):
        image = np.rint(np.clip(120 + 45 * np.roll(made, 41 * at, 1), 0, 255))
        small = kernelfit.apply_kernel(image, truth, stride=4, offset=2, boundary="symm")
        for one, other in ((f"HR/{at}.png", f"LR/{at}.png"), ("large.png", "small.png")):
            png(one, image)
            png(other, small)
    return {"kernel.npz": truth, "shared.npz": truth}


def neuroscience(rng):
    light, sound = rng.normal(size=(2, 12000))
    lag = np.arange(15)
    truth = 0.6 * np.exp(-lag / 4) * np.sin(lag / 2)
    rate = np.convolve(light, truth)[:12000] + np.convolve(sound, 0.4 * truth[::-1])[:12000] + 4
    spikes = rng.poisson(rate.clip(0))
    rows = np.column_stack([light, sound, spikes])
    np.savetxt("trial.csv", rows, delimiter=",", header="light,sound,spikes", comments="", fmt="%.6g")
    return {"field.csv": truth}


def large(rng):
    zarr = pytest.importorskip("zarr")
    pytest.importorskip("dask.array")
    truth = gaussian((7, 7), 1.2, 0.9)
    image = 100 + 20 * np.tile(texture(rng), (2, 2)).astype(np.float32)
    target = scipy.signal.convolve2d(image, truth, "same", "symm") + rng.normal(0, 0.5, image.shape)
    gone = np.zeros(image.shape, dtype=bool)
    gone[40:90, 100:170] = True
    target[gone] = np.nan
    for name, pixels in (("image", image), ("target", target.astype(np.float32)), ("nodata", gone)):
        store = zarr.create_array(f"{name}.zarr", shape=pixels.shape, chunks=(128, 128), dtype=pixels.dtype)
        store[:] = pixels
    return {"kernel.npz": truth}


TOLERANCE = {"neuroscience": 0.25, "audio": 0.02, "astronomy": 0.06, "downsampling": 0.08, "microscopy": 0.08}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "maker",
    [photo, lens, astronomy, microscopy, audio, downsampling, neuroscience, large],
    ids=lambda one: one.__name__,
)
def test_from_the_page_to_the_answer(maker, tmp_path, monkeypatch, capsys):
    """Every command and every program of the page, in order; the kernels are those that made the files."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "kernelfit.report.report_html", lambda *_, **__: "<h1>Report</h1>"
    )  # which has tests of its own
    truths = maker(np.random.default_rng(7))
    text = (FOLDER / f"{maker.__name__}.md").read_text(encoding="utf-8")
    names = {}
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.S):
        if kind == "python":
            told = io.StringIO()
            with contextlib.redirect_stdout(told):
                exec(compile(block, f"{maker.__name__}.md", "exec"), names)
            assert "SOLVED" in told.getvalue(), told.getvalue()
            continue
        for line in block.strip().splitlines():
            words = shlex.split(line, comments=True)
            force = ["--force"] if "-o" in words and Path(words[words.index("-o") + 1]).exists() else []
            code = main([*words[1:], *force])
            said = capsys.readouterr()
            assert code == 0, (line, said.out, said.err)
    for name, truth in truths.items():
        kept = read_kernel(name)
        found = kept.kernel.reshape(truth.shape if kept.kernel.size == truth.size else kept.kernel.shape)
        padded = np.zeros(truth.shape)
        first = (
            [n // 2 - at for n, at in zip(truth.shape, kept.convention.origin, strict=True)] if kept.convention else []
        )
        first = [0] * truth.ndim if found.shape == truth.shape else first
        padded[tuple(slice(at, at + n) for at, n in zip(first, found.shape, strict=True))] = found
        off = np.linalg.norm(padded - truth) / np.linalg.norm(truth)
        print(maker.__name__, name, found.shape, f"{off:.4f}")
        assert off < TOLERANCE.get(maker.__name__, 0.04), (name, off)
