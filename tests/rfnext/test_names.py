"""The public names of `rfnext`, which are imported at their first use."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rfnext

LIGHT = "Bounds Dilation LocalConfig Rule expectation neighbours"
"""Names that need no torch."""


def run(script: str) -> str:
    """What a new process prints: of this one, tests have imported everything."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", script], cwd=root, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_names_are_what_type_checkers_are_told() -> None:
    """They read the imports under TYPE_CHECKING, which never run."""
    tree = ast.parse(Path(rfnext.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {"__version__"}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if node.module == "rfnext":
                home = importlib.import_module(f"rfnext.{alias.name}")
            else:
                home = getattr(importlib.import_module(node.module or ""), alias.name)
            assert getattr(rfnext, alias.name) is home
            told.add(alias.name)
    assert told == set(rfnext.__all__) <= set(dir(rfnext))


def test_no_module_is_called_as_a_name() -> None:
    """`import rfnext.merge` would set rfnext.merge to the module, and rfnext.merge(model) would fail from then on."""
    modules = {module.name for module in pkgutil.iter_modules(rfnext.__path__)}
    assert modules & set(rfnext.__all__) == {"description", "receptive_field"}


def test_all_names_are_there_in_a_new_process() -> None:
    script = "from rfnext import *\nimport rfnext\nprint(*[name for name in rfnext.__all__ if name not in globals()])"
    assert run(script).split() == []


def test_settings_need_no_torch() -> None:
    script = f"import sys\nfrom rfnext import {', '.join(LIGHT.split())}\nprint('torch' in sys.modules)"
    assert run(script).split() == ["False"]


@pytest.mark.parametrize("command", ["--help", "--version", "plan --help", "completion bash"])
def test_a_command_that_needs_no_torch_does_not_import_it(command: str) -> None:
    script = f"""
import sys
from rfnext.cli.main import main
try:
    main({command.split()!r})
except SystemExit as end:
    assert not end.code
print("torch" in sys.modules)
"""
    assert run(script).split()[-1] == "False"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LocalSerch'"):
        _ = rfnext.LocalSerch  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="LocalSerch"):
        from rfnext import LocalSerch  # type: ignore[attr-defined]  # noqa: F401
