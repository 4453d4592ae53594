"""Public calls with random valid and invalid arguments: documented errors alone, no warning, no wrong kernel."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_calls.py"
spec = importlib.util.spec_from_file_location("fuzz_calls", SCRIPT)
fuzz_calls = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_calls)


class Drawn:
    """Choices that hypothesis makes, and makes simpler where one fails."""

    def __init__(self, data):
        self.data = data

    def of(self, options):
        return options[self.number(0, len(options) - 1)]

    def number(self, low, high):
        return self.data.draw(st.integers(low, high))


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(fuzz_calls.VERBS))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_calls(verb, data):
    assert fuzz_calls.case(verb, Drawn(data)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 20_000])
def test_a_few_calls(first):
    assert fuzz_calls.run(60, first)[1] == []


@pytest.mark.parametrize("spoil, complaint", [
    (lambda fit: fit.kernel.__setitem__((0, 0), fit.kernel[0, 0] + 1e-3), "off by"),
    (lambda fit: fit.kernel.__setitem__((0, 0), float("nan")), "not finite"),
])  # fmt: skip
def test_a_wrong_kernel_is_noticed(monkeypatch, spoil, complaint):
    right = fuzz_calls.kf.find_kernel

    def spoilt(*args, **kwargs):
        fit = right(*args, **kwargs)
        spoil(fit)
        return fit

    monkeypatch.setattr(fuzz_calls.kf, "find_kernel", spoilt)
    assert any(complaint in line for line in fuzz_calls.run(80, 0, "find_kernel")[1])


def test_an_undocumented_error_is_noticed(monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("x")

    monkeypatch.setattr(fuzz_calls.kf, "apply_kernel", broken)
    assert "KeyError" in fuzz_calls.run(1, 0, "apply_kernel")[1][0]
