"""From the statistics to a kernel: solver by number of taps. No pixel is read here."""

import numpy as np
import scipy.linalg

import kernelfit
from benchmarks.common import by_profile, make_scene, ratio_of_times, relative_error, require

SOLVERS = ["LeastSquares", "Penalized", "GaussianProcess", "NonNegative", "Sparse", "auto"]
KERNELS = by_profile(["9x7", "15x17"], ["3x5"], ["9x7", "15x17", "31x27"])  # rows x columns
SIZE = by_profile([512], [128], [512])[0]  # rows of the image


class Base:
    """Statistics of a scene, and one solver."""

    timeout = 300

    def setup(self, solver, kernel):
        scene = make_scene(kernel, SIZE, noise=0.05)
        self.truth = scene.kernel
        self.stats = kernelfit.accumulate(*scene.pair, scene.shape)
        if solver == "LeastSquares":
            self.arguments = ()
        elif solver == "auto":
            require("choose_support")  # came with it
            self.arguments = ("auto",)
        else:
            self.arguments = (require(solver)(),)
        self.solve()

    def solve(self):
        """Solve, standard errors included: they are made when asked for."""
        fit = self.stats.solve(*self.arguments)
        assert fit.stderr.shape == self.truth.shape
        return fit


class Solve(Base):
    """Time and error of each solver, 5 % noise."""

    rounds, repeat = 1, (1, 5, 4.0)  # of times: at most five, and for some four seconds

    params = (SOLVERS, KERNELS)
    param_names = ("solver", "kernel")

    def time_solve(self, solver, kernel):
        self.solve()

    def track_kernel_error(self, solver, kernel):
        return relative_error(self.solve().kernel, self.truth)

    track_kernel_error.unit = "relative"


class RatioToCholesky(Base):
    """A solver, over the inverse of as large a Gram matrix by `scipy.linalg.cho_solve`."""

    params = (["LeastSquares", "Penalized", "GaussianProcess"], KERNELS[-1:])
    param_names = ("solver", "kernel")

    def track_ratio_to_cho_solve(self, solver, kernel):
        gram, identity = self.stats.gram, np.eye(self.truth.size)
        return ratio_of_times(self.solve, lambda: scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), identity))

    track_ratio_to_cho_solve.unit = "times cho_solve"
