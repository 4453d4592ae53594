"""What comes before anything else: the import. Every sample is a process of its own."""

import os
import subprocess
import sys

from benchmarks.common import ratio_of_times


def run(code):
    """Run code in a fresh interpreter."""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


class Import:
    """`import kernelfit`, which loads neither Numba nor pyFFTW."""

    number, timeout = 1, 300

    def timeraw_import(self):
        return "import kernelfit"

    def track_ratio_to_import_numpy(self):
        """Start Python and import kernelfit, over starting it and importing numpy."""
        return ratio_of_times(lambda: run("import kernelfit"), lambda: run("import numpy"), repeats=5)

    track_ratio_to_import_numpy.unit = "times import numpy"
