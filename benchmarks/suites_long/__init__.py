"""The asv suites that take long: whole processes, and what has to compile.

They stand alone, since asv imports every module beside them.

The scripts of the folder above need extras, or a version of kernelfit that older commits are not.
"""

import sys
from pathlib import Path

# asv imports this folder as a package of its own; the scenes are one level up, in `benchmarks.common`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
