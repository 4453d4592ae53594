"""Say which ratio, which error and what memory differs between two commits by more than its noise.

    benchmarks/compare A [B] [--bench REGEX] [--rounds N]

B is the working tree if it is not given. Both are measured by the suites of the working tree, with the Python that runs
this, each in a process of its own with one BLAS thread. What is compared are the `track_ratio_` benchmarks, each a
ratio to a public yardstick, the `track_..._error` ones and `track_memory_added`.

For a ratio both processes live side by side, on the same processor where that can be asked for, and take turns call by
call, so that both meet the same weather; each call is timed by what it spends on a processor. What is judged is the
median over the turns of the logarithm of B's time over A's (the yardstick, the same code on either side, is shown and
would only add its noise). A round starts both processes anew, since where a process lies in memory makes a difference,
too. A ratio has moved if the mean over the rounds without the extreme ones is beyond three standard errors and beyond
FLOOR, with the same sign in each of those rounds; and if all that is so again when it is measured anew. The noise
printed is the larger of those three standard errors and the floor. An error, or memory, has moved if it grew or shrank
by half. `time_find`, what all cores together take, is another matter.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FLOOR = math.log(1.02)
SMALLEST_ERROR = 1e-11  # below, errors are rounding and jump about
WORSE, BETTER = "WORSE", "better"

LEAST_TURNS = 6
QUICK = 0.05  # seconds

Pair = tuple[Callable[[], object], Callable[[], object]]
#: For each benchmark the logarithm of B's time over A's in each round, and the ratios of A and of B.
Measured = dict[str, tuple[list[float], list[float], list[float]]]


class Refused(Exception):
    """Nothing can be compared; the text says why."""


def names(pattern: str) -> Iterator[tuple[str, type, str, tuple]]:
    """Yield (name, class, method, parameters) of all that is compared and in whose name the pattern is found."""
    for file in sorted((ROOT / "benchmarks").glob("suites*/bench_*.py")):
        module = importlib.import_module(f"benchmarks.{file.parent.name}.{file.stem}")
        for owner in vars(module).values():
            if not (isinstance(owner, type) and owner.__module__ == module.__name__):
                continue
            for method in dir(owner):
                if not re.fullmatch(r"track_(ratio_\w+|\w+_error|memory_added)", method):
                    continue
                params = getattr(owner, "params", ())
                lists = params if not params or isinstance(params[0], (list, tuple)) else [params]
                for values in itertools.product(*lists):
                    name = f"{file.stem}.{owner.__name__}.{method}({', '.join(map(str, values))})"
                    if re.search(pattern, name):
                        yield name, owner, method, values


def serve(source: str) -> None:
    """Answer requests, a line of JSON each, in the process of one commit.

    ``[name, n]`` of a ratio times n calls of ours and one of the yardstick: ``[[seconds, ...], seconds]``. Of anything
    else it is answered by its value. None stands for what this version lacks.
    """
    import kernelfit

    if not Path(kernelfit.__file__).resolve().is_relative_to(Path(source).resolve()):
        msg = f"imported kernelfit from {kernelfit.__file__}, need {source}"
        raise RuntimeError(msg)
    known = {name: parts for name, *parts in names("")}
    ready: dict[str, Pair | None] = {}
    for line in sys.stdin:
        name, n = json.loads(line)
        owner, method, values = known[name]
        try:
            if "track_ratio_" not in name:
                answer: object = value_of(owner, method, values)
            else:
                if name not in ready:
                    ready = {name: pair_of(owner, method, values)}  # the scene before is let go
                ours, yardstick = ready[name]
                answer = [[seconds_of(ours) for _ in range(n)], seconds_of(yardstick)]
        except NotImplementedError:
            answer = None
        print(json.dumps(answer), flush=True)


def value_of(owner: type, method: str, values: tuple) -> float:
    """Return what a benchmark tracks."""
    subject = owner()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # asv gives each suite a folder, too
        if hasattr(subject, "setup_cache"):
            subject.setup_cache()
        if hasattr(subject, "setup"):
            subject.setup(*values)
        return float(getattr(subject, method)(*values))


def pair_of(owner: type, method: str, values: tuple) -> Pair:
    """Return the two calls whose times a ratio divides, both warm."""
    found: list[Pair] = []

    def keep(ours: Callable[[], object], yardstick: Callable[[], object], *_: object, **__: object) -> float:
        found.append((ours, yardstick))
        return math.nan

    subject, module = owner(), sys.modules[owner.__module__]
    usual, module.ratio_of_times = module.ratio_of_times, keep
    try:
        if hasattr(subject, "setup"):
            subject.setup(*values)
        getattr(subject, method)(*values)
    finally:
        module.ratio_of_times = usual
    for call in found[0]:
        call()
    return found[0]


def seconds_of(call: Callable[[], object]) -> float:
    """Return what a call spends on a processor."""
    start = processor_seconds()
    call()
    return processor_seconds() - start


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


class Served:
    """The process of one commit, which answers what it is asked."""

    def __init__(self, source: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{source}{os.pathsep}{ROOT}",
            "NUMBA_CACHE_DIR": str(source / "numba"),  # machine code of one commit must not serve the other
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        code = f"from benchmarks.comparison import serve; serve({str(source)!r})"
        self.trouble = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.trouble,
            text=True,
            env=environment,
        )

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.trouble.close()

    def ask(self, name: str, n: int = 1) -> Any:
        """Return the answer to one request."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([name, n]) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.trouble.seek(0)
            raise Refused(f"a benchmark failed: {name}\n{self.trouble.read().strip()[-2000:]}")
        return json.loads(answer)


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


def rounds_of(sources: list[Path], wanted: list[str], rounds: int, seconds: float) -> Measured:
    """Measure the ratios of both commits, in processes started anew each round."""
    found: Measured = {}
    for turn in range(rounds):
        with contextlib.ExitStack() as stack:
            if hasattr(os, "sched_setaffinity"):
                usual = os.sched_getaffinity(0)
                stack.callback(os.sched_setaffinity, 0, usual)
                os.sched_setaffinity(0, {sorted(usual)[turn % len(usual)]})  # which the processes inherit
            served = [stack.enter_context(Served(source)) for source in sources]
            for name in wanted:
                first = [side.ask(name) for side in served]
                if None in first:
                    continue
                # of two quick calls the first may find the cache full of what the other process left
                calls = 2 if max(max(ours) for ours, _ in first) < QUICK else 1
                steps, ratios = take_turns(served, name, calls, seconds)
                for kept, value in zip(found.setdefault(name, ([], [], [])), (steps, *ratios), strict=True):
                    kept.append(value)
        print(f"\rround {turn + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return found


def take_turns(served: list[Served], name: str, calls: int, seconds: float) -> tuple[float, list[float]]:
    """Return the median logarithm of B's time over A's, and the ratio of each to the yardstick.

    Who begins alternates, so that neither is always the one that comes after a pause.
    """
    steps: list[float] = []
    times: list[list[tuple[float, float]]] = [[], []]
    end = time.perf_counter() + seconds
    while len(steps) < LEAST_TURNS or time.perf_counter() < end:
        for side in (0, 1) if len(steps) % 2 == 0 else (1, 0):
            ours, yardstick = served[side].ask(name, calls)
            times[side].append((min(ours), yardstick))
        steps.append(math.log(times[1][-1][0] / times[0][-1][0]))
    return statistics.median(steps), [statistics.median(a / b for a, b in side) for side in times]


def shift_and_noise(steps: list[float]) -> tuple[float, float, bool]:
    """Return the change of the logarithm, its noise, and whether the rounds agree on a change beyond it.

    The change is the trimmed mean over the rounds, the noise three of its standard errors (Tukey and McLaughlin 1963,
    Sankhya A 25, 331: from the winsorised deviation), so that one bad round spoils neither.

    >>> shift_and_noise([0.26, 0.27, 0.28])[2]
    True
    >>> shift_and_noise([0.1, -0.2, 0.3])[2]
    False
    >>> shift_and_noise([0.18, 0.19, 0.17, -0.4, 0.18])[2]
    True
    """
    steps = sorted(steps)
    n, cut = len(steps), round(0.15 * len(steps))
    kept = steps[cut : n - cut]
    shift = statistics.fmean(kept)
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    noise = max(FLOOR, 3 * statistics.stdev(winsorised) / (len(kept) / n) / math.sqrt(n))
    return shift, noise, abs(shift) > noise and all(step * shift > 0 for step in kept)


def error_moved(before: float, after: float) -> bool:
    """Return whether an error, or memory, changed by half, and is more than rounding.

    >>> error_moved(1e-3, 2e-3), error_moved(1e-15, 1e-13), error_moved(1e-15, 1e-3), error_moved(float("nan"), 1.0)
    (True, False, True, True)
    """
    if math.isnan(before) or math.isnan(after):
        return not (math.isnan(before) and math.isnan(after))
    before, after = max(before, SMALLEST_ERROR), max(after, SMALLEST_ERROR)
    return not 1 / 1.5 < after / before < 1.5


def compare(sources: list[Path], wanted: list[str], rounds: int, seconds: float) -> list[tuple[str, ...]]:
    """Return a row for each benchmark: name, A, B, change, noise, verdict."""
    others = [name for name in wanted if "track_ratio_" not in name]
    ratios = [name for name in wanted if "track_ratio_" in name]
    rows = []
    if others:
        with Served(sources[0]) as before, Served(sources[1]) as after:
            values = {name: (before.ask(name), after.ask(name)) for name in others}
        for name, (a, b) in values.items():
            moved = None not in (a, b) and error_moved(a, b)
            verdict = "n/a" if None in (a, b) else "" if not moved else BETTER if b < a else WORSE
            rows.append((name, show(a), show(b), f"{b / a:.3g}x" if a and b is not None else "", "", verdict))
    first = rounds_of(sources, ratios, rounds, seconds) if ratios else {}
    doubtful = [name for name, (steps, *_) in first.items() if shift_and_noise(steps)[2]]
    again = rounds_of(sources, doubtful, rounds, seconds) if doubtful else {}
    for name in ratios:
        if name not in first:
            rows.append((name, "", "", "", "", "n/a"))
            continue
        both = [a + b for a, b in zip(first[name], again.get(name, ([], [], [])), strict=True)]
        shift, noise, _ = shift_and_noise(both[0])
        verdict = ""
        if name in doubtful:
            shifts = [shift_and_noise(found[name][0]) for found in (first, again)]
            if shifts[1][2] and shifts[0][0] * shifts[1][0] > 0:
                verdict = BETTER if shift < 0 else WORSE
        middle = [show(statistics.median(side)) for side in both[1:]]
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
    parser.add_argument("--seconds", type=float, default=0.7, help="for each ratio in each round, default 0.7")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error(f"got {options.rounds} rounds, need at least 3 to tell their noise")
    try:
        with contextlib.ExitStack() as stack:
            wanted = [name for name, *_ in names(options.bench)]
            if not wanted:
                raise Refused(f"nothing that is compared has {options.bench!r} in its name")
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
