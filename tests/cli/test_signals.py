"""The commands on signals: WAV, NPY of one axis, columns of a table."""

import json

import numpy as np
import pytest
import scipy.io.wavfile

import kernelfit
from helpers import assert_close
from kernelfit.cli import main
from kernelfit.imageio.kernels import read_kernel
from kernelfit.io import ImageFileError, read_signal

RESPONSE = np.exp(-np.arange(30) / 6.0) * np.cos(np.arange(30))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    dry = rng.normal(size=4000).astype(np.float32)
    wet = np.convolve(dry, RESPONSE)[:4000] + 0.01 * rng.normal(size=4000)
    monkeypatch.chdir(tmp_path)
    scipy.io.wavfile.write("dry.wav", 8000, dry)
    scipy.io.wavfile.write("wet.wav", 8000, wet.astype(np.float32))
    scipy.io.wavfile.write("stereo.wav", 8000, np.stack([wet, -2 * wet], axis=1).astype(np.float32))
    np.save("wet.npy", wet)
    np.savetxt("log.csv", np.column_stack([dry, wet]), delimiter=",", header="drive,answer", comments="")
    return tmp_path


def test_a_response_from_wav_to_wav(folder, capsys):
    code = main(["find", "dry.wav", "wet.wav", "--lags", "0,29", "-o", "response.wav", "--solver", "least-squares"])
    said = capsys.readouterr().out
    assert code == 0 and "30 taps, lags 0 to 29" in said and "4000 samples" in said and "pixel" not in said
    rate, taps = scipy.io.wavfile.read("response.wav")
    assert rate == 8000 and taps.dtype == np.float32
    fit = kernelfit.find_kernel(*(read_signal(name) for name in ("dry.wav", "wet.wav")), lags=(0, 29))
    assert_close(taps, fit.kernel, 1e-6)
    assert main(["apply", "dry.wav", "response.wav", "-o", "again.wav"]) == 0
    rate, again = scipy.io.wavfile.read("again.wav")
    assert rate == 8000
    assert_close(again, np.convolve(read_signal("dry.wav"), taps)[:4000], 1e-5)
    assert main(["inspect", "response.wav"]) == 0 and "30" in capsys.readouterr().out
    assert main(["deconvolve", "again.wav", "response.wav", "-o", "dry.npy", "--balance", "1e-6"]) == 0
    assert np.corrcoef(np.load("dry.npy")[50:-50], read_signal("dry.wav")[50:-50])[0, 1] > 0.99


NPY = ["dry.wav", "wet.npy", "--lags", "0,29"]
COLUMNS = ["log.csv", "log.csv", "--lags", "0,29", "--channel"]


@pytest.mark.parametrize("words, kept", [
    *((NPY, f"kernel.{kind}") for kind in ("npz", "npy", "csv", "json", "fits")),
    ([*COLUMNS, "drive", "--channel", "answer"], "kernel.npz"),
    ([*COLUMNS, "0", "--channel", "1"], "kernel.npz"),
    (["dry.wav", "wet.wav", "--shape", "59"], "kernel.npz"),
    (["dry.wav", "stereo.wav", "--lags", "0,29", "--channel", "0"], "kernel.npz"),
], ids=str)  # fmt: skip
def test_every_way_in_and_out(folder, words, kept, capsys):
    if kept.endswith("fits"):
        pytest.importorskip("astropy")
    assert main(["find", *words, "-o", kept, "--solver", "least-squares"]) in (0, 1)
    held = read_kernel(kept)
    taps = held.kernel.ravel()
    assert np.abs(taps[-30:] - RESPONSE).max() < 5e-3 and held.kernel.ndim == (2 if kept.endswith("csv") else 1)
    if kept.endswith(("npz", "json", "fits")):
        assert held.convention.ndim == 1 and held.convention.origin == ((0,) if len(taps) == 30 else (29,))
        assert main(["compare", kept, kept]) == 0
    capsys.readouterr()
    assert main(["inspect", kept, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == list(held.kernel.shape)


def test_bare_numbers_have_the_lags_of_the_other_file(folder, capsys):
    for name, taps in (("taps", RESPONSE), ("pair", np.stack([RESPONSE, -RESPONSE]))):
        scipy.io.wavfile.write(f"{name}.wav", 8000, taps.T.astype(np.float32))
        np.save(f"{name}.npy", taps.astype(np.float32))
    np.save("other.npy", RESPONSE[::-1])
    np.save("longer.npy", np.pad(RESPONSE, 3).astype(np.float32))  # whose middle is at lag 0
    for first, second in (("taps.wav", "taps.npy"), ("taps.npy", "taps.wav"), ("pair.wav", "pair.npy")):
        assert main(["compare", first, second]) == 0
        assert "the same kernel" in capsys.readouterr().out
    for other in ("other.npy", "longer.npy"):
        assert main(["compare", "taps.wav", other]) == 1


@pytest.mark.slow
def test_stereo_report_and_json(folder, capsys):
    words = ["find", "stereo.wav", "stereo.wav", "--lags", "-1,1", "--channels", "separate", "--boundary", "fill"]
    assert main([*words, "-o", "k.npz", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert np.shape(found["kernel"]) == (2, 3) and "read_signal('stereo.wav')" in found["python"]
    pytest.importorskip("matplotlib")
    assert main(["find", "dry.wav", "wet.wav", "--lags", "0,29", "--report", "page.html"]) == 0
    assert "Impulse response" in (folder / "page.html").read_text()


@pytest.mark.parametrize("header", ["", "volts"])
def test_a_table_of_one_column_is_a_signal(folder, header, capsys):
    for name in ("dry", "wet"):
        np.savetxt(f"{name}.csv", read_signal(f"{name}.wav"), header=header, comments="")
    for words in ([], ["--shape", "59"]):
        assert main(["find", "dry.csv", "wet.csv", *words, "-o", "k.npz", "--force"]) in (0, 1)
        said = capsys.readouterr().out
        assert read_kernel("k.npz").convention.ndim == 1 and "4000 samples" in said and "pixel" not in said
    np.savetxt("column.csv", read_signal("dry.wav"))
    assert main(["find", "column.csv", "column.csv", "--shape", "3,1", "-o", "k.npz", "--force"]) in (0, 1)
    assert read_kernel("k.npz").convention.ndim == 2


def test_one_channel_to_two_and_back(folder, capsys):
    dry, stereo = (scipy.io.wavfile.read(f"{name}.wav")[1] for name in ("dry", "stereo"))
    for names, x, y in ((("dry", "stereo"), dry[:, None], stereo), (("stereo", "dry"), stereo, dry[:, None])):
        words = [f"{name}.wav" for name in names]
        words += ["--lags", "0,3", "--channels", "mixed", "--solver", "least-squares", "--json"]
        assert main(["find", *words]) in (0, 1)
        found, known = json.loads(capsys.readouterr().out), {}
        expected = kernelfit.find_kernel(x, y, lags=(0, 3), channels="mixed", channel_axis=-1)
        np.testing.assert_array_equal(found["kernel"], expected.kernel)
        exec(found["python"], known)
        np.testing.assert_array_equal(known["fit"].kernel, expected.kernel)
        capsys.readouterr()  # the summary that it prints


@pytest.mark.parametrize("words, match", [
    ("find dry.wav wet.wav --lags 5", "FIRST,LAST"),
    ("find dry.wav wet.wav --lags 9,2", "FIRST,LAST"),
    ("find dry.wav stereo.wav --lags 0,9", "need a channel (--channel 0) or all (--channels mixed)"),
    ("find stereo.wav stereo.wav --lags 0,9", "or all (--channels shared)"),
    ("find dry.wav wet.wav --lags 0,9 --channels mixed", "got one channel of a signal with --channels"),
    ("find dry.wav wet.wav --lags 0,9 --shape 3", "lags"),
    ("find dry.wav slow.wav --lags 0,9", "samples a second, need the same"),
    ("find log.csv log.csv --lags 0,9 --channel nothing", "need one of drive, answer, 0 to 1"),
    ("find dry.wav wet.wav --lags 0,9 -o k.tif", "signal's kernel"),
    ("find wet.npy wet.npy --lags 0,9 -o k.wav", "unknown rate"),
    ("find cut.wav wet.wav --lags 0,9", "cut.wav"),
    ("apply stereo.wav response.npy -o a.wav", "got 2 channels"),
    ("apply wet.npy response.npy --boundary wrap --fillvalue 2 -o a.npy", "need --boundary fill"),
])  # fmt: skip
def test_mistakes_are_told(folder, words, match, capsys):
    scipy.io.wavfile.write("slow.wav", 4000, np.zeros(4000, np.float32))
    (folder / "cut.wav").write_bytes((folder / "dry.wav").read_bytes()[:30])
    np.save("response.npy", RESPONSE)
    assert main(words.split()) == 2
    assert match in capsys.readouterr().err


def test_what_lies_beyond_a_signal_is_what_the_kernel_was_found_with(folder):
    words = "--shape 4 --mode same --boundary fill --fillvalue -3 --solver least-squares -o kernel.npz"
    assert main(["find", "dry.wav", "wet.npy", *words.split()]) in (0, 1)
    assert main(["apply", "wet.npy", "kernel.npz", "-o", "again.npy"]) == 0
    held = read_kernel("kernel.npz")
    kinds = {"mode": "same", "boundary": "fill", "origin": held.convention.origin}
    expected = kernelfit.apply_kernel(np.load("wet.npy"), held.kernel, fillvalue=-3, **kinds)
    assert_close(np.load("again.npy"), expected, 1e-14)
    assert main(["apply", "wet.npy", "kernel.npz", "--fillvalue", "0", "-o", "zeros.npy"]) == 0
    assert np.abs(np.load("zeros.npy") - expected).max() > 1e-3 * np.abs(expected).max()


def test_signals_of_files(folder):
    scipy.io.wavfile.write("bytes.wav", 8000, np.array([0, 128, 255], np.uint8))
    np.testing.assert_array_equal(read_signal("bytes.wav"), [-128, 0, 127])
    assert read_signal("log.csv").shape == (4000, 2) and read_signal("log.csv", channel="answer").shape == (4000,)
    assert read_signal("stereo.wav", channel=1).shape == (4000,)
    np.save("volume.npy", np.zeros((3, 4, 5)))
    with pytest.raises(ImageFileError, match="samples and channels"):
        read_signal("volume.npy")
