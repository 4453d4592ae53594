"""The package as a whole: who may import whom, what importing it costs, and what the docstrings promise."""

import ast
import dataclasses
import doctest
import enum
import functools
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import kernelfit

ROOT = Path(kernelfit.__file__).parent
REPOSITORY = Path(__file__).parents[1]
#: Every file by its dotted name, that of a package's __init__ being the package's.
MODULES = {
    ".".join(part for part in ("kernelfit", *path.relative_to(ROOT).with_suffix("").parts) if part != "__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
#: Lowest first: a file imports from its own layer and those before it.
LAYERS = (
    "compiled",
    "core",
    "data",
    "solvers",
    "engines",
    "diagnostics",
    "restoration",
    "analysis",
    "fitting",
    "imageio",
    "plotting",
    "api",
    "serve",
    "cli",
)
PUBLIC = set(kernelfit.__all__)
FUNCTIONS = sorted(name for name in PUBLIC if inspect.isfunction(getattr(kernelfit, name)))
CLASSES = sorted(name for name in PUBLIC if inspect.isclass(getattr(kernelfit, name)))
#: Functions of more than 14 parameters: the public doors.
WIDE = {
    "kernelfit.api.accumulate.accumulate",
    "kernelfit.api.dask.accumulate",
    "kernelfit.api.dask.find_kernel",
    "kernelfit.api.find.find_kernel",
    "kernelfit.api.kernel_map.kernel_map",
    "kernelfit.api.accumulate.accumulate_stream",
}


@functools.cache
def trees():
    """Return the syntax of every file."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def test_public_names():
    assert PUBLIC == set(FUNCTIONS) | set(CLASSES)
    assert {"find_kernel", "accumulate", "apply_kernel", "KernelFit", "NormalStats", "Verdict", "Finding"} <= PUBLIC
    assert re.fullmatch(r"\d+\.\d+.*", kernelfit.__version__)
    assert (ROOT / "py.typed").exists()


def test_public_names_are_told_three_times_alike():
    """To the type checker, in the table of modules, and by dir(); each comes from the module that the table says."""
    block = next(node for node in trees()["kernelfit"].body if is_type_checking(node))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == kernelfit._HOME
    assert set(kernelfit.__all__) == set(typed) <= set(dir(kernelfit))
    for name, module in typed.items():
        assert getattr(kernelfit, name) is getattr(sys.modules[f"kernelfit.{module}"], name)
    inside = {name.split(".")[1] for name in MODULES if name != "kernelfit"}
    assert not set(typed) & inside, "a module would hide the name"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kernelfit.nothing  # noqa: B018


# ---- imports --------------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One name that a file imports: the module, or the package's root where the name is defined there."""

    module: str
    name: str
    line: int
    deferred: bool

    @property
    def package(self):
        return self.module.split(".")[0]


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_in(tree, package):
    """Return all imports of a file, those inside functions too, but none that only the type checker sees."""
    found = []

    def visit(node, deferred):
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, "", node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                named = (inner, "") if inner in MODULES else (module, alias.name)
                found.append(Import(*named, node.lineno, deferred))
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                for other in child.orelse:
                    visit(other, deferred)
            else:
                visit(child, deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(tree, False)
    return found


def package_of(name):
    return (name if MODULES[name].stem == "__init__" else name.rpartition(".")[0]).split(".")


@functools.cache
def imports():
    """Return the imports of every file."""
    return {name: imports_in(tree, package_of(name)) for name, tree in trees().items()}


def layer_of(name):
    """Return the place of a module among the layers; the names at the package's root are above them all."""
    part = name.split(".")[1] if "." in name else ""
    return LAYERS.index(part) if part in LAYERS else len(LAYERS)


def goes_up(name, one):
    """Say whether a file imports from a layer above its own."""
    if one.package != "kernelfit" or one.name == "__version__":
        return False
    return (
        layer_of(one.module) > layer_of(name) and name.split(".")[1] != "cli"
    )  # the command line uses the public names


def test_every_file_stands_in_a_layer():
    at_the_root = {path.stem for path in ROOT.glob("*.py")}
    assert at_the_root == {"__init__", "__main__", *kernelfit._MODULES}
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(LAYERS)


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) < len(LAYERS)])
def test_a_file_imports_from_the_layers_below_its_own(name):
    """Inside functions, too."""
    assert not [f"line {one.line}: {one.module}" for one in imports()[name] if goes_up(name, one)]


def circles(edges):
    """Return what is left when files are taken away that import none of those left."""
    edges = {name: set(needs) - {name} for name, needs in edges.items()}
    while leaves := [name for name, needs in edges.items() if not needs & set(edges)]:
        for name in leaves:
            del edges[name]
    return sorted(edges)


def test_no_files_import_each_other_in_a_circle():
    assert not circles({name: {one.module for one in found} for name, found in imports().items()})


def test_the_walk_sees_imports_inside_functions():
    """What the two tests before this one rest on."""
    text = """
from typing import TYPE_CHECKING
from ..core import geometry
if TYPE_CHECKING:
    from ..api import find
def inner():
    from ..api.find import find_kernel
    class Local:
        from ..fitting import stream
"""
    found = imports_in(ast.parse(text), ["kernelfit", "data"])
    ours = [(one.module, one.deferred) for one in found if one.package == "kernelfit"]
    expected = [("kernelfit.core.geometry", False), ("kernelfit.api.find", True), ("kernelfit.fitting.stream", True)]
    assert ours == expected
    assert [goes_up("kernelfit.data.reader", one) for one in found] == [False, False, True, True]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]


def test_only_compiled_code_and_what_people_meet_is_imported_late():
    """Compiling takes seconds, drawing and files of every kind take other packages; nothing else has an excuse."""
    late_layers = {"compiled", "imageio", "plotting"}
    for name, found in imports().items():
        for one in found if layer_of(name) < LAYERS.index("api") else ():
            if one.deferred and one.package == "kernelfit" and one.name != "__version__":
                assert one.module.split(".")[1] in late_layers, f"{name}, line {one.line}: {one.module}"


@pytest.mark.parametrize("layer", ["core", "solvers"])
def test_what_solves_never_sees_a_pixel(layer):
    for name, found in imports().items():
        if name.startswith(f"kernelfit.{layer}."):
            seen = {one.module for one in found if one.module.startswith(("kernelfit.data", "kernelfit.engines"))}
            assert not seen, name


def test_the_forward_operator_shares_nothing_with_the_engines():
    """It is the independent check; its columns and rows are a loop of its own."""
    ours = {one.module for one in imports()["kernelfit.engines.forward"] if one.package == "kernelfit"}
    users = [name for name, found in imports().items() if "kernelfit.compiled.separable" in {i.module for i in found}]
    assert users == ["kernelfit.engines.forward"]
    ours.discard("kernelfit.compiled.separable")
    assert not [
        name for name in ours if name.startswith(("kernelfit.engines", "kernelfit.compiled", "kernelfit.solvers"))
    ]


def importers_of(package):
    using = [name for name, found in imports().items() if package in {i.package for i in found}]
    return {name.removeprefix("kernelfit.") for name in using}


def test_each_engine_has_one_importer():
    assert importers_of("numba") == importers_of("llvmlite") == {"compiled.jit"}
    assert importers_of("pyfftw") == {"compiled.fft"}
    assert importers_of("dask") == {"fitting.dask_sources", "fitting.dask_tasks"}
    assert importers_of("threadpoolctl") == {"compiled.threads"}


OPTIONAL = {  # package: the layers that may ask for it, each by `require`, which names the extra
    "matplotlib": {"plotting", "cli"},
    "PIL": {"imageio"},
    "tifffile": {"imageio"},
    "imagecodecs": {"imageio"},
    "shtab": {"cli"},
    "astropy": {"imageio"},
    "h5py": {"imageio"},
    "zarr": {"imageio"},
    "skimage": {"cli"},
}


def test_optional_packages_are_asked_for_where_they_may_be():
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        for package, layers in OPTIONAL.items():
            wanted = re.search(rf'require\(\s*"{package}[."]', text) is not None
            assert not wanted or name.split(".")[1] in layers, f"{name} asks for {package}"
            assert package not in {one.package for one in imports()[name]}, f"{name} imports {package}"


def test_no_import_is_hidden_in_a_string():
    hidden = ("__import__", "import_module", "importlib.import_module")
    for name, tree in trees().items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in hidden]
        assert not calls or name in ("kernelfit", "kernelfit.imageio.planes", "kernelfit.data.zarr_local"), name


def run(code, **environment):
    path = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-W", "error", "-c", code]
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def test_importing_loads_nothing_heavy():
    told = "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = run(f"import sys, kernelfit; {told}")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "kernelfit" in loaded
    heavy = {"numba", "llvmlite", "pyfftw", "dask", "skimage", "matplotlib", "PIL", "tifffile", "threadpoolctl"}
    assert not loaded & heavy
    assert not loaded & {"numpy", "scipy"}
    done = run(f"import sys, kernelfit; kernelfit.find_kernel; {told}")
    assert done.returncode == 0 and not set(done.stdout.split()) & heavy


def test_the_parser_imports_argparse_alone():
    """So that --help is quick."""
    at_once = {one.module for one in imports()["kernelfit.cli.parser"] if not one.deferred}
    light = {"kernelfit.cli.options", "kernelfit.cli.pair_parsers"}
    at_once |= {one.module for name in light for one in imports()[name]}
    assert {name for name in at_once if name.startswith("kernelfit")} == light
    assert not {name.split(".")[0] for name in at_once} & {"numpy", "scipy"}


def test_the_commands_import_no_part_of_scipy_that_they_may_not_need():
    """Each of them takes as long as a small fit, some ten times as long."""
    done = run("import sys, kernelfit.cli.commands; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "kernelfit.fitting.subtraction" in loaded and "scipy.linalg" in loaded
    assert not loaded & {f"scipy.{part}" for part in "signal stats ndimage optimize interpolate io sparse".split()}


def test_a_fit_imports_no_part_of_scipy_for_one_convolution():
    """Half a second, if only in a process that tells a kernel of 8 bits whose noise is correlated from priors."""
    done = run(
        "import sys, numpy as np, kernelfit\n"
        "image = np.random.default_rng(0).uniform(40, 200, (120, 90))\n"
        "target = kernelfit.apply_kernel(image, [[0.5, 0.5]])\n"
        "pair = [np.rint(one).astype(np.uint8) for one in (image, target)]\n"
        "fit = kernelfit.find_kernel(*pair, (5, 4), solver='auto')\n"
        "kernelfit.find_kernel(*pair).summary()\n"
        "print(fit.errors, fit.verdict.name, *sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "sandwich" in loaded and not loaded & {"scipy.signal", "scipy.stats", "scipy.ndimage", "scipy.interpolate"}


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


def test_the_oracle_imports_numpy_only():
    tree = ast.parse((Path(__file__).parent / "naive.py").read_text(encoding="utf-8"))
    assert {one.package for one in imports_in(tree, [])} == {"types", "numpy"}


# ---- habits ---------------------------------------------------------------------------------------------------------


def test_nothing_prints_but_the_command_line():
    for name, tree in trees().items():
        if not name.startswith("kernelfit.cli"):
            calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
            assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), name


def test_functions_of_many_parameters_are_the_public_doors():
    wide = set()
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = node.args
                if len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) > 14:
                    wide.add(f"{name}.{node.name}")
    assert wide <= WIDE


ON_THE_WAY = [
    "data.polyphase",
    "engines.accumulation",
    "engines.edge_correction",
    "engines.passes",
    "engines.small_tiles",
    "engines.weighted_pass",
    "solvers.cholesky",
]


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_what_every_fit_passes_through_leaves_blas_asleep(name):
    """These work in threads of their own; BLAS has one, whose products differ between machines besides."""
    names = {"dot", "vdot", "inner", "matmul", "tensordot", "multi_dot"}
    for node in ast.walk(trees()[f"kernelfit.{name}"]):
        product = isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult)
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
        assert not product and not called, f"{name}, line {node.lineno}: {ast.unparse(node)}"


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
    told, real = documented(found.get("Parameters", "")), parameters(function)
    if "keywords" in told:  # the flat ones, which stand in the signature one by one
        told.remove("keywords")
        assert sorted(documented(found["Other Parameters"])) == sorted(real[len(told) :])
        real = real[: len(told)]
    assert told == real
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
    if parameters(function) == ["stats"]:  # a solver's, whose settings its class describes
        assert function.__name__ == "solve"
    elif parameters(function):
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


def test_what_stands_elsewhere_is_what_stands_here():
    """The version in CITATION.cff, the dependencies of the conda recipe."""
    cited = re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(), re.M)[1]
    assert cited == kernelfit.__version__
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    recipe = (REPOSITORY / ".conda" / "meta.yaml").read_text()
    run = re.search(r"  run:\n((?:    - .+\n)+)", recipe)[1]
    needs = {line.removeprefix("    - ").replace(" ", "") for line in run.splitlines()}
    assert needs == {*project["dependencies"], f"python{project['requires-python']}"}
    extras = {one.replace("-base", "").strip("- ").replace(" ", "") for one in
              re.search(r"run_constrained:\n((?:    - .+\n)+)", recipe)[1].splitlines()}  # fmt: skip
    offered = {one for extra in project["optional-dependencies"].values() for one in extra}
    assert extras <= offered
