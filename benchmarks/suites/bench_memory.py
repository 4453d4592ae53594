"""Peak memory of finding a kernel in a pair of 8-bit images.

asv's `peakmem_` counts the whole process: set-up, libraries and compiled code. So there is an empty reference to
subtract, and one number, taken in a process of its own, of what a call adds.
"""

import os
import subprocess
import sys

import numpy as np

from benchmarks.common import by_profile, make_scene, relative_error
from kernelfit import choose_method, find_kernel

KERNELS = by_profile(["15x15"], ["3x5"], ["5x5", "15x15", "31x27"])  # rows x columns
SIZES = by_profile([8192], [1024], [8192])  # rows and columns of the image
TILE = 1024

ADDED = """
import numpy as np
from kernelfit import find_kernel
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
image, target = np.load({image!r}), np.load({target!r})
find_kernel(image[:96, :80], target[:96, :80], (3, 2), method={method!r}, workers=2).stderr
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = peak()
find_kernel(image, target, {shape!r}, workers=2).stderr
print(peak() - before)
"""


def name_of(what, kernel, size):
    """Return the file of an image, in the folder that asv makes for this suite."""
    return f"{what}_{kernel}_{size}.npy"


def write_pair(kernel, size):
    """Write a pair of uint8 images: one scene beside itself, again and again."""
    scene = make_scene(kernel, TILE, noise=0.01)
    for what in ("image", "target"):
        tile = np.clip(np.rint(getattr(scene, what)), 0, 255).astype(np.uint8)[:, : 3 * TILE // 4]
        repeats = (size // tile.shape[0], -(-size // tile.shape[1]))
        np.save(name_of(what, kernel, size), np.tile(tile, repeats)[:, :size])


class FindMemory:
    """The process that holds the pair, without and with finding the kernel.

    The difference of the two is what `find_kernel` needs. The pairs are made by another process, which also leaves the
    compiled code on disk, so that neither lifts the peak; each process warms up on a corner and a tiny kernel.
    """

    params = (KERNELS, SIZES)
    param_names = ("kernel", "size")
    timeout = 600

    def setup_cache(self):
        for kernel in KERNELS:
            for size in SIZES:
                write_pair(kernel, size)
                self.setup(kernel, size)

    setup_cache.timeout = 600

    def setup(self, kernel, size):
        self.shape = tuple(map(int, kernel.split("x")))
        self.image, self.target = (np.load(name_of(what, kernel, size)) for what in ("image", "target"))
        self.method = choose_method(self.image.shape, self.shape).method
        find_kernel(self.image[:96, :80], self.target[:96, :80], (3, 2), method=self.method)

    def peakmem_reference(self, kernel, size):
        """Hold the pair, do nothing."""

    def peakmem_find(self, kernel, size):
        find_kernel(self.image, self.target, self.shape)

    def track_memory_added(self, kernel, size):
        """Two threads, in a fresh process, by the kernel's own account (Linux)."""
        if not os.access("/proc/self/clear_refs", os.W_OK):
            msg = "the peak memory of a process can be reset on Linux only"
            raise NotImplementedError(msg)
        files = {what: os.path.abspath(name_of(what, kernel, size)) for what in ("image", "target")}
        code = ADDED.format(**files, shape=self.shape, method=self.method)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return float(done.stdout)

    track_memory_added.unit = "MiB"

    def track_kernel_error(self, kernel, size):
        """Compare it, do not admire it: rounding to 8 bits and the seams between the tiles are in it."""
        truth = make_scene(kernel, TILE, noise=0.01).kernel
        return relative_error(find_kernel(self.image, self.target, self.shape).kernel, truth)

    track_kernel_error.unit = "relative"
