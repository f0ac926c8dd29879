"""The plan of a suite: which cells there are, which are kept, what is left out or missing, and how long it takes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tasks
from benchmarks.arguments import UsageError
from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.planning.plan import Plan, Request, estimate_seconds, make_plan
from benchmarks.records import machine
from benchmarks.records.folder import read_all
from benchmarks.records.lines import write_lines
from benchmarks.records.record import Cost, Record, write

Make = Callable[..., Cell]
MakeRecord = Callable[..., Record]


@pytest.fixture
def plan(results: Path, only_toy: None) -> Callable[..., Plan]:
    def make(suite: str, **other: Any) -> Plan:
        return make_plan(Request(suite, results, **other), read_all(results))

    return make


def named(cells: list[Cell]) -> list[tuple[str, str, int, int]]:
    return [(cell.preset, cell.method.name, cell.fold, cell.seed) for cell in cells]


def test_every_method_on_every_fold_and_seed(plan: Callable[..., Plan], results: Path) -> None:
    found = plan("tiny", seeds=(0, 3))
    standard = [name for name, method in METHODS.items() if method.standard]
    assert set(named(found.missing)) == {("tiny", name, f, s) for name in standard for f in (1, 2) for s in (0, 3)}
    assert found.kept == []
    assert {(cell.results, cell.base, cell.resume) for cell in found.missing} == {(results, "tiny", True)}
    some = plan("tiny", methods=("local_multi", "baseline"), folds=(2,), logger="csv", resume=False)
    assert named(some.missing) == [("tiny", "baseline", 2, 0), ("tiny", "local_multi", 2, 0)]
    assert {(cell.logger, cell.resume) for cell in some.missing} == {("csv", False)}
    assert {cell.method.name for cell in plan("tiny", methods=("all",)).missing} == METHODS.keys()


def test_nothing_is_kept_where_all_is_asked_for_anew(
    plan: Callable[..., Plan], make: MakeRecord, results: Path
) -> None:
    write(make("baseline"), results)
    only = {"methods": ("baseline",), "folds": (1,)}
    assert named(plan("tiny", **only).kept) == named(plan("tiny", **only, resume=False).missing)
    assert plan("tiny", **only, resume=False).kept == []


def test_a_suite_is_several_presets(plan: Callable[..., Plan]) -> None:
    found = plan("both", methods=("baseline",), folds=(1,))
    assert named(found.missing) == [("tiny", "baseline", 1, 0), ("wide", "baseline", 1, 0)]
    assert [cell.config.width for cell in found.missing] == [8, 9]
    assert {"tiny", "wide", "both", "paper"} <= set(found.presets["toy"])


def test_what_is_done_by_the_planned_protocol_is_kept(
    plan: Callable[..., Plan], make: MakeRecord, toy: ModuleType, results: Path
) -> None:
    write(make("baseline"), results)
    write(make("tuned_single", config=toy.Config(epochs=2)), results)
    write(make("local_single", reason="killed"), results)
    write_lines(results / "toy-tiny/records.jsonl", [make("local_multi")])
    methods = ("baseline", "tuned_single", "local_single", "local_multi")
    found = plan("tiny", methods=methods, folds=(1,))
    assert [cell.method.name for cell in found.kept] == ["baseline"]
    assert [cell.method.name for cell in found.missing] == ["tuned_single", "local_single", "local_multi"]
    committed = plan("tiny", methods=methods, folds=(1,), committed=True)
    assert [cell.method.name for cell in committed.kept] == ["baseline", "local_multi"]


def test_changed_fields_are_a_preset_of_their_own(plan: Callable[..., Plan]) -> None:
    one = {"tasks": ("toy",), "methods": ("baseline",), "folds": (1,)}
    (derived,) = plan("tiny", overrides=["--epochs", "3", "--root", "there"], **one).missing
    assert (derived.base, derived.overrides, derived.config.root) == ("tiny", {"epochs": 3}, Path("there"))
    assert derived.preset.startswith("tiny-")
    (called,) = plan("tiny", overrides=["--epochs", "3"], name="short", **one).missing
    assert (called.preset, called.overrides) == ("short", {"epochs": 3})
    both = plan("both", overrides=["--epochs", "3"], **one)
    assert len({cell.preset for cell in both.missing}) == 2


@pytest.mark.parametrize(
    ("suite", "other", "message"),
    [
        ("tinny", {}, "unknown preset 'tinny' (did you mean 'tiny'?)"),
        ("bothe", {}, "unknown preset 'bothe' (did you mean 'both'?)"),
        ("tiny", {"tasks": ("toi",)}, "unknown task 'toi' (did you mean 'toy'?)"),
        ("tiny", {"methods": ("local_singel",)}, "unknown method 'local_singel' (did you mean 'local_single'?)"),
        ("tiny", {"folds": (9,)}, "no cell to run; toy has no fold 9; it has 1, 2"),
        ("tiny", {"overrides": ["--epochs", "3"]}, "belong to one task; name it with --task"),
        ("tiny", {"name": "mine"}, "belong to one task; name it with --task"),
        ("both", {"name": "mine", "tasks": ("toy",)}, "--name belongs to one preset; both is tiny, wide of toy"),
        ("tiny", {"name": "wide", "tasks": ("toy",)}, "--name wide is a preset of toy"),
        ("tiny", {"name": "No", "tasks": ("toy",)}, "--name 'No'"),
        ("tiny", {"overrides": ["--epochs", "0"], "tasks": ("toy",)}, "epochs is 0; it must be at least 1"),
    ],
)
def test_wrong_requests_are_refused(plan: Callable[..., Plan], suite: str, other: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        plan(suite, **other)
    assert message in str(error.value)


def test_what_makes_no_sense_for_a_task_is_left_out(
    plan: Callable[..., Plan], toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = dataclasses.replace(toy.TASK, leaves_out={"local_multi": "it is a toy"})
    monkeypatch.setattr(tasks, "load", lambda name: picky)
    found = plan("tiny", methods=("baseline", "local_multi"))
    assert {cell.method.name for cell in found.missing} == {"baseline"}
    assert found.left_out == [("toy tiny", "local_multi", "it is a toy")]
    with pytest.raises(UsageError, match="no cell to run; toy tiny: local_multi it is a toy"):
        plan("tiny", methods=("local_multi",))


def test_missing_data_is_planned_and_not_run(plan: Callable[..., Plan]) -> None:
    found = plan("paper", methods=("baseline",))
    assert found.missing == []
    assert [len(table.missing) for table in found.tables] == [2, 2]
    assert found.unavailable == dict.fromkeys(("toy missing", "toy missing-wide"), "download toy.zip and unpack it")


def test_a_task_that_cannot_be_loaded_leaves_the_others(
    plan: Callable[..., Plan], toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if name == "foreign":
            raise ModuleNotFoundError("no module named a_package_that_nobody_has")
        return toy.TASK

    monkeypatch.setattr(tasks, "names", lambda: ["foreign", "toy"])
    monkeypatch.setattr(tasks, "load", load)
    found = plan("tiny", methods=("baseline",))
    assert len(found.missing) == 2
    assert found.unavailable["foreign"].startswith("cannot be loaded: ModuleNotFoundError")
    assert plan("tiny", tasks=("foreign",)).unavailable.keys() == {"foreign"}


def test_a_task_without_the_preset_is_skipped(
    plan: Callable[..., Plan], toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(toy.TASK, name="small", presets={"tiny": toy.Config()}, suites={})
    monkeypatch.setattr(tasks, "names", lambda: ["small", "toy"])
    monkeypatch.setattr(tasks, "load", lambda name: small if name == "small" else toy.TASK)
    found = plan("both", methods=("baseline",))
    assert {cell.task.name for cell in found.missing} == {"toy"}
    assert found.skipped == ["small has no preset 'both'; it has tiny"]


def timed(make: MakeRecord, method: str, search: float, training: float = 10.0, **other: Any) -> Record:
    costs = {"search": Cost(epochs=5, seconds=search), "training": Cost(epochs=5, seconds=training)}
    return make(method, fold=3, **costs, **{"evaluation_seconds": 1.0} | other)


def test_time_is_estimated_from_records(cell: Make, make: MakeRecord) -> None:
    methods = ("baseline", "random_single", "local_as_searched", "local_single", "local_multi")
    missing = [cell(method, fold=fold) for method in methods for fold in (1, 2)]
    assert estimate_seconds(missing, []) is None
    known = []
    for method, search in (("baseline", 0), ("random_single", 12), ("local_single", 20)):
        made = timed(make, method, search)
        known += [made, made.model_copy(update={"seed": 9, "resumed": True, "training": Cost(seconds=1e6)})]
    # Per fold: baseline 11, random_single 23, the local search once 20, its own network's score 1, local_single 11, and
    # local_multi, which has no record, as the mean of the others.
    assert estimate_seconds(missing, known) == pytest.approx(2 * (11 + 23 + 20 + 1 + 11 + 11))
    assert estimate_seconds([cell(preset="wide")], known) is None


def test_a_search_is_counted_once_and_what_goes_on_from_it_only_for_the_rest(cell: Make, make: MakeRecord) -> None:
    def seconds(*names: str) -> float | None:
        return estimate_seconds([cell(name) for name in names], known)

    known = [
        timed(make, method, search, evaluation_seconds=0.0)
        for method, search in (
            ("one_shot_single", 20),
            ("one_shot_to_local_single", 50),
            ("one_shot_ranked_single", 31),
        )
    ]
    assert seconds("one_shot_single") == pytest.approx(20 + 10)
    three = ("one_shot_single", "one_shot_to_local_single", "one_shot_to_local_multi")
    assert seconds(*three) == pytest.approx(20 + 30 + 3 * 10)
    assert seconds(*three[1:]) == pytest.approx(50 + 2 * 10)
    # What is trained for a ranking afterwards is no part of the search that others share.
    assert seconds("one_shot_single", "one_shot_ranked_single") == pytest.approx(20 + 11 + 2 * 10)
    # No genetic search yet: its budget is 6 trainings, and the local search after it is one more.
    assert seconds("genetic_single", "genetic_to_local_single") == pytest.approx(60 + 10 + 2 * 10)
    # A finish may choose something on the validation part.
    known.append(timed(make, "learnable_spacings", 9, evaluation_seconds=0.0))
    assert seconds("learnable_spacings") == pytest.approx(9 + 10)


def of(preset: str, root: Path, **other: Any) -> dict[str, Any]:
    options = {"tasks": ("toy",), "methods": ("baseline",), "folds": (1,)}
    return {"suite": preset, "overrides": ["--root", str(root)]} | options | other


def run_on(make: MakeRecord, cell: Cell, results: Path) -> Record:
    """Writes a cell's record, of a day of long ago."""
    made = make(preset=cell.preset, config=cell.config, identity=cell.identity)
    made = made.model_copy(update={"finished": "2026-01-01T00:00:00+00:00"})
    write(made, results)
    return made


def test_own_data_is_kept_by_what_is_in_its_files(
    plan: Callable[..., Plan], make: MakeRecord, own: Make, mine: list[Path], results: Path
) -> None:
    here, there = mine
    first = own(here)
    run_on(make, first, results)
    assert [cell.preset for cell in plan(**of("tiny", here)).kept] == [first.preset]
    (table,) = plan(**of("tiny", there)).tables
    assert [cell.preset for cell in table.missing] == [own(there).preset]
    assert list(table.changed.values()) == [
        f"data changed since the record of 2026-01-01 00:00 (in {first.preset}, where it stays)"
    ]
    # The same data under another name and in another folder, which the user's name brings together.
    named = own(here, preset="ours")
    run_on(make, named, results)
    moved = here.rename(here.with_name("moved"))
    assert len(plan(**of("tiny", moved, name="ours")).kept) == 1
    (moved / "x.bin").write_bytes(bytes([1] * 100))
    (table,) = plan(**of("tiny", moved, name="ours")).tables
    assert table.kept == []
    assert table.changed == {named.key: "data changed since the record of 2026-01-01 00:00"}
    # What differs in more than its data is no news of the data.
    more = of("tiny", moved, name="ours", overrides=["--root", str(moved), "--epochs", "3"])
    assert plan(**more).tables[0].changed == {}


def test_records_of_before_files_counted(
    plan: Callable[..., Plan], make: MakeRecord, own: Make, mine: list[Path], results: Path
) -> None:
    here, _ = mine
    old = run_on(make, dataclasses.replace(own(here, preset="tiny"), identity=None), results)
    assert old.protocol["data"] == old.data == "own mine"
    (table,) = plan(**of("tiny", here, name="tiny")).tables
    assert table.changed == {
        old.key: "the record of 2026-01-01 00:00 does not say which files it was measured on",
    }


def test_data_that_is_not_here_cannot_have_changed(
    plan: Callable[..., Plan], make: MakeRecord, own: Make, mine: list[Path], results: Path
) -> None:
    here, _ = mine
    named = own(here, preset="ours")
    run_on(make, named, results)
    (table,) = plan(**of("tiny", here, name="ours")).tables
    assert (len(table.kept), table.unseen) == (1, False)
    here.rename(here.with_name("away"))
    (table,) = plan(**of("tiny", here, name="ours")).tables
    assert (len(table.kept), table.unseen) == (1, True)
    (table,) = plan(**of("tiny", here.with_name("other"), name="ours")).tables
    assert (len(table.kept), table.unseen) == (0, True)


def test_kept_cells_of_other_code_of_the_task_are_said(
    plan: Callable[..., Plan], make: MakeRecord, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept: their protocol is the planned one, and whether the change matters only its author knows."""
    sources = {"tasks/toy/task.py": "1a", "tasks/other/task.py": "2b"}
    monkeypatch.setattr(machine, "sources", lambda: sources)
    for method in ("baseline", "local_single"):
        write(make(method), results)
    write(make("local_multi").model_copy(update={"code": None}), results)  # from before records had it
    said = []
    for name in ("tasks/other/task.py", "tasks/toy/task.py"):
        sources[name] = "edited"
        (table,) = plan("tiny", methods=("baseline", "local_single", "local_multi"), folds=(1,)).tables
        assert len(table.kept) == 3
        said.append(table.older)
    assert said[0] is None
    assert str(said[1]).startswith("tasks/toy has changed since 2 of the kept cells were run")
