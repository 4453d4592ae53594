"""A hundred faults put in on purpose, and whether the tests of their room notice: ``python tests/mutations.py``.

Each is a replacement in one file of the package, made in memory by a process of its own as it imports that file; the
source stays as it is. There the plain tests of a few files run (with `slow` the slow ones too) up to the first that
fails. `test_mutations.py` checks that every old text stands in the source exactly once. A fault that no test notices
asks for a test, not for another fault.
"""

import argparse
import contextlib
import importlib
import importlib.machinery
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
#: Of the faults such a share has to be noticed.
ENOUGH = 0.92
_SECONDS = 1800
#: What every process needs is imported once, before there is one for each fault.
_SHARED = (
    "hypothesis numba pyfftw scipy.fft scipy.linalg scipy.ndimage scipy.optimize scipy.signal scipy.stats threadpoolctl"
)


class Fault(NamedTuple):
    """A text of a file of the package, what takes its place, and the files of tests that are to notice.

    Of these the tests that have `first` in their name go first.
    """

    file: str
    old: str
    new: str
    first: str
    tests: str
    slow: bool


# fmt: off
#: By the files of tests that are to notice, "slow" if they need their slow ones: a file of the package, a text that
#: stands in it once, what takes its place and, to be quick, the name of the test that should notice.
ROOMS = {
    "analysis/test_psf.py": [
        ("analysis/psf.py", "factor = None if factor is None else factor[::-1]", "factor = factor",
         "a_correlation_is_the"),
        ("analysis/comparison.py", "factor.reshape(1 + both, taps.size, -1)[:, ::-1].reshape(factor.shape)", "factor",
         "a_correlation_is_the")],
    "analysis/test_psf.py analysis/test_psf_errors.py": [
        ("analysis/psf.py", "min(math.degrees(swing * tangential), _ANY)", "math.degrees(swing * tangential) / 2",
         "errors_of_place_and")],
    "analysis/test_psf_errors.py": [
        ("analysis/psf_shape.py", " - 0.5 * at(float(t[top]))", "", "derivatives_are_the")],
    "analysis/test_selection.py": [
        ("analysis/support.py", "self.p_value() <= level:", "self.p_value() < 0:", "what_was_left_out")],
    "api/test_accumulate_settings.py": [
        ("fitting/context.py", "if self.tiles and other.tiles else ()", "", "the_residual_is_judged")],
    "api/test_bad_input.py": [
        ("data/observation.py", "first = (band.start + int(row), int(col))", "first = (int(row), int(col))",
         "nan_in_a_big_image")],
    "api/test_find.py": [
        ("solvers/least_squares.py", "stats.n_pixels - rank\n", "stats.n_pixels\n", "the_numbers_of_a_fit")],
    "api/test_kernel_map.py": [
        ("fitting/tile_map.py", "one.rank - one.solution.rank", "one.rank", "the_variation_is_the"),
        ("solvers/neighbours.py", "axis2=2) + borrowed", "axis2=2)", "a_penalty_across_tiles")],
    "api/test_kernel_map_volumes.py slow": [
        ("fitting/tile_fits.py", "at = plane.at - plane.first - box.first", "at = plane.at - plane.first",
         "fit_of_its_pixels"),
        ("data/blocks.py", "for i in lot[chosen]]", "for i in lot]", "is_a_least_squares")],
    "api/test_complex_volumes.py": [
        ("data/complex_parts.py", "volume=2 * plane.volume + imaginary", "volume=2 * plane.volume", "masks_weights"),
        ("fitting/reweighting.py", "[both for lots in every for both in zip(*lots, strict=True)]",
         "[(i, i + 1) for i in range(0, len(items), 2)]", "axes_are_alike")],
    "api/test_stream.py": [
        ("data/blocks.py", "shares = (0.0, 0.5, 1.0)", "shares = (0.0,)", "a_stream_of_which")],
    "cli/test_commands.py": [
        ("imageio/write.py", "(rounded < 0) | (rounded > top)", "rounded > top", "values_below_zero"),
        ("cli/arguments.py", 'conv.origin if mode == "same" else None', "conv.origin",
         "a_kernel_off_its_centre")],
    "api/test_dask_checkpoint.py": [
        ("fitting/dask_fit.py", 'if state.digest not in ("", known.hexdigest()):', "if False:", "another_call"),
        ("fitting/dask_portions.py", "(state.pairs, state.blocks)", "(state.pairs, 0)", "an_interrupted_sum")],
    "core/test_estimate.py": [
        ("core/estimate.py", "scipy.special.stdtrit(self.df_resid, tail)", "scipy.special.ndtri(tail)",
         "intervals_are_those")],
    "core/test_parts_of_statistics.py": [
        ("core/normal_equations.py", "own_energy - energy", "own_energy", "taking_a_part_away"),
        ("core/normal_equations.py", '"center_moment": moment[kept]', '"center_moment": self.center_moment[kept]',
         "crop_is_the_block")],
    "diagnostics/test_boundary.py": [
        ("diagnostics/boundary.py", "_LEVEL) * inflation * noise", "_LEVEL) * noise", "a_boundary_fits_as"),
        ("diagnostics/boundary.py", "_WORTH = 2.0", "_WORTH = 1e4")],
    "diagnostics/test_misfit.py": [
        ("diagnostics/lags.py", "_LAG, _RING, _RARE = 6.5, 9.0, 1e-8", "_LAG, _RING, _RARE = 1e6, 1e6, 0.0",
         "the_lag_outside_the"),
        ("diagnostics/misfit.py", "scores = np.einsum", "scores = 0 * np.einsum", "a_model_that_does"),
        ("diagnostics/local_scores.py", "_UNEVEN = 2.0", "_UNEVEN = 1e9", "a_few_bright")],
    "diagnostics/test_plateau.py": [
        ("diagnostics/plateau.py", "half + _BEYOND", "-1e9"),
        ("diagnostics/plateau.py", "np.flatnonzero(v == end)", "np.flatnonzero(v == v)", "left_out_are_no_end"),
        ("diagnostics/plateau.py", "past - 0.5 * step * roots", "past - 0.0 * step * roots", "where_there_is_nothing"),
        ("diagnostics/plateau.py", "_LOUD * half < 1.0 and", "False and")],
    "diagnostics/test_drift.py": [
        ("diagnostics/drift.py", "n_taps - 1 - tap if plan.flipped else tap", "tap", "two_taps"),
        ("diagnostics/drift.py", "left) for factor in (place, place**2)", "left) for factor in (place,)",
         "drifts_is_told")],
    "diagnostics/test_omission.py": [
        ("diagnostics/omission.py", "np.concatenate([-share", "np.concatenate([share", "make_up_for"),
        ("diagnostics/omission.py", "_MATTERS = 10.0, 0.5", "_MATTERS = -1.0, 0.5", "leaves_nothing_out"),
        ("diagnostics/tiles.py", "power *= weights[", "power *= 1 + 0 * weights[", "tiles_are_all_over"),
        ("diagnostics/tiles.py", "fromkeys([*order[best], *order])", "fromkeys(order)", "tiles_are_all_over"),
        ("diagnostics/omission.py", "reshape(-1, n).mean(axis=0)", "reshape(-1, n).mean()", "variance_of_its_own"),
        ("diagnostics/omission.py", "- plan.before[axis] + 0.5", "- plan.before[axis] + 0.0", "of_each_cell"),
        ("analysis/field.py", "np.hstack([factor, beyond])", "np.hstack([factor, 0 * beyond])", "all_that_is_unknown")],
    "diagnostics/test_rounding.py": [
        ("diagnostics/rounding.py", "math.sqrt(weight / n)", "math.sqrt(self.count / n)", "with_weights"),
        ("diagnostics/rounding.py", "self.factor @ self.factor.T, hermitian", "np.eye(len(self.factor)), hermitian",
         "a_prior_lets"),
        ("diagnostics/rounding.py", "/ len(ends))", "/ len(ends) ** 2)", "on_a_ramp_the"),
        ("diagnostics/rounding.py", "np.rint(a + n) - a", "np.rint(a + n) - a - n", "what_rounding_does"),
        ("diagnostics/rounding.py", "0.5 * np.spacing", "1.5 * np.spacing", "a_tap_that_rests"),
        ("diagnostics/rounding.py", "int(same.max()) + 1)[same]", "same.size)", "surroundings_that_repeat")],
    "diagnostics/test_score_covariance.py": [
        ("diagnostics/score_covariance.py", "for each in found) / chance", "for each in found)",
         "the_weighted_sandwich"),
        ("solvers/sandwich.py", "np.eye(settled) - f.T @ gram @ f", "0 * (f.T @ gram @ f)")],
    "diagnostics/test_whiteness.py": [
        ("diagnostics/whiteness.py", "_FREQUENCIES = {2: 5.0", "_FREQUENCIES = {2: 2.0", "small_images_raise"),
        ("diagnostics/whiteness.py", "_MATTERS = 1.25", "_MATTERS = 2.5"),
        ("diagnostics/whiteness.py", "math.sqrt(alike * m", "math.sqrt(m", "ranks_of_residuals"),
        ("diagnostics/whiteness.py", "_WHOLE, _ELSEWHERE = 2**20", "_WHOLE, _ELSEWHERE = 0", "wherever_they_are"),
        ("diagnostics/whiteness.py", "check.few > _ALL_OF_IT", "check.few > 2", "of_a_single_spot"),
        ("diagnostics/quantization.py", "_LARGEST = 2.0, 8.0", "_LARGEST = 2e9, 4e9", "of_many_gray_levels")],
    "engines/test_accumulation.py": [
        ("engines/passes.py", "overlap.image[: first * n_rows, :x_halo] = 0.0", "pass", "a_long_row_comes_to"),
        ("engines/passes.py", "lags -= inverse(twice, short, both_ways)", "pass", "sizes_around_the_blocks"),
        ("engines/edge_correction.py", "(frame.sources, frame.rows, y_halo", "(frame.sources, frame.rows - 1, y_halo",
         "equals_plain_loops"),
        ("engines/accumulation.py", "target_sum=float(sums.total[t])", "target_sum=float(sums.energy[t])",
         "equals_plain_loops"),
        ("compiled/gram.py", "+ item(bottom, z + k) - item(top, z + k)", "+ item(bottom, z + k)", "equals_plain_loops"),
        ("data/reader.py", "part[:: down or 1, :: across or 1]", "part[:: abs(down) or 1, :: across or 1]",
         "equals_plain_loops")],
    "engines/test_implicit_gram.py": [
        ("engines/implicit_gram.py", "sums[1:, places] = below - above", "sums[1:, places] = below",
         "operator_equals_the"),
        ("engines/cost_model.py", "MOST_BYTES = 5e9, 2**30", "MOST_BYTES = 5e12, 2**40", "chosen_by_cost")],
    "engines/test_sampled_gram.py": [
        ("engines/sampled_gram.py", "np.sqrt(slow), -1.0)", "ones, -1.0)", "left_out_or_count")],
    "engines/test_toeplitz_inverse.py": [
        ("engines/implicit_gram.py", "np.repeat([1.0, -1.0], n + 1)", "np.repeat([1.0, 1.0], n + 1)",
         "it_is_the_inverse"),
        ("engines/implicit_gram.py", "falling = np.arange(m - 1, 0, -1)",
         "falling = 0 * np.arange(m - 1, 0, -1)", "its_power_is")],
    "engines/test_welch.py": [
        ("engines/welch.py", "weight[s : s + side] += window**2", "weight[s : s + side] = window**2",
         "weights_of_pixels")],
    "fitting/test_registration.py": [
        ("fitting/registration.py", "done = _is_last(search, one, place)", "done = True", "rounds_end_when"),
        ("fitting/registration.py", "(one.doubt + _SHARE) * length", "_SHARE * length", "the_last_step"),
        ("fitting/registration_columns.py", "for plan in self.steep] if", "for plan in self.steep[::-1]] if",
         "taps_are_near")],
    "fitting/test_combinations.py": [
        ("solvers/errors_in_variables.py", "larger = 1.0 if fit.priors else", "larger = 1.0 if True else",
         "noise_of_the_image"),
        ("solvers/errors_in_variables.py", "np.sum(np.square(sums)) - ", "0 * ", "noise_of_the_image"),
        ("fitting/image_noise.py", "found = found - projected_of(", "found = found - 0 * projected_of(",
         "noise_of_the_image"),
        ("fitting/image_noise.py", "else -(std**2)", "else 0 * (std**2)", "weights_from_the_residual"),
        ("engines/welch.py", "enumerate(spectra):\n            cross[a] += ",
         "enumerate(spectra):\n            cross[a] -= ", "division_of_periodic")],
    "fitting/test_pairs_and_channels.py": [
        ("core/estimate.py", "terms = self.background.coefficients.size if", "terms = 0 if", "background"),
        ("core/background.py", ' + np.einsum("ij,ij->i", through, through)', "", "background"),
        ("core/background.py", "one.n_pixels - self.rank", "one.n_pixels", "background"),
        ("core/background.py", "kept = values > 4 * max(len(values), 16) * _EPS * trace", "kept = values > -trace",
         "an_image_that_is_a"),
        ("fitting/channels.py", "sum(n * fit.noise_std**2", "sum(fit.noise_std**2", "the_figures_of_several"),
        ("data/plan.py", "if count != counts[0]:", "if False:", "pairs_of_different")],
    "fitting/test_weights.py": [
        ("fitting/noise_model.py", "UNSURE = 0.01", "UNSURE = 0.1", "a_prediction_below"),
        ("core/normal_equations.py", "(self.n_values or 1.0)", "(self.n_pixels or 1.0)"),
        ("core/normal_equations.py", "self.total_weight + other.total_weight", "self.total_weight",
         "weighted_statistics"),
        ("engines/patches.py", "np.concatenate([-some.values, some.values])",
         "np.concatenate([some.values, -some.values])", "runs_and_single_pixels"),
        ("engines/weighted.py", "total = weight * whole", "total = 1.0 * whole"),
        ("engines/weighted_iteration.py", "if off > _ROUGH:", "if off > 1e9:", "iteration_is_off"),
        ("fitting/noise_model.py", "observed - left, observed, floor", "observed, observed, floor"),
        ("engines/sampling.py", "np.sqrt(part.weights / chance[own])", "np.sqrt(part.weights)",
         "a_sample_holds_patches"),
        ("data/masking.py", "max(0.05 * plan.n_pixels", "max(0.95 * plan.n_pixels", "saturated_pixels_are"),
        ("data/masking.py", "any_in_window(block != 0, (n_y, n_x))", "any_in_window(block != 0, (n_y, 1))",
         "statistics_equal_the"),
        ("fitting/pipeline.py", "_CLIPPED = 3.0", "_CLIPPED = 3000.0", "more_than_rounding_is_what"),
        ("fitting/pipeline.py", "not (alone or estimate", "not (estimate", "white_everywhere"),
        ("fitting/context.py", "_CUT_OFF = 0.95", "_CUT_OFF = 95.0", "most_of_which_is_cut"),
        ("diagnostics/quantization.py", "near > _BESIDE * counted", "near > counted", "noise_decides"),
        ("fitting/reweighting.py", "_SETTLED = 0.02", "_SETTLED = 2.0"),
        ("fitting/reweighting.py", "_APART = 6.0", "_APART = 6000.0"),
        ("fitting/noise_model.py", "MOST_NOISE = 5.0, 4.0", "MOST_NOISE = 500.0, 4.0", "a_prediction_far_from"),
        ("diagnostics/quantization.py", "ROUNDING = 1 / 12", "ROUNDING = 1 / 48", "rounding_enters_the")],
    "imageio/test_hostile_files.py": [
        ("core/npz.py", 'header.get("kernelfit") not in range(1, FORMAT + 1) or ', "", "files_of_another_format"),
        ("imageio/scientific.py", "if place <= last:", "if False:", "sizes_below_zero"),
        ("imageio/scientific.py", "info.u not in seen", "True", "lead_back_to"),
        ("imageio/read.py", "not isinstance(key.bitspersample, int)", "False", "samples_of_several")],
    "plotting/test_pictures.py": [
        ("plotting/overview.py", "reach[0] + 0.5, -reach[0] - 0.5", "-reach[0] - 0.5, reach[0] + 0.5",
         "autocorrelation_stands")],
    "restoration/test_deconvolution.py": [
        ("restoration/deconvolution.py", "room: float = 2.5", "room: float = 0.5", "the_room_of_what_fades")],
    "solvers/test_auto.py": [
        ("solvers/auto.py", "_CLEARLY = 4.0", "_CLEARLY = 400.0"),
        ("solvers/auto.py", "return t + 2 * c *", "return t + 0 * c *")],
    "solvers/test_cholesky.py": [
        ("solvers/cholesky.py", "condition * RCOND_CHOLESKY < 1", "True", "singular_matrices")],
    "solvers/test_conjugate_gradient.py": [
        ("solvers/conjugate_gradient.py", "TOLERANCE = 0.01\n", "TOLERANCE = 0.5\n", "every_boundary"),
        ("solvers/conjugate_gradient.py", "_MOST_SHARE = 0.01", "_MOST_SHARE = 100.0"),
        ("fitting/implicit.py", "math.sqrt(rss / (n - df_model))", "math.sqrt(rss / n)", "penalties"),
        ("fitting/implicit.py", "_MOST_PROBES = 0.06, 3, 32", "_MOST_PROBES = 0.06, 1, 1"),
        ("fitting/implicit.py", "        if not solution.converged:\n", "        if False:\n",
         "far_from_least_squares"),
        ("fitting/implicit.py", "found.count < MOST_ITERATIONS", "found.count < 0", "leaves_open")],
    "solvers/test_errors_in_variables.py": [
        ("solvers/errors_in_variables.py", "_LEAST = 0.1", "_LEAST = 0.01", "a_tenth_of_every_direction"),
        ("solvers/errors_in_variables.py", "& (seen >= 0)", "| (seen < -1)", "noisy_products_are"),
        ("fitting/pipeline.py", "shared(estimate, math.sqrt(share) * std", "shared(estimate, 1.0 * std",
         "a_tenth_of_every_direction")],
    "solvers/test_gaussian_process.py": [
        ("solvers/gaussian_process.py", "np.hstack([factor, more])", "np.hstack([factor, 0 * more])",
         "uncertain_hyperparameters"),
        ("solvers/gaussian_process.py", "root.shape[1] - np.sum(inverse**2)", "root.shape[1]",
         "against_a_dense_process"),
        ("solvers/gaussian_process.py", "noise_std = math.sqrt((rss + float(x @ x))", "noise_std = math.sqrt((rss)",
         "against_a_dense_process"),
        ("solvers/gaussian_process.py", "settled - product(product(settled, across), across.T)", "settled",
         "no_negative_taps_is")],
    "solvers/test_mean.py": [
        ("solvers/least_squares.py", "fit.log_evidence - unit", "fit.log_evidence", "the_same_bits_at_any"),
        ("solvers/penalties.py", 'findings.append(Finding(Verdict.NO_MINIMUM, f"{n} pixels', 'str((f"{n} pixels',
         "a_strength_at_the"),
        ("solvers/least_squares.py", "- 2 * own.mean(axis=0) + own.mean()", "", "a_mean_changes_no")],
    "solvers/test_redundancy.py": [
        ("solvers/least_squares.py", "_SPARE = 0.25", "_SPARE = 0.02", "little_redundancy"),
        ("solvers/least_squares.py", "_BY_CHANCE = 2e-3", "_BY_CHANCE = 0.9", "unrelated_noise_is")],
    "solvers/test_robust.py": [
        ("fitting/reweighting.py", "moment, correction**2 * energy", "moment, energy", "errors_are_those_of"),
        ("solvers/robust.py", "else 1.4826", "else 1.0", "errors_are_those_of"),
        ("solvers/robust.py", "(1 - 5 * ratio**2)", "(1 - 4 * ratio**2)", "slopes_are_the_derivatives")],
    "solvers/test_solvers.py": [
        ("solvers/least_squares.py", "= center + shift", "= center + 0 * shift", "a_center_of_a_kernel"),
        ("solvers/least_squares.py", "size < 1e-3 * least", "size < 10 * least", "a_refinement_where"),
        ("solvers/least_squares.py", "error > 0.5 * size", "error > 5 * size", "doubts_are_raised"),
        ("solvers/least_squares.py", "rss > 0.5 * variance", "rss > 0.98 * variance", "doubts_are_raised"),
        ("solvers/least_squares.py", "stats.n_pixels - df\n", "stats.n_pixels - least.rank\n", "penalised_against"),
        ("solvers/penalties.py", "df_resid**2, out=score", "df_resid, out=score", "penalised_against"),
        ("solvers/penalties.py", "_ROUGHER = 2.0", "_ROUGHER = 2e9", "rougher_than_it"),
        ("solvers/penalties.py", "(told / seen - 1.0) * pull", "(told / seen) * pull", "rougher_than_it"),
        ("solvers/penalties.py", "return better if self.rank ==", "return better if self.rank ==  -"),
        ("solvers/penalties.py", "goal = n * self.noise_std**2", "goal = n * self.noise_std", "discrepancy_meets"),
        ("solvers/constrained.py", "df_model - 1.0)", "df_model)", "of_a_given_sum_and"),
        ("solvers/constrained.py", "direction, inverse = _onto_total(inverse, free",
         "direction, _ = _onto_total(inverse, free", "of_a_given_sum_and"),
        ("solvers/least_squares.py", "(moves - inverse @ across)[:, told]", "moves[:, told]", "of_few_taps_the_errors"),
        ("solvers/constrained.py", "held += 1", "held += 0", "constrained_against"),
        ("solvers/sparse.py", "math.log(n) + 2 * choices", "math.log(n) + choices", "the_criteria_of_few"),
        ("solvers/sparse.py", "self._score(stats, t - 1, rss + float(loss[weakest])) >=", "math.inf >=",
         "a_tap_that_others")],
    "solvers/test_wiener.py": [
        ("engines/welch.py", "plan.before if inside else (0, 0)", "plan.before", "origin_outside"),
        ("solvers/wiener.py", "stats.n_pixels - found.rank * band.mean(kept)", "1.0 * stats.n_pixels"),
        ("solvers/block_toeplitz.py", "return taps + step", "return taps"),
        ("solvers/block_toeplitz.py", "seen - (product(lost, noise) * lost).sum(axis=1)", "seen"),
        ("solvers/spectral_band.py", "weight[-1] -= 1.0", "weight[-1] -= 0.0")],
}
# fmt: on
FAULTS = [
    Fault(*one[:3], "".join(one[3:]), room.removesuffix(" slow"), room.endswith(" slow"))
    for room, some in ROOMS.items()
    for one in some
]


def wrong() -> list[str]:
    """Say of which faults the old text does not stand in the source exactly once."""
    counts = [(fault, (SOURCE / "kernelfit" / fault.file).read_text().count(fault.old)) for fault in FAULTS]
    return [f"{fault.file} has {n} times, not once: {fault.old!r}" for fault, n in counts if n != 1]


def put_in(fault: Fault) -> None:
    """Let the file be imported with the fault, and its compiled loops be compiled anew."""
    path = str(SOURCE / "kernelfit" / fault.file)
    loader = importlib.machinery.SourceFileLoader
    sound = loader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, name: str) -> object:
        if self.path != path:
            return sound(self, name)
        return compile(Path(path).read_text().replace(fault.old, fault.new), path, "exec", dont_inherit=True)

    loader.get_code = get_code  # type: ignore[method-assign, assignment]
    if fault.file.startswith("compiled/"):
        from numba.core import caching

        load, save = caching.FunctionCache.load_overload, caching.FunctionCache.save_overload
        for name, real in (("load_overload", load), ("save_overload", save)):

            def unless_faulty(self, *args, real=real):  # type: ignore[no-untyped-def]
                return None if self._py_func.__code__.co_filename == path else real(self, *args)

            setattr(caching.FunctionCache, name, unless_faulty)


def run(words: list[str], fault: Fault | None, slow: bool, log: IO[bytes]) -> NoReturn:
    """Run tests with a fault if any, in a process that ends with it."""
    code = 70
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        signal.alarm(_SECONDS)
        if fault is not None:
            put_in(fault)
        which = "slow or not slow" if slow else "not slow"
        always = ["-q", "-x", "-n", "0", "-m", which, "--assert=plain", "-p", "no:cacheprovider", "--tb=no"]
        code = int(pytest.main([*always, *words]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def told(status: int, log: IO[bytes]) -> str:
    """Return the first test that noticed, "" if none did."""
    log.seek(0)
    said = log.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f"not ended after {_SECONDS} s"
    if code == 5:  # no test of that name
        return ""
    if code not in (0, 1, 2):
        sys.exit(f"pytest ended with {code}: {said[-3000:]}")
    found = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", said, re.MULTILINE)
    return "" if code == 0 else found[1] if found else said.strip().splitlines()[-1]


def meant(word: str, i: int, fault: Fault) -> bool:
    """Say whether a number, a range or a part of a file's name means a fault."""
    if re.fullmatch(r"\d+(:\d+)?", word):
        first, _, stop = word.partition(":")
        return int(first) <= i < int(stop or int(first) + 1)
    return word in fault.file or word in fault.tests


def main() -> int:
    """Try faults, and print a table of which were noticed, and by what."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("which", nargs="*", help="numbers, ranges such as 0:10, parts of files' names; default all")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time, default 1")
    args = parser.parse_args()
    if lost := wrong():
        sys.exit("\n".join(lost))
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(SOURCE)
    sys.path.insert(0, str(SOURCE))
    sys.dont_write_bytecode = False
    sys.pycache_prefix = tempfile.mkdtemp(prefix="mutations-")
    for name in _SHARED.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    waiting = [i for i, fault in enumerate(FAULTS) if not args.which or any(meant(w, i, fault) for w in args.which)]
    n, missed = len(waiting), 0
    sound: set[str] = set()
    broken: set[str] = set()
    running: dict[int, tuple[int, str, str, IO[bytes]]] = {}

    def begin(i: int, stage: str, noticed: str = "") -> None:
        fault, log = FAULTS[i], tempfile.TemporaryFile()  # noqa: SIM115
        files = [f"tests/{name}" for name in fault.tests.split()]
        words = {
            "first": [*files, "-k", fault.first],
            "all": [*files, *(f"--deselect=tests/{name}" for name in broken)],
            "sound": [f"tests/{noticed}"],
        }["all" if stage == "slow" else stage]
        child = os.fork()
        if child == 0:
            run(words, None if stage == "sound" else fault, fault.slow or stage != "all", log)
        running[child] = i, stage, noticed, log

    while waiting or running:
        if waiting and len(running) < args.jobs:
            i = waiting.pop(0)
            begin(i, "first" if FAULTS[i].first else "all")
            continue
        child, status = os.wait()
        i, stage, before, log = running.pop(child)
        with log:
            noticed = told(status, log)
        if stage == "sound":  # whether the test that noticed passes without the fault
            (broken if noticed else sound).add(before)
            if noticed:
                begin(i, "all")
                continue
            noticed = before
        elif stage == "first" and not noticed or noticed in broken:
            begin(i, "all")
            continue
        elif stage == "all" and not noticed and not FAULTS[i].slow:
            begin(i, "slow")
            continue
        elif "::" in noticed and noticed not in sound:
            begin(i, "sound", noticed)
            continue
        missed += not noticed
        change = " -> ".join(" ".join(text.split())[:50] for text in (FAULTS[i].old, FAULTS[i].new))
        print(f"{i:3d} {FAULTS[i].file}: {change}\n    {noticed or 'NOT NOTICED'}", flush=True)
    print(
        f"\n{n - missed} of {n} faults noticed",
        *(f"{name} fails without any fault" for name in sorted(broken)),
        sep="\n",
    )
    shutil.rmtree(sys.pycache_prefix)
    return 0 if not broken and n - missed >= ENOUGH * n else 1


if __name__ == "__main__":
    sys.exit(main())
