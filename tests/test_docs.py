"""The pages agree with the package: public names, verdicts, what goes with what, links."""

import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest

import kernelfit
from kernelfit.cli.parser import main
from kernelfit.fitting import requirements
from kernelfit.plotting import text as pages

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def section(page, heading):
    """Return the text below a heading, up to the next."""
    return re.split(r"^#+ ", page.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.M)[0]


def anchors(page):
    """Return what links may name of a page: its headings, as MyST and GitHub spell them."""
    headings = re.findall(r"^#+ (.*)$", page, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_page_has_the_table_of_what_goes_with_what():
    table = requirements.table()
    assert f"\n\n{table}\n\n" in section(read("docs/choosing.md"), "What goes with what"), f"paste this:\n{table}"


def test_table_has_every_rule():
    table = requirements.table()
    assert len({(rule.reason, rule.remedy) for rule in requirements.RULES}) == len(table.splitlines()) - 2
    cells = table.replace("`", "")
    for rule in requirements.RULES:
        rows = [row for row in cells.splitlines() if f"| {rule.reason} |" in row]
        assert any(all(requirements._WORDS[name] in row for name in rule.features) for row in rows), rule


def test_every_verdict_has_a_section_that_is_shown(capsys):
    names = [verdict.name for verdict in kernelfit.Verdict]
    assert list(pages.sections("verdicts")) == names  # the worst first, as they are ranked
    told = pages.explain("not-converged")
    assert told.startswith("## NOT_CONVERGED\n\nThe iterations ended") and "larger `tolerance`" in told
    told = pages.explain("misaligned")
    assert "## 1. The same scene, pixel on pixel" in told and "## 2." not in told
    for name in names:
        text = pages.filled(pages.explain(name), 70)
        prose = re.sub(r"```.*?```", "", text, flags=re.S).splitlines()
        assert "](" not in text and all(len(line) <= 70 for line in prose if not line.startswith("|")), name
    assert main(["explain", "coloured_noise", "tap"]) == 0
    said = capsys.readouterr().out
    assert "sandwich" in said and "alike in neighbouring pixels" in said and "tap: One number of the kernel." in said
    assert main(["explain", "nothing"]) == 2
    assert "misaligned" in capsys.readouterr().err


def test_results_and_errors_lead_to_the_pages():
    rng = np.random.default_rng(0)
    image = rng.random((40, 53))
    fit = kernelfit.find_kernel(image, rng.random((40, 53)), (3, 5))
    words = fit.summary().rpartition("more        kernelfit explain ")[2].splitlines()[0].split()
    assert words == [finding.verdict.name.lower() for finding in fit.findings] and words
    assert "kernelfit explain" not in kernelfit.find_kernel(image, image, (1, 3)).summary()
    assert "explain poor_fit" in kernelfit.kernel_map(image, rng.random((40, 53)), (1, 3), (1, 2)).summary()
    for target in (np.full_like(image, np.nan), image[:, 1:-8]):
        with pytest.raises(ValueError, match="kernelfit explain prepare"):
            kernelfit.find_kernel(image, target, (3, 5))


def test_the_wheel_holds_the_pages_that_are_shown():
    held = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert held == {f"docs/{name}.md": f"kernelfit/pages/{name}.md" for name in pages.NAMES}


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"^    ([\w.]+)$", read("docs/reference.md"), re.M)
    assert len(set(listed)) == len(listed)
    assert not set(kernelfit.__all__) - set(listed)
    for name in listed:
        found = kernelfit
        for part in name.split("."):
            found = getattr(found, part)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if "://" in target or name.removeprefix("../").startswith("gallery/"):  # the gallery is made with the pages
            continue
        page = path.parent / name if name else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


def test_commands_of_the_readme_stand_on_lines_of_their_own():
    lines = read("README.md").splitlines()
    assert "pip install '.[cli]' && kernelfit demo" in lines
    assert "pip install -e '.[test]' && pytest" in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needed"),
    [("containers", ("xarray", "astropy", "pandas", "sklearn")), ("coming-from", ("photutils", "skimage"))],
)
def test_examples_of_the_pages_run(name, needed):
    for package in needed:
        pytest.importorskip(package)
    found = doctest.testfile(str(ROOT / "docs" / f"{name}.md"), module_relative=False)
    assert found.attempted > 5 and not found.failed


SCALE = """
import concurrent.futures, functools, operator
import dask, joblib, numpy, zarr
import kernelfit

def check(found):
    assert abs(found.gram - expected.gram).max() < 1e-12 * expected.gram.max() and found.n_pixels == expected.n_pixels

if __name__ == "__main__":
    rng, taps = numpy.random.default_rng(0), numpy.outer(numpy.hanning(9), numpy.hanning(7)) / 12
    images = [rng.integers(0, 4000, (90, 111)).astype("u2") for _ in range(3)]
    targets = [kernelfit.apply_kernel(one, taps) + rng.normal(0, 20, one.shape) for one in images]
    for name, array in (("image", images[0]), ("target", targets[0])):
        zarr.create_array(f"{name}.zarr", data=array, chunks=(40, 33))
    expected = kernelfit.accumulate(images, targets, 15)
"""


@pytest.mark.slow
def test_programs_of_the_page_on_scale_run(tmp_path):
    for package in ("zarr", "dask", "joblib", "fsspec"):
        pytest.importorskip(package)
    stream, engines, remote = re.findall(r"^```python\n(.*?)^```", read("docs/scaling.md"), flags=re.S | re.M)
    function, engines = engines.split("\n\n\n")  # which other processes have to find, too
    lines = []
    for line in engines.splitlines():
        if "ray." not in line and "context." not in line:  # these have tests of their own
            blank = line[: len(line) - len(line.lstrip())]
            lines += [line, f"{blank}check(stats)"] if line.lstrip().startswith("stats =") else [line]
    assert lines.count("check(stats)") >= 3
    remote = remote.replace("https://example.org", f"file://{tmp_path}")
    whole = "\n".join([stream, 'assert fit.verdict.name == "SOLVED"', *lines, remote, "print(fit.verdict.name)"])
    (tmp_path / "program.py").write_text(
        SCALE.replace("def check", f"{function}\n\ndef check") + textwrap.indent(whole, "    "), encoding="utf-8"
    )
    path = os.pathsep.join([str(Path(kernelfit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "SOLVED\n"), done.stderr
    assert (tmp_path / "sums.npz").exists()


def test_public_data_are_asked_for_in_words(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("public", ROOT / "benchmarks" / "public.py")
    public = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(public)
    assert public.main([str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in public.TABLES) and "need at least one of" in told


def test_the_kept_history_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("history", ROOT / "benchmarks" / "history.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names, columns = ["1", "2"], ["result", "params"]
    for number, value in ((1, 2.0), (2, None)):
        results = {
            "bench_find.RatioToFft.track_ratio_to_fft": [[value, 3.0 * number], [["'3x5'", "'5x3'"]]],
            "bench_find.Find.track_kernel_error": [[1.0], []],
        }
        run = {"commit_hash": names[number - 1], "date": number, "result_columns": columns, "results": results}
        (tmp_path / f"{number}.json").write_text(json.dumps(run))
    (tmp_path / "machine.json").write_text("{}")
    versions, table = module.history(tmp_path)
    assert versions == names
    assert table == {"bench_find.RatioToFft.track_ratio_to_fft": {"3x5": [2.0, None], "5x3": [3.0, 6.0]}}
    module.draw([tmp_path, tmp_path], tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 5000
