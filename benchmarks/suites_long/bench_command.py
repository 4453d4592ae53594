"""What a person waits for: whole commands, their processor seconds over those of importing what they need.

`python -m benchmarks.suites_long.bench_command [kind ...]` prints them as a table.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import SMALL, by_profile, make_scene

YARDSTICK = ["-c", "import numpy, scipy.signal, numba"]
KINDS = {  # what `kernelfit find` is asked for; "first" finds no compiled code on disk
    "first": ["--shape", "9"],
    "warm": ["--shape", "9"],
    "wide": ["--shape", by_profile("31", "9,7", "31")],
    "report": ["--shape", "9", "--report", "report.html", "--force"],
}


def processor_seconds(arguments, folder, cache):
    """Return the processor seconds of a Python process that works in this folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": cache}
    before = os.times()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    after = os.times()
    if done.returncode not in (0, 1):  # 1: there is a doubt about the kernel
        raise RuntimeError(f"{arguments} ended with {done.returncode}")
    return after.children_user + after.children_system - before.children_user - before.children_system


class Command:
    """`kernelfit find before.npy after.npy`: an image of 8 bits and what a filter made of it."""

    params = list(KINDS)
    param_names = ["kind"]
    timeout = 600

    def setup(self, kind):
        if kind == "report" and importlib.util.find_spec("matplotlib") is None:
            raise NotImplementedError("a report needs matplotlib")
        self.made = tempfile.TemporaryDirectory()
        self.folder = Path(self.made.name)
        scene = make_scene("9x7", by_profile(512, 96, 512), noise=0.0)
        for name, values in (("before", scene.image), ("after", scene.target)):
            np.save(self.folder / f"{name}.npy", np.clip(np.rint(values), 0, 255).astype(np.uint8))

    def teardown(self, kind):
        self.made.cleanup()

    def track_ratio_to_imports(self, kind):
        """Return the median over rounds, both sides in turn, each after one run that is not counted."""
        command = ["-m", "kernelfit", "find", "before.npy", "after.npy", *KINDS[kind]]
        ratios = []
        for i in range(2 if SMALL else 4):
            cache = str(self.folder / (f"cache{i}" if kind == "first" else "cache"))
            ours = processor_seconds(command, self.folder, cache)
            ratios.append(ours / processor_seconds(YARDSTICK, self.folder, cache))
        return statistics.median(ratios[1:])

    track_ratio_to_imports.unit = "times the imports"


if __name__ == "__main__":
    print("| `kernelfit find` | times the imports |\n|---|---|")
    for kind in sys.argv[1:] or KINDS:
        command = Command()
        command.setup(kind)
        print(f"| {kind} | {command.track_ratio_to_imports(kind):.2f} |", flush=True)
        command.teardown(kind)
