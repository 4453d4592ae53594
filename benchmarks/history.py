"""Draw the history that is kept, one panel a ratio: `python -m benchmarks.history` writes docs/history.png.

``python -m benchmarks.history --keep`` first copies what `asv run --machine NAME` found from .asv/results to
benchmarks/results, of the machines that are there. Each machine has a line of its own: other processors have other
ratios.
"""

import argparse
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parents[1]
KEPT, FOUND = (ROOT / folder for folder in ("benchmarks/results", ".asv/results"))
PICTURE = ROOT / "docs" / "history.png"


def version_of(commit: str) -> str:
    """Return the version at a commit, or the commit's name where git does not know it."""
    shown = ["git", "-C", str(ROOT), "show", f"{commit}:src/kernelfit/__init__.py"]
    done = subprocess.run(shown, capture_output=True, text=True)
    found = re.search(r'__version__ = "(.*)"', done.stdout)
    return found[1] if found else commit[:8]


def history(folder: Path) -> tuple[list[str], dict[str, dict[str, list[float | None]]]]:
    """Return the versions, oldest first, and for each ratio and its parameters the values, None where there is none."""
    runs = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.name != "machine.json"]
    runs = sorted((run for run in runs if run.get("results")), key=lambda run: run["date"])
    table: dict[str, dict[str, list[float | None]]] = {}
    for at, run in enumerate(runs):
        columns = run["result_columns"]
        for name, row in run["results"].items():
            if ".track_ratio_to_" not in name:
                continue
            known = dict(zip(columns, row, strict=False))
            values = known["result"] or []
            for value, given in zip(values, itertools.product(*known.get("params") or []), strict=False):
                line = table.setdefault(name, {}).setdefault(" ".join(p.strip("'") for p in given), [None] * len(runs))
                line[at] = value
    return [version_of(run["commit_hash"]) for run in runs], table


def draw(folders: list[Path], path: Path) -> None:
    """Draw the history of folders of results, those of a machine each."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    machines = [history(folder) for folder in folders]
    versions = [version for some, _ in machines for version in some]
    names = sorted({name for _, table in machines for name in table})
    rows = -(-len(names) // 3)
    figure, axes = pyplot.subplots(rows, 3, figsize=(14, 3.2 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names, strict=False):
        colours: dict[str, str] = {}
        start = 0
        for some, table in machines:
            for label, values in table.get(name, {}).items():
                known = [(start + at, value) for at, value in enumerate(values) if value is not None]
                colour, shown = colours.get(label), None if label in colours else label or None
                (line,) = axis.plot(*zip(*known, strict=True), "o-", ms=3, lw=1, label=shown, color=colour)
                colours[label] = line.get_color()
            start += len(some)
            if start < len(versions):
                axis.axvline(start - 0.5, color="gray", lw=1, ls=":")
        axis.set_xticks(range(len(versions)), versions, fontsize=7)
        axis.set_ylim(bottom=0)
        suite, owner, ratio = name.split(".")
        what = suite.removeprefix("bench_") if owner.startswith("RatioTo") else owner.lower()
        axis.set_title(f"{what}: times {ratio.partition('ratio_to_')[2]}", fontsize=9)
        if any(colours):
            axis.legend(fontsize=6)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Keep what was found, if that is asked for, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="copy the results of .asv/results first")
    parser.add_argument("--to", type=Path, default=PICTURE, help="the picture (default: docs/history.png)")
    args = parser.parse_args()
    if args.keep:
        for folder in KEPT.iterdir():
            for path in (FOUND / folder.name).glob("*-*.json"):
                shutil.copy(path, folder / path.name)
    draw(sorted(folder for folder in KEPT.iterdir() if folder.is_dir()), args.to)
    print(f"wrote {args.to}")


if __name__ == "__main__":
    main()
