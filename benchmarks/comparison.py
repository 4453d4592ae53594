"""Say which ratio, and which error, differs between two commits by more than its noise.

    benchmarks/compare A [B] [--bench REGEX] [--rounds N]

B is the working tree if it is not given. Both are measured by the suites of the working tree, with the Python that runs
this, in turn: A, B, B, A and so on, each time in a process of its own, one BLAS thread. What is compared are the
`track_ratio_` benchmarks, each a ratio to a public yardstick, and the `track_..._error` ones. Both sides of a ratio are
timed by what they spend on a processor, so that other work on the machine counts for little; what `time_find` takes on
all cores is another matter.

A ratio has moved if its logarithm differs, in the mean over the rounds without the extreme ones, by more than three
standard errors and by more than FLOOR, with the same sign in each of those rounds; and if all that is so again when it
is measured anew. The noise printed is the larger of those three standard errors and the floor. An error has moved if
it grew or shrank by half.
Exits 0 if nothing got worse, 1 if something did, 2 if nothing was compared.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOOR = math.log(1.03)
SMALLEST_ERROR = 1e-11  # below, errors are rounding and jump about
WORSE, BETTER = "WORSE", "better"

Measured = dict[str, list[float]]


class Refused(Exception):
    """Nothing can be compared; the text says why."""


def names(pattern: str) -> Iterator[tuple[str, type, str, tuple]]:
    """Yield (name, class, method, parameters) of every ratio and error whose name the pattern is found in."""
    for file in sorted((ROOT / "benchmarks" / "suites").glob("bench_*.py")):
        module = importlib.import_module(f"benchmarks.suites.{file.stem}")
        for owner in vars(module).values():
            if not (isinstance(owner, type) and owner.__module__ == module.__name__):
                continue
            for method in dir(owner):
                if not re.fullmatch(r"track_(ratio_\w+|\w+_error)", method) or hasattr(owner, "setup_cache"):
                    continue
                params = getattr(owner, "params", ())
                lists = params if not params or isinstance(params[0], (list, tuple)) else [params]
                for values in itertools.product(*lists):
                    name = f"{file.stem}.{owner.__name__}.{method}({', '.join(map(str, values))})"
                    if re.search(pattern, name):
                        yield name, owner, method, values


def measure(wanted: list[str], source: str, seconds: float) -> None:
    """Print, as JSON, {name: value, or None where this version lacks the feature} (in the process of one commit)."""
    import kernelfit

    from . import common

    if not Path(kernelfit.__file__).resolve().is_relative_to(Path(source).resolve()):
        msg = f"imported kernelfit from {kernelfit.__file__}, need {source}"
        raise RuntimeError(msg)
    common.CLOCK = processor_seconds
    common.SECONDS = min(common.SECONDS, seconds)
    common.REPEATS = min(common.REPEATS, 5)
    found: dict[str, float | None] = {}
    for name, owner, method, values in names(""):
        if name not in wanted:
            continue
        subject = owner()
        try:
            subject.setup(*values) if hasattr(subject, "setup") else None
            found[name] = float(getattr(subject, method)(*values))
        except NotImplementedError:
            found[name] = None
    print(json.dumps(found))


def processor_seconds() -> float:
    """Return the time that this process and those it waited for have spent on a processor; elsewhere than Unix, all.

    A process that others push aside takes longer, but does no more work.
    """
    try:
        import resource
    except ImportError:
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def run_apart(source: Path, wanted: list[str], seconds: float) -> dict[str, float | None]:
    """Measure one commit in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{source}{os.pathsep}{ROOT}",
        "NUMBA_CACHE_DIR": str(source / "numba"),  # machine code of one commit must not serve the other
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    code = "import json, sys; from benchmarks.comparison import measure; measure(*json.load(sys.stdin))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([wanted, str(source), seconds]),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise Refused(f"a benchmark failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def lay_out(commit: str | None, folder: Path) -> str:
    """Put the package of a commit, or of the working tree, into a folder; return what to call it."""
    if commit is None:
        shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
        return "working tree"
    known = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
    )
    if known.returncode:
        raise Refused(f"got {commit!r}, need a commit, branch or tag of this repository")
    packed = subprocess.run(
        ["git", "archive", "--format=tar", known.stdout.strip(), "src"], cwd=ROOT, capture_output=True
    )
    if packed.returncode:
        raise Refused(f"{commit} has no package in src")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive, tempfile.TemporaryDirectory() as scratch:
        archive.extractall(scratch, filter="data")
        shutil.move(Path(scratch) / "src", folder)
    return f"{commit} ({known.stdout[:8]})" if not known.stdout.startswith(commit) else commit[:8]


def rounds_of(sources: list[Path], wanted: list[str], rounds: int, seconds: float) -> list[Measured]:
    """Measure both commits in turn; the order alternates, so that neither is always the one that comes first."""
    found: list[Measured] = [{}, {}]
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            for name, value in run_apart(sources[side], wanted, seconds).items():
                if value is not None:
                    found[side].setdefault(name, []).append(value)
            print(f"\rround {turn + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return found


def shift_and_noise(before: list[float], after: list[float]) -> tuple[float, float, bool]:
    """Return the change of the logarithm, its noise, and whether the rounds agree on a change beyond it.

    The change is the trimmed mean over the rounds, the noise three of its standard errors (Tukey and McLaughlin 1963,
    Sankhya A 25, 331: from the winsorised deviation), so that one bad round spoils neither.

    >>> shift_and_noise([1.0, 1.01, 0.99], [1.3, 1.31, 1.3])[2]
    True
    >>> shift_and_noise([1.0, 1.2, 0.9], [1.1, 1.0, 1.3])[2]
    False
    >>> shift_and_noise([1.0, 1.0, 1.01, 0.99, 1.0], [1.2, 1.21, 1.19, 0.7, 1.2])[2]
    True
    """
    steps = sorted(math.log(b / a) for a, b in zip(before, after, strict=True))
    n, cut = len(steps), round(0.15 * len(steps))
    kept = steps[cut : n - cut]
    shift = statistics.fmean(kept)
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    noise = max(FLOOR, 3 * statistics.stdev(winsorised) / (len(kept) / n) / math.sqrt(n))
    return shift, noise, abs(shift) > noise and all(step * shift > 0 for step in kept)


def error_moved(before: float, after: float) -> bool:
    """Return whether an error changed by half, and is more than rounding.

    >>> error_moved(1e-3, 2e-3), error_moved(1e-15, 1e-13), error_moved(1e-15, 1e-3), error_moved(float("nan"), 1.0)
    (True, False, True, True)
    """
    if math.isnan(before) or math.isnan(after):
        return not (math.isnan(before) and math.isnan(after))
    before, after = max(before, SMALLEST_ERROR), max(after, SMALLEST_ERROR)
    return not 1 / 1.5 < after / before < 1.5


def compare(sources: list[Path], wanted: list[str], rounds: int, seconds: float) -> list[tuple[str, ...]]:
    """Return a row for each benchmark: name, A, B, change, noise, verdict."""
    errors = [name for name in wanted if "track_ratio_" not in name]
    ratios = [name for name in wanted if "track_ratio_" in name]
    rows = []
    if errors:
        a, b = (run_apart(source, errors, seconds) for source in sources)
        for name in errors:
            if a.get(name) is None or b.get(name) is None:
                rows.append((name, *map(show, (a.get(name), b.get(name))), "", "", "n/a"))
                continue
            moved = error_moved(a[name], b[name])
            verdict = "" if not moved else BETTER if b[name] < a[name] else WORSE
            rows.append(
                (name, show(a[name]), show(b[name]), f"{b[name] / a[name]:.3g}x" if a[name] else "", "", verdict)
            )
    if ratios:
        first = rounds_of(sources, ratios, rounds, seconds)
        doubtful = [
            n for n in ratios if n in first[0] and n in first[1] and shift_and_noise(first[0][n], first[1][n])[2]
        ]
        again = rounds_of(sources, doubtful, rounds, seconds) if doubtful else [{}, {}]
        for name in ratios:
            if name not in first[0] or name not in first[1]:
                values = (statistics.median(side[name]) if name in side else None for side in first)
                rows.append((name, *map(show, values), "", "", "n/a"))
                continue
            a, b = (side[name] + more.get(name, []) for side, more in zip(first, again, strict=True))
            shift, noise, _ = shift_and_noise(a, b)
            verdict = ""
            if name in doubtful:
                shifts = [shift_and_noise(m[0][name], m[1][name]) for m in (first, again)]
                if shifts[1][2] and shifts[0][0] * shifts[1][0] > 0:
                    verdict = BETTER if shift < 0 else WORSE
            middle = [show(statistics.median(side)) for side in (a, b)]
            rows.append((name, *middle, f"{math.expm1(shift):+.1%}", f"{math.expm1(noise):.1%}", verdict))
    return rows


def show(value: float | None) -> str:
    """Return a figure for the table."""
    return "n/a" if value is None else f"{value:.3g}"


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="commit, branch or tag")
    parser.add_argument("b", metavar="B", nargs="?", help="another; the default is the working tree")
    parser.add_argument("--bench", default="", metavar="REGEX", help="only benchmarks in whose name this is found")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each commit, default 7, at least 3")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each ratio in each round, default 0.5")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error(f"got {options.rounds} rounds, need at least 3 to tell their noise")
    try:
        with contextlib.ExitStack() as stack:
            wanted = [name for name, *_ in names(options.bench)]
            if not wanted:
                raise Refused(f"no ratio or error has {options.bench!r} in its name")
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sources = [scratch / "a" / "src", scratch / "b" / "src"]
            labels = []
            for commit, source in zip((options.a, options.b), sources, strict=True):
                source.parent.mkdir()
                labels.append(lay_out(commit, source))
            rows = compare(sources, wanted, options.rounds, options.seconds)
    except Refused as reason:
        print(reason, file=sys.stderr)
        return 2
    print_table([("", *labels, "change", "noise", ""), *rows])
    moved = [row for row in rows if row[-1] in (WORSE, BETTER)]
    worse = [row[0] for row in moved if row[-1] == WORSE]
    print(f"\n{len(rows)} compared; {len(worse)} worse, {len(moved) - len(worse)} better, beyond noise")
    for row in moved:
        print(f"  {row[-1]}: {row[0]}: {row[1]} -> {row[2]}" + (f" ({row[3]}, noise {row[4]})" if row[4] else ""))
    if all(row[-1] == "n/a" for row in rows):
        print("every benchmark is n/a: nothing was compared", file=sys.stderr)
        return 2
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
