"""What is compiled ahead is all that later calls need, and is used from where nobody may write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kernelfit

USES = """
import os, tempfile
def refused(*_, **__):
    raise PermissionError("a read-only place")
if {read_only}:
    tempfile.TemporaryFile = os.makedirs = refused
import numpy as np, kernelfit
from numba.core import event
count = event.RecordingListener()
event.register("numba:compile", count)
rng = np.random.default_rng(5)
image = rng.integers(0, 256, (90, 101)).astype(np.uint8)
kernel = np.outer(np.hanning(7), np.hanning(6))
target = kernelfit.apply_kernel(image, kernel, boundary="symm") + rng.normal(0, 1, image.shape)
find = kernelfit.find_kernel
find(image, target, (7, 6)), find(image, target), find(image, target, (25, 23), boundary="symm")
find(image, target, (9, 8), solver="auto"), find(image, target, (7, 6), errors="sandwich", background=1)
find(image, target, (7, 6), noise=(1.0, 2.0), mask=image > 250), find(image, target, (7, 6), robust="tukey")
find(image, target[::2], (4, 6), stride=(2, 1)), find(image[0], image[1], 9), find(image, target, (9, 8), variation=2)
rgb = np.stack([image] * 3, axis=-1)
find(rgb, rgb, (3, 4), channel_axis=-1), find(rgb[..., :2], rgb[..., :2] * 1.0, 2, channel_axis=-1, channels="mixed")
find(image, target, (12, 13), method="cg"), find(image, target, (12, 13), method="wiener", boundary="wrap")
find(image, target, (7, 6), register="shift"), find(image, target, (7, 6), register="affine", curve="gamma")
kernelfit.deconvolve(target, kernel / kernel.sum()), kernelfit.kernel_map(image, target, (4, 5), tiles=(2, 3))
print(sorted({{e[1].data["dispatcher"].py_func.__name__ for e in count.buffer if e[1].is_start}}))
"""


@pytest.mark.slow
def test_nothing_is_compiled_after_it(tmp_path):
    source = Path(kernelfit.__file__).parent
    shutil.copytree(source, tmp_path / "kernelfit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "home").mkdir()
    names = ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "PYTHONDONTWRITEBYTECODE")
    plain = {key: value for key, value in os.environ.items() if key not in names}
    plain |= {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "home")}

    def run(code, **more):
        words = [sys.executable, "-W", "error", "-c", code]
        return subprocess.run(words, env={**plain, **more}, capture_output=True, text=True, timeout=300, cwd=tmp_path)

    first = run("import kernelfit; kernelfit.warm_up()")
    assert first.returncode == 0, first.stderr
    assert list((tmp_path / "kernelfit" / "compiled" / "__pycache__").glob("*.nbi"))
    for read_only, more in ((False, {}), (True, {}), (False, {"NUMBA_CACHE_DIR": str(tmp_path / "other")})):
        later = run(USES.format(read_only=read_only), **more)
        assert later.returncode == 0, later.stderr
        assert later.stdout.strip() == "[]", (read_only, more)


def test_what_is_no_use_is_refused():
    with pytest.raises(ValueError, match="need some of 'find'"):
        kernelfit.warm_up(["find", "everything"])
    with pytest.raises(TypeError, match="need some of 'find'"):
        kernelfit.warm_up(3)


@pytest.mark.slow
def test_uses_are_told_in_their_order():
    told = []
    assert kernelfit.warm_up(["maps", "restore"], progress=told.append) > 0
    assert told == ["maps", "restore"]
