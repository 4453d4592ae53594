"""What a person waits for: whole commands, their processor seconds over those of importing what they need.

`python -m benchmarks.suites_long.bench_command [kind ...] [memory]` prints them as a table, and the
memory that a process takes.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import SMALL, by_profile, make_scene, without_machine_code
from kernelfit.imageio.write import write_image

YARDSTICK = ["-c", "import numpy, scipy.signal, numba"]
KINDS = {  # what `kernelfit find` is asked for; "first" finds no compiled code on disk
    "first": ["--shape", "9"],
    "warm": ["--shape", "9"],
    "wide": ["--shape", by_profile("31", "9,7", "31")],
    "report": ["--shape", "9", "--report", "report.html", "--force"],
    "colour": ["--shape", "9", "--channels", "shared", "--report", "report.html", "--force"],  # of three colours
    "busy": ["--shape", by_profile("31", "9,7", "31")],  # beside a busy process on every core, over the same alone
}
BUSY = ["-c", "while True: pass"]
PAIR = "image = numpy.random.default_rng(0).random((512, 512)); "
MEMORY = {  # what a process does before it tells its peak
    "import numpy": "import numpy",
    "import numpy, scipy.signal, numba": "import numpy, scipy.signal, numba",
    "import kernelfit": "import kernelfit",
    "find_kernel, 9x9 at 512x512": f"import numpy, kernelfit; {PAIR}kernelfit.find_kernel(image, image, 9).stderr",
    "the same, auto": f"import numpy, kernelfit; {PAIR}kernelfit.find_kernel(image, image[::-1], 9, solver='auto')",
}


def processor_seconds(arguments, folder, cache):
    """Return the processor seconds of a Python process that works in this folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "NUMBA_CACHE_DIR": cache}
    before = os.times()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    after = os.times()
    if done.returncode not in (0, 1):  # 1: there is a doubt about the kernel
        raise RuntimeError(f"{arguments} ended with {done.returncode}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def peak_memory(code):
    """Return the peak memory of a process in MiB, by the kernel's own account (Linux)."""
    tell = "; print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code + tell], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return int(done.stdout) / 1024


class Command:
    """`kernelfit find before.npy after.npy`: an image of 8 bits and what a filter made of it."""

    params = list(KINDS)
    param_names = ["kind"]
    timeout = 600

    def setup(self, kind):
        if kind in ("report", "colour") and importlib.util.find_spec("matplotlib") is None:
            raise NotImplementedError("a report needs matplotlib")
        self.made = tempfile.TemporaryDirectory()
        self.folder = Path(self.made.name)
        if kind == "first":
            without_machine_code(self.folder)
        scene = make_scene("9x7", by_profile(512, 96, 512), noise=0.0)
        for name, values in (("before", scene.image), ("after", scene.target)):
            plane = np.clip(np.rint(values), 0, 255).astype(np.uint8)
            if kind == "colour":
                write_image(self.folder / f"{name}.png", np.stack([plane, plane // 2 + 30, 255 - plane], axis=-1), 255)
            else:
                np.save(self.folder / f"{name}.npy", plane)

    def teardown(self, kind):
        self.made.cleanup()

    def track_ratio_to_imports(self, kind):
        """Return the median over rounds, both sides in turn, each after one run that is not counted."""
        pair = [f"{name}.{'png' if kind == 'colour' else 'npy'}" for name in ("before", "after")]
        command = ["-m", "kernelfit", "find", *pair, *KINDS[kind]]
        ratios = []
        for i in range(2 if SMALL else 4):
            cache = str(self.folder / (f"cache{i}" if kind == "first" else "cache"))
            others = [
                subprocess.Popen([sys.executable, *BUSY]) for _ in range((os.cpu_count() or 1) * (kind == "busy"))
            ]
            try:
                ours = processor_seconds(command, self.folder, cache)
            finally:
                for one in others:
                    one.kill()
                    one.wait()
            ratios.append(ours / processor_seconds(command if kind == "busy" else YARDSTICK, self.folder, cache))
        return statistics.median(ratios[1:])

    track_ratio_to_imports.unit = "times the imports"


if __name__ == "__main__":
    if "memory" in sys.argv[1:] or not sys.argv[1:]:
        print("| peak memory of a process | MiB |\n|---|---|")
        for name, code in MEMORY.items():
            peak_memory(code)  # compiled
            print(f"| {name} | {peak_memory(code):.0f} |", flush=True)
    print("\n| `kernelfit find` | times the imports |\n|---|---|")
    for kind in [kind for kind in sys.argv[1:] or KINDS if kind != "memory"]:
        command = Command()
        command.setup(kind)
        print(f"| {kind} | {command.track_ratio_to_imports(kind):.2f} |", flush=True)
        command.teardown(kind)
