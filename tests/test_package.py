"""The package as a whole: what importing it costs, who may import whom, and what the docstrings promise."""

import ast
import dataclasses
import doctest
import enum
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kernelfit

ROOT = Path(kernelfit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ROOMS = {path.stem: path for path in FILES if path.stem != "__init__"}
PROMISED = {
    "find_kernel",
    "accumulate",
    "apply_kernel",
    "choose_method",
    "NormalStats",
    "KernelFit",
    "Verdict",
    "Finding",
    "Convention",
}
PUBLIC = set(kernelfit.__all__) - {"__version__"}
FUNCTIONS = sorted(name for name in PUBLIC if inspect.isfunction(getattr(kernelfit, name)))
CLASSES = sorted(name for name in PUBLIC if inspect.isclass(getattr(kernelfit, name)))


def test_no_two_rooms_have_one_name():
    assert len(ROOMS) == len([path for path in FILES if path.stem != "__init__"])
    assert not set(ROOMS) & {path.name for path in ROOT.iterdir() if path.is_dir()}


def test_public_names():
    assert PROMISED <= PUBLIC
    assert PUBLIC == set(FUNCTIONS) | set(CLASSES)
    assert re.fullmatch(r"\d+\.\d+.*", kernelfit.__version__)
    assert (ROOT / "py.typed").exists()


# ---- imports --------------------------------------------------------------------------------------------------------


def run(code, **environment):
    path = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-W", "error", "-c", code]
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def test_public_names_are_told_three_times_alike():
    """To the type checker, in the table of rooms, and by dir(); each comes from the room that the table says."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if is_type_checking(node))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == kernelfit._HOME
    assert set(kernelfit.__all__) == set(typed) <= set(dir(kernelfit))
    for name, room in typed.items():
        assert getattr(kernelfit, name) is getattr(sys.modules[f"kernelfit.{room}"], name)
    assert not set(typed) & {path.stem for path in FILES}, "a room would hide the name"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kernelfit.nothing  # noqa: B018


def test_importing_loads_nothing_heavy():
    code = "import sys, kernelfit; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = run(code)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "kernelfit" in loaded
    heavy = {"numba", "llvmlite", "pyfftw", "dask", "skimage", "matplotlib", "PIL", "tifffile"}
    assert not loaded & heavy
    assert not loaded & {"numpy", "scipy"}
    done = run("import kernelfit, sys; kernelfit.find_kernel; print(*{name.split('.')[0] for name in sys.modules})")
    assert done.returncode == 0 and not set(done.stdout.split()) & heavy


def test_saved_statistics_solve_without_the_engines(tmp_path):
    """Solving never sees a pixel: it must work where numba and pyfftw are not even installed."""
    rng = np.random.default_rng(1)
    stats = kernelfit.accumulate(*rng.normal(size=(2, 20, 31)), (3, 4))
    stats.save(tmp_path / "stats.npz")
    code = (
        "import sys; sys.modules['numba'] = sys.modules['pyfftw'] = None\n"
        "import kernelfit\n"
        f"print(kernelfit.NormalStats.load({str(tmp_path / 'stats.npz')!r}).solve().kernel.sum().hex())"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert float.fromhex(done.stdout) == pytest.approx(stats.solve().kernel.sum(), rel=1e-9)


def imports(path, *, top_level_only=False):
    """Every module that a file imports, as absolute dotted names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["kernelfit", *path.relative_to(ROOT).parent.parts]
    found = set()

    def visit(node):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if not (top_level_only and (later or is_type_checking(child))):
                visit(child)

    visit(tree)
    return found


def rooms_of(names):
    """The rooms of the package among dotted names."""
    return {part for name in names if name.startswith("kernelfit.") for part in name.split(".")[1:] if part in ROOMS}


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def importers_of(package):
    return {path.name for path in FILES if any(name.split(".")[0] == package for name in imports(path))}


def test_each_engine_has_one_importer():
    assert importers_of("numba") == {"jit.py"}
    assert importers_of("pyfftw") == {"_fft.py"}
    assert importers_of("dask") == {"scale.py"}


def test_no_import_is_hidden_in_a_string():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "__import__",
                "import_module",
                "importlib.import_module",
            ):
                text = ast.unparse(node)
                assert not re.search("numba|pyfftw|dask", text), f"{path.name}: {text}"


OPTIONAL = {  # package: the rooms that may ask for it, each by `require`, which names the extra
    "matplotlib": {"pictures.py", "plot.py", "report.py", "commands.py"},
    "PIL": {"io.py", "output.py"},
    "tifffile": {"io.py", "output.py", "kernel_files.py"},
    "astropy": {"scientific.py", "output.py", "kernel_files.py"},
    "h5py": {"scientific.py"},
    "zarr": {"scientific.py"},
    "skimage": {"demo.py"},
}


def test_optional_packages_are_asked_for_where_they_may_be():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for package, rooms in OPTIONAL.items():
            asked = re.search(rf'require\(\s*"{package}[."]', text) is not None
            assert not asked or path.name in rooms, f"{path.name} asks for {package}"
            assert not any(n.split(".")[0] == package for n in imports(path, top_level_only=True)), path.name


@pytest.mark.parametrize("room", ["psf", "psf_shape", "significance", "html", "verdict"])
def test_rooms_that_know_results_only(room):
    assert rooms_of(imports(ROOMS[room])) <= {"geometry", "result", "verdict", "psf_shape"}


def test_the_parser_imports_argparse_alone():
    seen = imports(ROOMS["cli"], top_level_only=True) | imports(ROOMS["options"])
    assert all(f"{name}.".startswith("kernelfit.cli.options.") for name in seen if name.startswith("kernelfit."))
    assert not seen & {"numpy", "scipy"}


ROOMS_WITHOUT_PIXELS = [
    "solve",
    "statistics",
    "result",
    "verdict",
    "packing",
    "spectra",
    "band",
    "toeplitz",
    "crop",
    "wiener",
    "background",
    "sandwich",
    "image_noise",
    "hyperparameters",
    "evidence",
]


@pytest.mark.parametrize("room", ROOMS_WITHOUT_PIXELS)
def test_rooms_that_never_see_a_pixel(room):
    forbidden = {
        "pair",
        "accumulation",
        "engines",
        "edges",
        "blocks",
        "find",
        "forward",
        "_loops",
        "_gram_loops",
        "_spectral_loops",
        "_fft",
    }
    assert not rooms_of(imports(ROOMS[room], top_level_only=True)) & forbidden


def test_the_forward_operator_shares_nothing_with_the_engines():
    """It is the independent check."""
    assert not rooms_of(imports(ROOMS["forward"])) & {
        "accumulation",
        "engines",
        "edges",
        "_fft",
        "find",
        "solve",
        "statistics",
    }


def test_engines_import_nothing_above_them():
    for room in ("_loops", "_gram_loops", "_weighted_loops", "_spectral_loops", "jit", "_fft", "geometry"):
        inside = rooms_of(imports(ROOMS[room]))
        assert not inside & {
            "find",
            "accumulation",
            "engines",
            "edges",
            "pair",
            "statistics",
            "solve",
            "result",
            "verdict",
            "forward",
            "cli",
        }, room


def test_no_room_at_module_level_goes_round_in_circles():
    names = {".".join(["kernelfit", *path.relative_to(ROOT).with_suffix("").parts]): path for path in ROOMS.values()}
    edges = {name: imports(path, top_level_only=True) & set(names) for name, path in names.items()}
    while leaves := [name for name, needs in edges.items() if not needs & set(edges)]:
        for name in leaves:
            del edges[name]
    assert not edges


def test_the_oracle_imports_numpy_only():
    tree = ast.parse((Path(__file__).parent / "naive.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names == {"types", "numpy"}


def test_nothing_prints_but_the_command_line():
    for path in FILES:
        if path.stem in ("cli", "commands", "__main__"):
            continue
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path.name


# ---- docstrings -----------------------------------------------------------------------------------------------------


def sections(text):
    """{title: body} of a numpy-style docstring."""
    pieces = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def documented(body):
    """The names that a Parameters or Attributes section describes."""
    names = []
    for line in body.splitlines():
        if line and not line[0].isspace():
            names += [name.strip().lstrip("*") for name in line.split(" : ")[0].split(",")]
    return names


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_parameters_are_the_real_ones(name):
    function = getattr(kernelfit, name)
    found = sections(function.__doc__ or "")
    assert documented(found.get("Parameters", "")) == parameters(function)
    assert found.get("Returns", "").strip(), "say what comes back"
    if "image" in parameters(function):
        assert found.get("Raises", "").strip(), "say what is refused"
    assert ">>>" in found.get("Examples", ""), "show one that runs"


@pytest.mark.parametrize("name", CLASSES)
def test_documented_attributes_are_the_real_ones(name):
    cls = getattr(kernelfit, name)
    assert cls.__doc__ and not cls.__doc__.startswith(f"{name}("), "not the one that dataclass makes up"
    if issubclass(cls, enum.Enum) or not dataclasses.is_dataclass(cls):
        return
    found = sections(cls.__doc__)
    described = documented(found.get("Parameters", "")) + documented(found.get("Attributes", ""))
    public = [field.name for field in dataclasses.fields(cls) if not field.name.startswith("_")]
    assert set(public) <= set(described)
    assert all(hasattr(cls, name) or name in public for name in described), "something is documented that is not there"


def public_methods():
    for name in CLASSES:
        for key, value in vars(getattr(kernelfit, name)).items():
            function = getattr(value, "__func__", value)
            if inspect.isfunction(function) and not key.startswith("_"):
                yield pytest.param(function, id=f"{name}.{key}")


@pytest.mark.parametrize("function", list(public_methods()))
def test_documented_parameters_of_methods_are_the_real_ones(function):
    assert function.__doc__ and function.__doc__.strip()
    if parameters(function):
        assert documented(sections(function.__doc__).get("Parameters", "")) == parameters(function)


def docstring_owners():
    for name in sorted(PUBLIC):
        yield pytest.param(getattr(kernelfit, name), name, id=name)


@pytest.mark.parametrize("owner, name", list(docstring_owners()))
def test_examples_run(owner, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may save files
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False)
    report = []
    for test in finder.find(owner, name, globs={"kernelfit": kernelfit, "np": np}):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize(
    "room", ["accumulation", "cholesky", "edges", "engines", "noise", "polyphase", "threads", "tiles", "weighted_pass"]
)
def test_rooms_on_the_way_of_every_fit_leave_blas_asleep(room):
    """Its threads would go on spinning into the next pass, and no test of a result would show it."""
    names = {"dot", "vdot", "inner", "matmul", "tensordot", "multi_dot"}
    for node in ast.walk(ast.parse(ROOMS[room].read_text(encoding="utf-8"))):
        product = isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult)
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
        assert not product and not called, f"{room}.py, line {node.lineno}: {ast.unparse(node)}"
