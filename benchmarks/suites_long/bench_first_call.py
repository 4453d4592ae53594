"""What comes before the first kernel: the first call, with and without compiled code on disk.

Every sample is a process of its own.
"""

import os
import subprocess
import sys
import tempfile

from benchmarks.common import by_profile

ENGINES = by_profile(["direct", "fft"], ["fft"], ["direct", "fft"])

# The pair is small: what is timed is getting ready, not the work.
FIRST_CALL = """
kernelfit.find_kernel(image, 0.5 * image, (3, 2), method={method!r}).stderr
"""
READY = """
import importlib.util, os, shutil, sys, tempfile
folder = {folder!r} or tempfile.mkdtemp()
os.environ["NUMBA_CACHE_DIR"] = folder
if not {folder!r}:
    import atexit
    atexit.register(shutil.rmtree, folder, True)
    # machine code may lie beside the sources
    home = importlib.util.find_spec("kernelfit").submodule_search_locations[0]
    shutil.copytree(home, os.path.join(folder, "kernelfit"), ignore=shutil.ignore_patterns("*.nbi", "*.nbc"))
    sys.path.insert(0, folder)
import numpy
import kernelfit
image = numpy.random.default_rng(0).random((64, 48))
"""


def run(code):
    """Run code in a fresh interpreter."""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


class FirstCallCold:
    """The first call ever: everything is compiled."""

    params = ENGINES
    param_names = ["engine"]
    number, repeat, rounds, timeout = 1, 2, 1, 300

    def timeraw_first_call(self, engine):
        return FIRST_CALL.format(method=engine), READY.format(folder="")


class FirstCallWarm:
    """The first call of a process that finds the compiled code on disk."""

    params = ENGINES
    param_names = ["engine"]
    number, repeat, rounds, timeout = 1, 5, 1, 300

    def setup(self, engine):
        self.folder = tempfile.TemporaryDirectory()
        run(READY.format(folder=self.folder.name) + FIRST_CALL.format(method=engine))

    def teardown(self, engine):
        self.folder.cleanup()

    def timeraw_first_call(self, engine):
        return FIRST_CALL.format(method=engine), READY.format(folder=self.folder.name)
