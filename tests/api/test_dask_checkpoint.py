"""Sums of Dask arrays that are told of, and kept in a file from which a killed run goes on."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

import kernelfit
from helpers import assert_close, assert_same_bits, grid
from kernelfit import Verdict
from kernelfit.api import dask as scale
from kernelfit.data.blocks import Tree, runs
from kernelfit.fitting import dask_portions
from kernelfit.fitting.checkpoint import Checkpoint, KernelSums

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


def pair(n=1):
    rng = np.random.default_rng(5)
    images = rng.random((n, 91, 67))
    kernel = rng.normal(size=(3, 4))
    targets = np.stack([scipy.signal.convolve2d(image, kernel, "valid") for image in images])
    return images, targets + 0.01 * rng.normal(size=targets.shape), kernel


class Failing:
    """Pixels that cannot be read after so many reads; it counts those that can."""

    ndim = 2

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.left, self.pixels = array, array.shape, array.dtype, 10**9, 0

    def __getitem__(self, key):
        self.left -= 1
        if self.left < 0:
            raise OSError("the network is down")
        part = self.array[key]
        self.pixels += part.size
        return part


def lazily(*arrays, chunk=20):
    sources = [Failing(a) for a in arrays]
    return [da.from_array(s, chunks=chunk, asarray=False, inline_array=True) + 0 for s in sources], sources


@pytest.mark.parametrize("first", [0, 3, 4, 16, 21])
@pytest.mark.parametrize("n", [1, 4, 23, 70])
def test_sums_of_runs_have_the_bits_of_the_parts(first, n):
    parts = list(np.random.default_rng(n).normal(size=first + n))
    whole, by_runs = Tree(lambda a, b: a + b), Tree(lambda a, b: a + b)
    for part in parts:
        whole.push(part)
    for part in parts[:first]:
        by_runs.push(part)
    ends = [first]
    for a, b, level in runs(first, first + n):
        tree = Tree(lambda a, b: a + b)
        for part in parts[a:b]:
            tree.push(part)
        by_runs.push(tree.total(), level)
        ends.append(b)
        assert a == ends[-2] and b - a == 4**level and a % (b - a) == 0
    assert ends[-1] == first + n and by_runs.total() == whole.total()
    assert [count for _, count in by_runs.levels] == [count for _, count in whole.levels]


@pytest.mark.parametrize("n_pairs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_interrupted_sum_goes_on_with_the_same_bits(tmp_path, monkeypatch, n_pairs):
    monkeypatch.setattr(dask_portions, "_LEAST", 2)
    monkeypatch.setattr(dask_portions, "SECONDS", 0.0)
    images, targets, kernel = pair(n_pairs)
    call = {"block": (14, 11), "background": 1}
    expected = kernelfit.accumulate_stream(list(zip(images, targets, strict=True)), (3, 4), **call)
    lazy, sources = lazily(*images, *targets)
    lazy = [lazy[:n_pairs], lazy[n_pairs:]]
    file, told = tmp_path / "sums.npz", []
    call |= {"checkpoint": file, "every": 0.0, "progress": lambda *step: told.append(step)}
    with dask.config.set(scheduler="synchronous"):
        assert_same_bits(scale.accumulate(*lazy, (3, 4), **{**call, "checkpoint": None}), expected)
        steps, total = len(told), told[-1][2]
        assert steps > 3 and told[-1] == ("reading pixels", total, total)
        assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
        for source in sources:
            source.pixels, source.left = 0, 15 if source is sources[-1] else 10**9
        with pytest.raises(OSError, match="the network is down") as caught:
            scale.accumulate(*lazy, (3, 4), **call)
        first, last = caught.value.__notes__
        assert "block of target pixels that starts at (" in first and f"is in {file}; the same call goes on" in last
        assert file.exists() and 0 < len(told) - steps < steps
        read = sources[1].pixels
        for source in sources:
            source.left = 10**9
        n_told = len(told)
        assert_same_bits(scale.accumulate(*lazy, (3, 4), **call), expected)
        assert told[-1] == ("reading pixels", total, total) and len(told) - n_told < steps
        assert n_pairs == 1 or sources[1].pixels == read  # what is in the file is not read again
        for source in sources:
            source.pixels = 0
        stats = scale.accumulate(*lazy, (3, 4), **call)  # and now nothing but a few pixels is
        assert sum(s.pixels for s in sources) <= (2 if n_pairs > 1 else 1) * 2 * 3 * 4 * 400
    assert_same_bits(stats, expected)
    assert_close(stats.solve().kernel, kernel, 0.01)


@pytest.mark.parametrize("how", ["Dask", "stream"])
def test_what_is_half_added_is_not_written(tmp_path, monkeypatch, how):
    """Ctrl-C between two sums of a block: the next run counts it once."""
    monkeypatch.setattr(dask_portions, "_LEAST", 1)
    (image,), (target,), _ = pair()
    file, add, calls = tmp_path / "sums.npz", KernelSums.add, []
    both = np.stack([image, image[::-1]]), np.stack([target, target[::-1]])

    def run():
        call = {"channel_axis": 0, "channels": "mixed", "block": (20, 13), "checkpoint": file, "every": 1e9}
        if how == "Dask":
            return scale.accumulate(*both, (3, 4), **call)
        return kernelfit.accumulate_stream([both], (3, 4), workers=1, **call)

    def interrupted(sums, equations, **words):
        add(sums, equations, **words)
        calls.append(words)
        if len(calls) == 3:  # the first of two kernels
            raise KeyboardInterrupt

    expected = run()
    file.unlink()
    with monkeypatch.context() as patched, dask.config.set(scheduler="synchronous"):
        patched.setattr(KernelSums, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    for one, other in zip(run().parts, expected.parts, strict=True):
        assert_same_bits(one, other)


def test_another_call_or_other_pixels_leave_a_checkpoint_as_it_is(tmp_path):
    (image,), (target,), _ = pair()
    (lazy, other), _ = lazily(image, target)
    file = tmp_path / "sums.npz"
    scale.accumulate(lazy, other, (3, 4), checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"written for another stream: shapes, types or pixels of the arrays differ"):
        scale.accumulate(lazy + 1, other, (3, 4), checkpoint=file)
    with pytest.raises(ValueError, match=r"which was written with background=None, and a call with background=0"):
        scale.accumulate(lazy, other, (3, 4), checkpoint=file, background=0)
    with pytest.raises(ValueError, match=r"which was written with arrays='Dask', and a call with arrays=None"):
        kernelfit.accumulate_stream([(image, target)], (3, 4), checkpoint=file)
    for name, value in (("checkpoint", file), ("progress", print)):
        with pytest.raises(ValueError, match=f"got {name}= with compute=False, which computes nothing"):
            scale.accumulate(lazy, other, (3, 4), compute=False, **{name: value})
    with pytest.raises(ValueError, match="got every=-1, need a number of seconds"):
        scale.accumulate(lazy, other, (3, 4), checkpoint=file, every=-1)
    assert file.read_bytes() == before
    mask = np.zeros(target.shape, bool)
    scale.accumulate(lazy, other, (3, 4), checkpoint=tmp_path / "masked.npz", mask=mask)
    mask[3, 5] = True
    for name, value in (("mask", mask), ("mask", None), ("weights", 1.0 + mask), ("mask", da.from_array(~mask))):
        with pytest.raises(ValueError, match=r"written for another stream") as caught:
            scale.accumulate(lazy, other, (3, 4), checkpoint=tmp_path / "masked.npz", **{name: value})
        assert not hasattr(caught.value, "__notes__")
    spoiled = da.where(da.arange(image.shape[1]) == 50, np.nan, lazy)
    with pytest.raises(ValueError, match="NaN or infinite"):
        scale.accumulate(spoiled, other, (3, 4), checkpoint=tmp_path / "new.npz")
    assert not (tmp_path / "new.npz").exists()  # nothing was in it


def test_a_fit_tells_of_its_passes():
    (image,), _, kernel = pair()
    target, told = scipy.signal.convolve2d(image, kernel, "valid"), []
    fit = scale.find_kernel(*lazily(image, target)[0], (3, 4), block=20, progress=lambda *step: told.append(step))
    assert fit.verdict is Verdict.SOLVED and fit.refined >= 1
    assert_close(fit.kernel, kernel, 1e-12)
    assert [step[1] == step[2] for step in told].count(True) == 1 + fit.refined  # of the sums, and of each refinement


def of_black_and_white(image):
    """A pair of which nearly every pixel is at the ends of its type."""
    return np.where(image > 0.5, 255, 0).astype("u1"), np.where(image[1:, :-1] > 0.5, 255, 0).astype("u1")


SCENES = {
    "noise-free": {"boundary": "symm"},
    "noise-free pairs with backgrounds": {"background": 1},
    "black and white": {},
    "channels of their own": {"channel_axis": 0, "channels": "separate", "background": 0},
}


@grid("scene", list(SCENES), 4)
def test_an_interrupted_fit_goes_on_with_the_same_bits(tmp_path, monkeypatch, scene):
    """Whatever pass it is in: the sums, the look at saturated pixels, and what corrects rounding."""
    monkeypatch.setattr(dask_portions, "_LEAST", 2)
    monkeypatch.setattr(dask_portions, "SECONDS", 0.0)
    images, _, kernel = pair(2)
    if scene == "noise-free":
        images = images[:1]
    images = images + 10.0  # so that rounding matters
    targets = np.stack(
        [scipy.signal.convolve2d(np.pad(i, ((1, 1), (2, 1)), "symmetric"), kernel, "valid") for i in images]
    )
    if scene == "black and white":
        images, targets = (np.stack(both) for both in zip(*map(of_black_and_white, images - 10.0), strict=True))
    lazy, _ = lazily(*images, *targets, chunk=30)
    lazy = [da.stack(half) if "channels" in scene else half for half in (lazy[: len(images)], lazy[len(images) :])]
    call = {"shape": (2, 2) if scene == "black and white" else (3, 4), "block": 15, **SCENES[scene]}
    kept = {**call, "checkpoint": tmp_path / "fit.npz", "every": 0.0}
    with dask.config.set(scheduler="synchronous"):
        expected = scale.find_kernel(*lazy, **call)
        assert expected.refined >= (scene != "black and white") and expected.verdict.ok
        assert sum("they are used" in note for note in expected.notes) == 2 * (scene == "black and white")
        goes_on, steps, fit = Checkpoint.goes_on, [], None

        def killed(state, *at):
            goes_on(state, *at)
            steps.append((state.asked, *at))
            if len(steps) % 3 == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "goes_on", killed)
        while fit is None:
            with contextlib.suppress(KeyboardInterrupt):
                fit = scale.find_kernel(*lazy, **kept)
        assert len(steps) > 8 and len(set(steps)) == len(steps)
        again = scale.find_kernel(*lazy, **kept)
        assert len(set(steps)) == len(steps)  # nothing twice
    for one in (fit, again):
        assert one.kernel.tobytes() == expected.kernel.tobytes() and one.refined == expected.refined
        assert np.asarray(one.stderr).tobytes() == np.asarray(expected.stderr).tobytes()
        assert one.findings == expected.findings and one.notes == expected.notes


def test_a_fit_refuses_the_file_of_another(tmp_path):
    (image,), (target,), _ = pair()
    (lazy, other), _ = lazily(image, target)
    file = tmp_path / "fit.npz"
    fit = scale.find_kernel(lazy, other, (3, 4), checkpoint=file)
    assert fit.verdict is Verdict.SOLVED
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"written for another stream: shapes, types or pixels of the arrays differ"):
        scale.find_kernel(lazy + 1, other, (3, 4), checkpoint=file)
    with pytest.raises(ValueError, match=r"written with arrays='find_kernel on Dask', and a call with arrays='Dask'"):
        scale.accumulate(lazy, other, (3, 4), checkpoint=file)
    for name, value in (("robust", "huber"), ("noise", "poisson"), ("method", "wiener")):
        with pytest.raises(ValueError, match=r"got .*checkpoint= of a fit.*; (need accumulate_stream|leave it out)"):
            scale.find_kernel(lazy, other, (3, 4), checkpoint=file, **{name: value})
    with pytest.raises(ValueError, match="got every=-1, need a number of seconds"):
        scale.find_kernel(lazy, other, (3, 4), checkpoint=file, every=-1)
    assert file.read_bytes() == before
    with pytest.raises(OSError, match=r"nowhere"):
        scale.find_kernel(lazy, other, (3, 4), checkpoint=tmp_path / "nowhere" / "fit.npz")


def test_a_pass_for_something_else_begins_anew(tmp_path):
    file, one = tmp_path / "sums.npz", np.array([1.5, 2.0])
    state = Checkpoint(file, {}, 0)
    for asked, at in (("a", (1, 0)), ("b", (0, 2))):
        state.begin_pass(asked)
        assert (state.pairs, state.blocks, dict(state.sums)) == (0, 0, {})
        state.sums.at(0, 0).add(one, last=asked == "a")
        state.goes_on(*at)
    (left := tmp_path / ".sums.npz.0123abcd.tmp").write_bytes(b"half")  # of a process that was killed as it wrote
    for second, known in (("b", 2), ("c", 0), ("b", 2)):
        state = Checkpoint(file, {}, 0)
        state.begin_pass("a")
        assert (state.pairs, state.blocks) == (1, 0)
        assert state.sums.at(0, 0).whole.total().tobytes() == one.tobytes()
        state.begin_pass(second)
        assert not left.exists()
        assert state.blocks == known and len(state.sums) == (known > 0)
    state.begin_pass("c")
    state.goes_on(0, 1)
    state = Checkpoint(file, {}, 0)
    for asked, blocks in (("a", 0), ("b", 2), ("c", 1), ("d", 0)):
        state.begin_pass(asked)
        assert state.blocks == blocks


SCRIPT = """
import sys, time
import numpy as np, dask, dask.array as da, kernelfit.scale
from kernelfit.fitting import dask_portions
from kernelfit.fitting.checkpoint import KernelSums
dask_portions._LEAST = 1
rng = np.random.default_rng(5)
image = rng.random((131, 97))
target = 0.5 * image[1:-1, 1:-2]
def slowly(pixels):
    time.sleep(float(sys.argv[2]))
    return pixels
lazy = [da.from_array(a, chunks=20).map_blocks(slowly, dtype=float) for a in (image, target)]
stats = kernelfit.scale.accumulate(*lazy, (3, 4), block=20, checkpoint=sys.argv[1], every=0.0)
np.savez(sys.argv[3], gram=stats.gram, moment=stats.moment)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_goes_on_from(tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT)
    file, killed = tmp_path / "sums.npz", 0
    call = [sys.executable, str(tmp_path / "run.py"), str(file)]
    for wait in (0.3, 0.6, 0.1):
        process = subprocess.Popen([*call, "0.05", str(tmp_path / "never.npz")])
        deadline = time.monotonic() + 120
        while not file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(wait)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed
    subprocess.run([*call, "0", str(tmp_path / "sum.npz")], check=True, timeout=300)
    subprocess.run([*call[:2], str(tmp_path / "other.npz"), "0", str(tmp_path / "whole.npz")], check=True, timeout=300)
    with np.load(tmp_path / "sum.npz") as resumed, np.load(tmp_path / "whole.npz") as whole:
        assert all(resumed[name].tobytes() == whole[name].tobytes() for name in ("gram", "moment"))
    assert {p.name for p in Path(tmp_path).iterdir()} >= {"sums.npz", "other.npz"}
