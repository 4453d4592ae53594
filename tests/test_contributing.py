"""What CONTRIBUTING.md tells to write for a new solver or a new engine works word for word."""

import json
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

from kernelfit.core.model import ENGINES
from kernelfit.engines import passes

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="only in a clone")


def programs(title, name, monkeypatch):
    """Import the file that a section tells to write as a module of the package, and return its text and its test."""
    section = re.search(rf"^## {title}\n(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    file, test = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(file, name, "exec"), module.__dict__)
    known = {}
    exec(compile(test, "test", "exec"), known)
    return file, known


def lines(text):
    return len([line for line in text.strip().splitlines() if line])


def test_a_solver_in_thirty_lines(monkeypatch):
    file, test = programs("Add a solver in 30 lines", "kernelfit.solvers.truncated", monkeypatch)
    assert lines(file.split("@dataclass")[1]) <= 30
    test["test_it_is_the_singular_values_cut_off"]()


def test_an_engine_in_thirty_lines(monkeypatch):
    monkeypatch.setitem(passes.PASSES, "slices", None)
    known = list(ENGINES)
    try:
        file, test = programs("Add an engine in 30 lines", "kernelfit.engines.slices", monkeypatch)
        assert lines(file.split("@register")[1]) <= 30
        test["test_it_gives_what_fft_gives"]()
    finally:
        ENGINES[:] = known


@pytest.mark.parametrize("path", ["asv.conf.json", "benchmarks/asv.long.json"])
def test_the_environments_of_benchmarks_hold_all_dependencies(path):
    text = "\n".join(line for line in (ROOT / path).read_text().splitlines() if not line.lstrip().startswith("//"))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(json.loads(text)["matrix"]["req"]) == {re.split("[<>=]", name)[0] for name in needed}


def test_the_page_of_benchmarks_names_every_script():
    page = (ROOT / "benchmarks" / "README.md").read_text()
    scripts = [p for p in sorted((ROOT / "benchmarks").rglob("*.py")) if p.name not in ("__init__.py", "common.py")]
    assert len(scripts) > 30
    missing = [str(p.relative_to(ROOT)) for p in scripts if f"{p.name}`" not in page]
    assert not missing, missing
