"""What a checkpoint's "meta" says of its training, and whether a structure file belongs to it.

The weights alone do not tell: files of two steps of one search fit the same tensors, as other functions. mmcv and
mmengine keep the text of the config and the number of the epoch. The text is parsed, never executed.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from rfnext.published.structure_file import StructureFile

LONGEST = 2**20
"""Characters of the longest config; those of mmdet have ten thousand."""

_MODES = ("search", "fixed_single_branch", "fixed_multi_branch")
_SETTINGS = (("num_branches", "S"), ("exp_rate",), ("mmin",), ("mmax",))


def check_training(meta: Mapping[str, Any], file: StructureFile, branched: bool) -> None:
    """Raise ValueError if "meta" shows that the checkpoint is of no search, or of another structure or settings.

    Args:
        meta: of the checkpoint. Where it lacks the config or the epoch, nothing is checked.
        file: the structure file.
        branched: whether the checkpoint has branches, so that the file's settings count.
    """
    text = meta.get("config", meta.get("cfg"))
    if not isinstance(text, str) or not text.strip():
        return
    if len(text) > LONGEST:
        raise ValueError(f"the config in its meta has more than {LONGEST} characters; fetch the file again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # of backslashes in its strings, before Python 3.12
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    hooks = list(_hooks(tree))
    if not hooks:
        raise ValueError(
            "the config in its meta has no search, so this is the checkpoint of a network as designed; load it without "
            "a structure file, by model.load_state_dict"
        )
    settings = _merged([hook["config"]["search"] for hook in hooks])
    if branched:
        _check_settings(settings, file)
    mode = next(hook["mode"] for hook in hooks)
    if mode == "search":
        by_epoch = all(hook.get("by_epoch", True) is True for hook in hooks)
        _check_step(meta, settings, file, by_epoch, _is_resumed(tree))
    else:
        _check_name(next((hook["rfstructure_file"] for hook in hooks if hook.get("rfstructure_file")), None), file)


def _hooks(tree: ast.AST) -> Iterator[dict[str, Any]]:
    """The settings of the search's hook, in whichever dicts of the config they stand."""
    for node in ast.walk(tree):
        found = _value(node) if isinstance(node, (ast.Call, ast.Dict)) else None
        if isinstance(found, dict) and found.get("mode") in _MODES:
            config = found.get("config")
            if isinstance(config, dict) and isinstance(config.get("search"), dict):
                yield found


def _value(node: ast.AST) -> Any:
    """The value of a literal or of dict(name=literal); None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = [(_value(key), _value(value)) for key, value in zip(node.keys, node.values, strict=True) if key]
        return {key: value for key, value in pairs if isinstance(key, str)}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _merged(settings: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for part in settings for name, value in part.items()}


def _is_resumed(tree: ast.Module) -> bool:
    """Whether the training went on from a checkpoint: its hook counted from the start again."""
    return any(
        isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id in ("resume_from", "resume") for target in node.targets)
        and _value(node.value) not in (None, False)
        for node in tree.body
    )


def _check_settings(settings: Mapping[str, Any], file: StructureFile) -> None:
    for names in _SETTINGS:
        trained, given = (next((s[n] for n in names if n in s), None) for s in (settings, file.settings))
        if None not in (trained, given) and trained != given:
            raise ValueError(
                f"it was searched with {names[0]}={trained!r}, and {file.path} is of a search with {given!r}; give the "
                "structure file of the same search"
            )


def _check_step(
    meta: Mapping[str, Any], settings: Mapping[str, Any], file: StructureFile, by_epoch: bool, resumed: bool
) -> None:
    names = ("max_step", "search_interval", "step")
    numbers = [meta.get("epoch" if by_epoch else "iter"), file.step, *(settings.get(name) for name in names)]
    integers = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
    if len(integers) < len(numbers) or integers[3] < 1:
        return
    count, step, end, interval, start = integers
    # The hook may run after the checkpoint of the same step was saved; mmengine counts iterations from 0 or from 1.
    around = (count - 1, count) if by_epoch else (count - 1, count, count + 1)
    newest = {min(start + c, end - 1) // interval * interval for c in around}
    if step > max(newest) or (step < min(newest) and not resumed):
        unit = "epoch" if by_epoch else "iteration"
        raise ValueError(
            f"it was saved at {unit} {count} of a search, with the structure of step {max(newest)}, and {file.path} is "
            f"of step {step}; give local_search_config_step{max(newest)}.json of that search"
        )


def _check_name(recorded: Any, file: StructureFile) -> None:
    """Compare the step in the name of the file that the training was given."""
    step = re.search(r"step(\d{1,18})\D*$", PurePath(recorded).name) if isinstance(recorded, str) else None
    if step and file.step is not None and int(step[1]) != file.step:
        raise ValueError(f"it was trained with {recorded}, and {file.path} is of step {file.step}; give that file")
