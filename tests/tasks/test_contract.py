"""What every task must offer the methods, the runner and the tables: tests every folder that `tasks.names()` finds."""

import copy
import dataclasses
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from benchmarks.receptive_fields import measure
from benchmarks.records.identity import identify
from benchmarks.records.protocol import protocol
from rfnext import LocalConfig, LocalSearch, Structure
from rfnext.convs.searchable import is_conv
from tasks import checkpoint
from tasks.spec import SELECTED, Metric, Run, Split, Task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=tasks.names())
def task(request):
    return tasks.load(request.param)


@pytest.fixture(scope="module")
def tiny(task):
    """The preset "tiny", shortened to one epoch."""
    config = dataclasses.replace(task.presets["tiny"], epochs=1)
    if reason := task.unavailable(config):
        pytest.skip(f"{task.name}: {reason}")
    return config


@pytest.fixture(scope="module")
def fold(task, tiny):
    return task.folds(tiny)[0]


def build(task, config):
    torch.manual_seed(0)
    return task.build(config)


def fit(task, config, fold, folder, searching=False):
    """A network trained for one epoch, and its search."""
    model = build(task, config)
    search = LocalSearch(model, config.search, task.where) if searching else None
    folder.mkdir()
    task.fit(model, config, Run(seed=0, fold=fold, folder=folder, search=search, device="cpu"))
    return model, search


@pytest.fixture(scope="module")
def trained(task, tiny, fold, tmp_path_factory):
    folder = tmp_path_factory.mktemp(task.name) / "run"
    model, _ = fit(task, tiny, fold, folder)
    return model, folder


def has_own_data(task):
    return "root" in {part.name for part in dataclasses.fields(task.presets["tiny"])}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class TestContract:
    def test_a_folder_of_ones_own_is_used_or_refused(self, task, tmp_path):
        """It was passed over where the preset has embedded data: a user trained on that instead."""
        if not has_own_data(task):
            return
        try:
            config = dataclasses.replace(task.presets["tiny"], root=tmp_path / "mine")
        except ValueError as error:
            said = str(error)
        else:
            said = ""
        if said:
            assert "root" in said
            return
        files = task.data_files(config)
        assert files is not None
        assert files.own
        assert files.root.is_relative_to(tmp_path / "mine")

    def test_a_folder_that_leads_to_itself_is_missing(self, task, tmp_path):
        """`Path.resolve` raises RuntimeError for it, which no command expects."""
        if not has_own_data(task):
            return
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        config = dataclasses.replace(task.presets["folder"], root=loop)
        assert task.unavailable(config)
        assert "loop" in task.data_label(config)
        assert identify(task, config) is None

    def test_value(self, task):
        assert isinstance(task, Task)
        assert task.version >= 1
        assert task.metrics
        assert all(isinstance(metric, Metric) for metric in task.metrics)
        names = [metric.name for metric in task.metrics]
        assert len(set(names)) == len(names)

    def test_presets(self, task):
        assert "tiny" in task.presets
        for name, config in task.presets.items():
            assert dataclasses.is_dataclass(config), name
            with pytest.raises(dataclasses.FrozenInstanceError):
                config.epochs = 3
            assert type(config)() is not None, "every field needs a default, or the command line cannot override one"
            assert config.epochs >= 1
            assert isinstance(config.search, LocalConfig)

    def test_suites_name_presets(self, task):
        for suite, names in task.suites.items():
            assert suite not in task.presets or suite in names, "a suite may have the name of a preset that it holds"
            assert names
            assert set(names) <= task.presets.keys()

    def test_names_fit_into_file_names(self, task):
        for name in (*task.presets, *task.suites):
            assert re.fullmatch(r"[a-z0-9_.-]+", name), name

    def test_presets_have_a_protocol(self, task):
        seen = {name: json.dumps(protocol(task, config, {})) for name, config in task.presets.items()}
        assert len(set(seen.values())) == len(seen), "two presets are the same"
        for text in seen.values():
            assert str(Path.home()) not in text, "a path of this machine is in the protocol; see metadata in spec.py"

    def test_answers_without_data(self, task, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        for name, config in task.presets.items():
            folds = task.folds(config)
            assert folds, name
            assert len(set(folds)) == len(folds)
            assert task.data_label(config)
            if task.data_files is not None and (files := task.data_files(config)) is not None:
                assert all(path.is_relative_to(files.root) for path in (*files.labels, *files.inputs))
                assert not files.root.is_relative_to(tmp_path) or identify(task, config) is None
            published, reason = task.published(config), task.unavailable(config)
            assert published is None or published.startswith(f"{task.name}.")
            assert reason is None or len(reason) > 20, f"{name}: say what to download and where to put it"
        assert task.published(task.presets["tiny"]) is None

    def test_data_that_comes_with_the_code_needs_no_fingerprint(self, task):
        assert identify(task, task.presets["tiny"]) is None, "its records would not be those that are committed"

    def test_builds_the_same_network_from_the_same_seed(self, task, tiny):
        assert_equal(weights(build(task, tiny)), weights(build(task, tiny)))

    def test_has_something_to_search(self, task, tiny):
        model = build(task, tiny)
        structure = Structure.read(model, task.where)
        assert len(structure) >= 1
        LocalSearch(model, tiny.search, task.where)
        structure.apply(model)
        assert Structure.read(model, task.where) == structure

    def test_trains(self, task, tiny, trained):
        model, _ = trained
        before, after = weights(build(task, tiny)), weights(model)
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)

    def test_trains_the_same_from_the_same_seed(self, task, tiny, fold, trained, tmp_path):
        torch.randn(7)  # fit must not depend on what was drawn before
        again, _ = fit(task, tiny, fold, tmp_path / "again")
        assert_equal(weights(again), weights(trained[0]))

    def test_selected_weights_load(self, task, tiny, trained):
        _, folder = trained
        if (folder / SELECTED).exists():
            checkpoint.load_weights(build(task, tiny), folder / SELECTED)

    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_evaluates(self, task, tiny, fold, trained, part):
        model = copy.deepcopy(trained[0])
        for mode in (True, False):
            model.train(mode)
            before = weights(model)
            scores = task.evaluate(model, tiny, Split(part, fold))
            assert set(scores) == {metric.name for metric in task.metrics_of(tiny)}
            assert all(type(value) is float and math.isfinite(value) for value in scores.values())
            assert model.training is mode
            assert_equal(before, weights(model))
        assert task.evaluate(model, tiny, Split(part, fold)) == scores

    def test_evaluates_in_evaluation_mode(self, task, tiny, fold, trained):
        """By the tiny network's layers this may make no difference; by dropout, added later, it does."""
        model, split = copy.deepcopy(trained[0]).train(), Split("validation", fold)
        scores = task.evaluate(model, tiny, split)
        for conv in [module for module in model.modules() if is_conv(module)]:
            conv.register_forward_hook(lambda conv, _, output: output * math.nan if conv.training else output)
        found = task.evaluate(model, tiny, split)
        assert found == scores, "evaluate() must call model.eval(), and model.train() afterwards, if it was so before"

    def test_a_diverged_network_has_no_scores(self, task, tiny, fold):
        """By weights that are no numbers, class 0 is predicted everywhere, which is right somewhere."""
        model = build(task, tiny)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(torch.nan)
        found = task.evaluate(model, tiny, Split("validation", fold))
        assert found.keys() == {metric.name for metric in task.metrics_of(tiny)}
        assert all(map(math.isnan, found.values())), found

    def test_a_network_that_overflows_has_no_scores(self, task, tiny, fold):
        """By finite weights it gives infinities, and class 0 is predicted as by NaN."""
        model = build(task, tiny)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e25)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        found = task.evaluate(model, tiny, Split("validation", fold))
        assert found.keys() == {metric.name for metric in task.metrics_of(tiny)}
        assert all(map(math.isnan, found.values())), found

    def test_searches(self, task, tiny, fold, tmp_path):
        config = dataclasses.replace(tiny, search=dataclasses.replace(tiny.search, interval=1, rounds=1))
        model, search = fit(task, config, fold, tmp_path / "run", searching=True)
        assert search.step >= 1
        assert len(search.history) == 1
        assert search.structure().keys() == search.initial.keys()
        scores = task.evaluate(model, config, Split("validation", fold))
        assert all(math.isfinite(value) for value in scores.values())

    def test_illustrates(self, task, tiny, fold, trained, tmp_path):
        if task.illustrate is None:
            pytest.skip(f"{task.name} draws no pictures")
        paths = task.illustrate(trained[0], tiny, Split("test", fold), tmp_path)
        assert paths
        for path in paths:
            assert path.parent == tmp_path
            assert 0 < path.stat().st_size < 100_000

    def test_probes(self, task, tiny, fold, trained):
        if task.probe is None:
            pytest.skip(f"{task.name} measures no receptive fields")
        model = copy.deepcopy(trained[0]).eval()
        before, draws = weights(model), random_states()
        probe, again = (task.probe(model, tiny, Split("validation", fold)) for _ in range(2))
        assert probe.inputs
        assert probe.unit
        assert probe.output
        for x, same in zip(probe.inputs, again.inputs, strict=True):
            assert torch.equal(x, same)
            assert x.shape[0] == 1
            assert x.dim() == 2 + len(probe.step)
            with torch.no_grad():
                output = probe.forward(x)
                assert torch.equal(output, again.forward(x))
            assert output.dim() == x.dim()
            assert output.isfinite().all()
        found = measure(task, model.train(), tiny, Split("validation", fold))
        assert found is not None
        for axis in found["axes"]:
            assert 0 <= axis["radius"]["0.5"] <= axis["radius"]["0.95"] > 0
            first, last = axis["theoretical"] or (-math.inf, math.inf)
            assert first < 0 <= last, "a causal network's ends at the present"
            assert axis["radius"]["0.95"] <= max(-first, last)
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert_equal(before, weights(model))
        assert random_states() == draws


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_names_and_load(tmp_path):
    assert tasks.names() == sorted(tasks.names())
    with pytest.raises(ValueError, match="unknown task 'nothing'"):
        tasks.load("nothing")


@pytest.fixture
def project(tmp_path):
    """A copy of the project with no task."""
    root = tmp_path / "project"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("rfnext", "benchmarks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    library = [f"tasks/{name}.py" for name in ("__init__", "spec", "checkpoint", "diverged", "plain")]
    for file in (*library, "tests/conftest.py", "tests/tasks/test_contract.py"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def python(project, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_readmes_example_is_a_task(project):
    text = (ROOT / "tasks" / "README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?TASK = Task\(.*?)```", text, re.DOTALL)
    (project / "tasks" / "two_tones").mkdir()
    (project / "tasks" / "two_tones" / "task.py").write_text(example)
    done = python(project, "-m", "pytest", "-q", "tests/tasks/test_contract.py::TestContract")
    assert done.returncode == 0, done.stdout + done.stderr
    # It was run, and nothing else was skipped.
    assert "draws no pictures" in done.stdout
    assert "measures no receptive fields" in done.stdout
    assert " 2 skipped" in done.stdout.splitlines()[-1]
    code = "import tasks; print(tasks.names(), tasks.load('two_tones').name)"
    assert python(project, "-c", code).stdout == "['two_tones'] two_tones\n"


@pytest.mark.slow
def test_a_new_task_of_the_command_line_passes_as_generated(project):
    shutil.copy(ROOT / "tasks" / "README.md", project / "tasks")
    made = python(project, "-m", "rfnext", "new-task", "my_task")
    assert made.returncode == 0, made.stderr
    done = python(project, "-m", "pytest", "-q", "tests/tasks/test_contract.py::TestContract")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 2 skipped" in done.stdout.splitlines()[-1]
    code = "import tasks; print(tasks.names(), tasks.load('my_task').name)"
    assert python(project, "-c", code).stdout == "['my_task'] my_task\n"
    again = python(project, "-m", "rfnext", "new-task", "my_task")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "tasks/my_task exists" in again.stderr


@pytest.mark.parametrize("source", ["", "TASK = 3\n", "import tasks.spec\nTASK = None\n"])
def test_a_module_without_a_task_is_named(project, source):
    (project / "tasks" / "broken").mkdir()
    (project / "tasks" / "broken" / "task.py").write_text(source)
    done = python(project, "-c", "import tasks; tasks.load('broken')")
    assert "ValueError: tasks/broken/task.py must end in TASK = Task(name='broken', ...)" in done.stderr
