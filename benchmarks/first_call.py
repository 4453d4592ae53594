#!/usr/bin/env python3
"""List what the first call compiles, function by function: `python -m benchmarks.first_call [--shape 9x9]`.

A process of its own, with an empty cache, finds one kernel; Numba's events say how long each function took. Functions
that are compiled on behalf of another count to it as well, so the seconds do not add up; "own" does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from .common import without_machine_code

WORK = """
import json, sys, time
import numpy, numba
from numba.core import event
import kernelfit

class Compilation(event.Listener):
    def __init__(self):
        self.stack, self.rows = [], {}

    def on_start(self, one):
        self.stack.append([time.process_time(), 0.0])

    def on_end(self, one):
        start, inner = self.stack.pop()
        seconds = time.process_time() - start
        if self.stack:
            self.stack[-1][1] += seconds
        function = one.data["dispatcher"].py_func
        name = f"{function.__module__}.{function.__name__}"
        count, whole, own = self.rows.get(name, (0, 0.0, 0.0))
        self.rows[name] = count + 1, whole + seconds, own + seconds - inner

rows, columns, side, solver = json.loads(sys.argv[1])
image = numpy.random.default_rng(0).normal(size=(side, side * 3 // 4)).cumsum(axis=0).cumsum(axis=1)
kernel = numpy.random.default_rng(1).random((rows, columns))
target = kernelfit.apply_kernel(image, kernel)
listener = Compilation()
event.register("numba:compile", listener)
start = time.process_time()
kernelfit.find_kernel(image, target, (rows, columns), solver=solver, workers=1)
print(json.dumps([time.process_time() - start, listener.rows]))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="9x9", help="rows x columns of the kernel")
    parser.add_argument("--side", type=int, default=512, help="rows of the image")
    parser.add_argument("--solver", choices=["auto", "none"], default="auto", help="none: least squares")
    given = parser.parse_args()
    rows, columns = map(int, given.shape.split("x"))
    with tempfile.TemporaryDirectory() as cache:
        without_machine_code(cache)
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join([cache, *sys.path])}
        request = json.dumps([rows, columns, given.side, {"none": None}.get(given.solver, given.solver)])
        done = subprocess.run(
            [sys.executable, "-c", WORK, request], check=True, env=environment, stdout=subprocess.PIPE, text=True
        )
    whole, found = json.loads(done.stdout)
    print(
        f"{whole:.1f} s of processor time; {len(found)} functions compiled in {sum(r[2] for r in found.values()):.1f} s"
    )
    print("\n| function | times | seconds | own |\n|---|---|---|---|")
    for name, (count, seconds, own) in sorted(found.items(), key=lambda row: -row[1][2]):
        print(f"| {name} | {count} | {seconds:.2f} | {own:.2f} |")


if __name__ == "__main__":
    main()
