"""What CONTRIBUTING.md tells to write for a new solver works word for word."""

import re
import sys
import types
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.mark.skipif(not PAGE.exists(), reason="only in a clone")
def test_a_solver_in_thirty_lines(monkeypatch):
    section = re.search(r"^## Add a solver in 30 lines\n(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    solver, test = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    body = solver.split("@dataclass")[1].strip().splitlines()
    assert len([line for line in body if line]) <= 30
    module = types.ModuleType("kernelfit.solvers.truncated")
    module.__package__ = "kernelfit.solvers"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(solver, "truncated.py", "exec"), module.__dict__)
    known = {}
    exec(compile(test, "test_truncated.py", "exec"), known)
    known["test_it_is_the_singular_values_cut_off"]()
