"""Rules of the code: which way imports run, docstrings, what is read from names.

Each rule is a function of a folder, so that a small tree of a test's own shows that it sees a breach.
"""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("rfnext", "tasks", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DISTRIBUTIONS = packages_distributions()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

ABOVE = (
    "_version dilation files lazy plots table",
    "ops",
    "convs acceleration causal plain_checkpoint",
    "structure ties",
    "search",
    "",
    "integrations cli",
    "__init__ __main__",
)
"""The parts of rfnext from the lowest on: one imports its own line and those before it. "" stands for all others, which
use searches and structures and which no search needs."""

HOOKS = re.compile(
    r"__\w+__|forward|backward|setup_context|extra_repr|[gs]et_extra_state"  # Python, torch
    r"|on_\w+|(training|validation|test|predict)_step|configure_optimizers|(load_)?state_dict|state_key"  # Lightning
    r"|train|set_epoch"  # torch: modules and samplers
    r"|(before|after)_\w+|transform|loss|predict|val|test|wrap_model|load_checkpoint"  # mmengine, mmdet
    r"|emit|visit_\w+|default"  # logging, ast, json
)
"""Methods that override those of a framework, where the framework says what they do."""

PARSERS = {"startswith", "endswith", "partition", "rpartition", "split", "rsplit", "removeprefix", "removesuffix"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), path)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of all modules of the three packages."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but for what stands under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and child in node.body:
            continue
        yield from executed(child)


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Absolute dotted names of everything that a file imports, wherever in the file, at the first call too."""
    package = path.relative_to(root).parent.parts
    for node in executed(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            # "from tasks import x" may import the module tasks.x.
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "LazyModule":
            yield from (name.value for name in node.args if isinstance(name, ast.Constant))


def dependencies(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of the three packages that it imports."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted = (imported if imported in known else imported.rpartition(".")[0] for imported in imports(path, root))
        found[name] = {module for module in wanted if module in known} - {name}
    return found


def layer(module: str) -> int:
    """Place of a module in ABOVE."""
    part = module.split(".")[1] if "." in module else "__init__"
    return next((i for i, parts in enumerate(ABOVE) if part in parts.split()), ABOVE.index(""))


def wrong_ways(root: Path) -> list[str]:
    """Imports against the order of the packages, of the parts of rfnext, or from one task into another."""
    found = []
    for name, imported in dependencies(root).items():
        owner, *inside = name.split(".")
        for other in sorted(imported):
            package, *rest = other.split(".")
            upwards = PACKAGES.index(package) > PACKAGES.index(owner)
            upwards |= owner == package == "rfnext" and layer(other) > layer(name)
            tasks = [parts[0] for parts in (inside, rest) if parts and (root / "tasks" / parts[0]).is_dir()]
            if upwards or (owner == package == "tasks" and len(set(tasks)) == 2):
                found.append(f"{name} imports {other}")
    return found


def circle(root: Path) -> list[str]:
    """The modules of one circle of imports; none if there is no circle."""
    try:
        graphlib.TopologicalSorter(dependencies(root)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def undocumented(root: Path) -> list[str]:
    """Public modules, classes, functions, methods and properties without a docstring.

    Not counted: what stands inside a function; overrides that a framework documents (HOOKS); setters and overloads.
    """

    def within(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
        if not ast.get_docstring(node) and node.body:
            yield name
        for inner in (part for statement in node.body for part in statements(statement)):
            if inner.name.startswith("_"):
                continue
            if isinstance(inner, ast.ClassDef):
                yield from within(inner, f"{name}.{inner.name}")
                continue
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in inner.decorator_list}
            override = isinstance(node, ast.ClassDef) and node.bases and HOOKS.fullmatch(inner.name)
            if not (ast.get_docstring(inner) or override or decorators & {"setter", "overload"}):
                yield f"{name}.{inner.name}"

    def statements(node: ast.stmt) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
        """Definitions, also those under if, try and with."""
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        else:
            below = (child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.excepthandler)))
            for child in below:
                yield from statements(child)  # type: ignore[arg-type]

    public = {name: path for name, path in modules(root).items() if not name.rpartition(".")[2].startswith("_")}
    return [missing for name, path in public.items() for missing in within(parse(path), name)]


def parsed_names(root: Path) -> list[str]:
    """Where benchmarks/ takes the name of a method or preset apart, or looks for a text in it.

    Seen are strings called `method` or `preset`, or the `name` of such; a variable `name` may be a layer's.
    """

    def inspected(node: ast.AST) -> ast.expr | None:
        """The text that an expression takes apart or searches."""
        match node:
            case ast.Call(func=ast.Attribute(value=text, attr=function)) if function in PARSERS:
                return text
            case ast.Compare(left=ast.Constant(), ops=[ast.In() | ast.NotIn(), *_], comparators=[text, *_]):
                return text

    def is_name(text: ast.expr | None) -> bool:
        match text:
            case ast.Attribute(value=owner, attr="name"):
                return is_name(owner)
            case ast.Attribute(attr=word) | ast.Name(id=word):
                return word in ("method", "preset")
        return False

    return [
        f"{path.relative_to(root).as_posix()}: {ast.unparse(node)}"
        for path in sorted((root / "benchmarks").rglob("*.py"))
        for node in ast.walk(parse(path))
        if is_name(inspected(node))
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Makes a folder of files, each package with its __init__.py."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
        return tmp_path

    return make


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_import_is_declared(path: Path):
    extras = PROJECT["optional-dependencies"].values()
    entries = [*PROJECT["dependencies"], *(entry for extra in extras for entry in extra)]
    declared = {canonicalize_name(Requirement(entry).name) for entry in entries}
    for imported in imports(path):
        module = imported.partition(".")[0]
        if module not in PACKAGES and module not in sys.stdlib_module_names:
            distributions = {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])}
            assert distributions & declared, f"{name_of(path)} imports {module}; add it to pyproject.toml"


def test_imports_run_one_way():
    assert wrong_ways(ROOT) == []


@pytest.mark.parametrize(
    ("files", "breach"),
    [
        ({"rfnext/conv.py": "from tasks.spec import Task", "tasks/spec.py": ""}, "rfnext.conv imports tasks.spec"),
        ({"tasks/spec.py": "import benchmarks.run", "benchmarks/run.py": ""}, "tasks.spec imports benchmarks.run"),
        ({"rfnext/ops/a.py": "from rfnext import conv", "rfnext/conv.py": ""}, "rfnext.ops.a imports rfnext.conv"),
        ({"rfnext/conv.py": "from rfnext import Structure"}, "rfnext.conv imports rfnext"),
        (
            {"rfnext/search/local.py": "def f():\n    import rfnext.merging", "rfnext/merging.py": ""},
            "rfnext.search.local imports rfnext.merging",
        ),
        (
            {"rfnext/planning.py": "from rfnext.integrations.wandb import x", "rfnext/integrations/wandb.py": ""},
            "rfnext.planning imports rfnext.integrations.wandb",
        ),
        (
            {"tasks/one/data.py": "from ..two import data", "tasks/two/data.py": ""},
            "tasks.one.data imports tasks.two.data",
        ),
        (
            {"tasks/one/task.py": 'fit = LazyModule("tasks.two.data")', "tasks/two/data.py": ""},
            "tasks.one.task imports tasks.two.data",
        ),
    ],
)
def test_an_import_the_other_way_is_seen(files: dict[str, str], breach: str, tree: Callable[[dict[str, str]], Path]):
    assert wrong_ways(tree(files)) == [breach]


def test_imports_that_run_one_way_are_fine(tree: Callable[[dict[str, str]], Path]):
    files = {
        "rfnext/__init__.py": "from rfnext.search.local import LocalSearch",
        "rfnext/dilation.py": "",
        "rfnext/ops/taps.py": "from rfnext.dilation import Dilation",
        "rfnext/search/local.py": (
            "from typing import TYPE_CHECKING\nfrom .. import dilation\nif TYPE_CHECKING:\n    import tasks.spec"
        ),
        "rfnext/merging.py": "from rfnext.search.local import LocalConfig",
        "tasks/spec.py": "from rfnext import LocalSearch",
        "tasks/one/data.py": "from tasks.one import task\nfrom tasks.spec import Task",
        "tasks/one/task.py": "",
        "benchmarks/run.py": "import tasks.spec, rfnext",
    }
    root = tree(files)
    assert wrong_ways(root) == []
    assert circle(root) == []


def test_no_circles_between_files():
    assert circle(ROOT) == []


def test_a_circle_is_seen(tree: Callable[[dict[str, str]], Path]):
    """Also if one of its imports stands in a function."""
    root = tree({"tasks/one/a.py": "from tasks.one.b import x", "tasks/one/b.py": "def f():\n    import tasks.one.a"})
    assert set(circle(root)) == {"tasks.one.a", "tasks.one.b"}


def test_public_names_have_docstrings():
    assert undocumented(ROOT) == []


def test_a_missing_docstring_is_seen(tree: Callable[[dict[str, str]], Path]):
    code = '''"""Module."""
class Documented(Base):
    """Class."""
    field: int = 0
    def method(self): ...
    @property
    def value(self): ...
    @value.setter
    def value(self, new): ...
    def forward(self): ...
    def on_train_start(self): ...
    def __len__(self): ...
    def _private(self): ...
class Bare:
    def forward(self): ...
class _Private:
    def method(self): ...
def function():
    """Function."""
    def nested(): ...
if True:
    def conditional(): ...
'''
    root = tree({"rfnext/conv.py": code, "tasks/spec.py": "x = 1", "benchmarks/_hidden.py": "x = 1"})
    inside = ["Documented.method", "Documented.value", "Bare", "Bare.forward", "conditional"]
    assert undocumented(root) == [*(f"rfnext.conv.{name}" for name in inside), "tasks.spec"]


def test_nothing_is_read_from_the_name_of_a_method_or_preset():
    assert parsed_names(ROOT) == []


@pytest.mark.parametrize(
    ("line", "is_breach"),
    [
        ('method.startswith("global")', True),
        ('cell.preset.partition("+")', True),
        ('method.name.split("_")', True),
        ('"global" in method.name', True),
        ('"+" not in preset', True),
        ('name.split(".")', False),
        ('method in ("baseline", "local_single")', False),
        ("method.search.label.split()", False),
    ],
)
def test_a_name_that_is_parsed_is_seen(line: str, is_breach: bool, tree: Callable[[dict[str, str]], Path]):
    assert bool(parsed_names(tree({"benchmarks/run.py": line}))) is is_breach


def test_importing_the_library_needs_torch_alone():
    script = """
import sys, torch
before = set(sys.modules)
from rfnext import *
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names - {"rfnext", "torch"}))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "rfnext")], ids=name_of)
def test_the_library_does_not_print(path: Path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    printing = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not printing, f"{name_of(path)} prints on lines {printing}; log instead"
