"""The command `new-task`: a folder of the benchmark's `tasks/`, from the example that its README shows."""

import re
from argparse import Namespace
from pathlib import Path

from rfnext import files

_EXAMPLE = "two_tones"


def run_new_task(given: Namespace) -> str:
    """Write tasks/NAME/task.py; raises ValueError if the name or the folder does not fit."""
    name, readme = given.name, Path("tasks") / "README.md"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name of a task: it is a folder and a module, made of a-z, 0-9 and _")
    if not readme.is_file():
        raise ValueError(f"there is no {readme} in {Path.cwd()}; run this in the root of the RF-Next repository")
    folder = Path("tasks") / name
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another name")
    found = re.findall(r"```python\n(.*?TASK = Task\(.*?)```", files.read_text(readme), re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"{readme} shows {len(found)} complete tasks, not one; restore it")
    folder.mkdir()
    files.write_text(folder / "task.py", found[0].replace(f'"{_EXAMPLE}"', f'"{name}"'))
    return (
        f"{folder / 'task.py'} is written; it is complete, and yours to change\n"
        f"python -m pytest tests/tasks/test_contract.py -k {name}    # the rules that every task keeps\n"
        f"python -m benchmarks.run {name} local_single              # one cell"
    )
