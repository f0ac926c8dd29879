"""Running one cell: what is recorded, also of one that fails, is interrupted, or runs where the folder is not seen."""

import dataclasses
import errno
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.records.places import Busy, claim
from benchmarks.records.record import read
from benchmarks.running import pool
from benchmarks.running.execute import UNAVAILABLE, WholeCell, describe, receive, record_failure, run_cell
from benchmarks.running.worker import InWorker, in_worker, mark
from rfnext import Structure
from tasks import checkpoint
from tasks.spec import Split, fail

Make = Callable[..., Cell]


def test_a_cell_becomes_a_record(cell: Make) -> None:
    here = cell("local_single")
    made = run_cell(here)
    assert made.status == "done"
    assert read(here.key.path(here.results)) == made
    assert made.key == here.key
    assert made.protocol == here.protocol()
    assert made.command == here.command
    assert made.data == "synthetic toy signals"
    assert made.structure is not None
    assert set(made.structure) == {"0", "2"}
    assert made.search.epochs == made.training.epochs == here.config.epochs
    assert made.started <= made.finished
    assert made.metrics is not None
    assert f"accuracy {made.metrics['accuracy']:.1f} %, loss {made.metrics['loss']:.3f} nats" in describe(made)
    (picture,) = made.pictures
    assert f"{made.metrics['accuracy']:.1f}" in (here.results / picture).read_text()


def test_a_record_keeps_what_was_changed_in_the_preset(cell: Make, toy: ModuleType) -> None:
    made = run_cell(cell(config=toy.Config(epochs=2, root=Path("elsewhere")), preset="mine", base="tiny"))
    assert (made.preset, made.base, made.overrides) == ("mine", "tiny", {"epochs": 2})


def test_pictures_are_made_for_the_first_cell_only(cell: Make) -> None:
    assert run_cell(cell(fold=2)).pictures == []
    assert run_cell(cell(seed=1)).pictures == []


def test_a_cell_that_cannot_be_illustrated_is_still_done(
    cell: Make, toy: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    def no_space(*arguments: object) -> list[Path]:
        raise OSError("no space left")

    made = run_cell(cell(task=dataclasses.replace(toy.TASK, illustrate=no_space)))
    assert made.status == "done"
    assert made.pictures == []
    assert "no space left" in caplog.text


def test_a_done_cell_is_kept_unless_asked_for(cell: Make, toy: ModuleType) -> None:
    here, longer = cell(), cell(config=toy.Config(epochs=6))
    first = run_cell(here)
    path = here.key.path(here.results)
    written = path.stat().st_mtime_ns
    assert run_cell(here, keep=True) == first
    assert path.stat().st_mtime_ns == written
    assert run_cell(longer, keep=True).protocol == longer.protocol()
    second = run_cell(here, keep=True)
    assert second.protocol == first.protocol
    assert second.metrics == first.metrics
    written = path.stat().st_mtime_ns
    assert run_cell(here).metrics == first.metrics
    assert path.stat().st_mtime_ns > written
    path.write_text("{")
    assert run_cell(here, keep=True).metrics == first.metrics


@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        ("raise", "RuntimeError: the toy was told to fail"),
        ("nan", "has values that are no numbers (NaN): the training diverged"),
        ("missing", f"{UNAVAILABLE}download toy.zip and unpack it"),
    ],
)
def test_a_failed_cell_says_why(cell: Make, preset: str, reason: str) -> None:
    here = cell(preset=preset, fold=2)
    made = run_cell(here)
    assert made.status == "failed"
    assert reason in (made.reason or "")
    assert reason in describe(made)  # in one line
    assert made.metrics is None
    assert read(here.key.path(here.results)) == made
    assert ": NaN" not in here.key.path(here.results).read_text()


def test_a_score_that_is_no_number_fails_the_cell(cell: Make, toy: ModuleType) -> None:
    here = cell("baseline")

    def evaluate(*given: Any) -> dict[str, float]:
        return toy.TASK.evaluate(*given) | {"accuracy": float("nan")}

    made = run_cell(dataclasses.replace(here, task=dataclasses.replace(here.task, evaluate=evaluate)))
    assert made.status == "failed"
    assert "a metric is not a finite number: the training diverged; give a lower learning rate" in (made.reason or "")


def test_bad_data_found_while_training_is_said_in_one_line(
    cell: Make, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = cell("baseline")

    def fit(*_: object) -> None:
        fail(Path("a.wav"), None, "has no audio", "record it again")

    made = run_cell(dataclasses.replace(here, task=dataclasses.replace(here.task, fit=fit)))
    assert made.reason == f"{UNAVAILABLE}a.wav: has no audio; record it again"
    assert not any(record.exc_info for record in caplog.records)


def test_a_history_that_is_no_numbers_fails_the_cell(cell: Make, toy: ModuleType) -> None:
    def fit(model: Any, config: Any, run: Any) -> None:
        toy.fit(model, config, run)
        if run.search is not None:
            for parameter in model.parameters():
                parameter.data *= float("nan")

    made = run_cell(cell("one_shot_single", task=dataclasses.replace(toy.TASK, fit=fit)))
    assert made.status == "failed"
    assert len((made.reason or "").splitlines()) == 1


def test_an_interrupted_cell_leaves_no_record(cell: Make) -> None:
    here = cell(preset="interrupt", fold=2)
    with pytest.raises(KeyboardInterrupt):
        run_cell(here)
    assert not here.key.path(here.results).exists()
    made = run_cell(here)
    assert made.status == "done"
    assert made.resumed


def test_ctrl_c_as_lightning_raises_it_is_an_interruption(cell: Make, toy: ModuleType) -> None:
    def fit(*arguments: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 (what Lightning does)

    here = cell(task=dataclasses.replace(toy.TASK, fit=fit))
    with pytest.raises(KeyboardInterrupt):
        run_cell(here)
    assert not here.key.path(here.results).exists()


def test_a_cell_that_runs_elsewhere_is_not_run_twice(cell: Make) -> None:
    here = cell()
    run_cell(here)
    (lock,) = (here.results / "work" / "locks").iterdir()
    with claim(lock, wait=False):
        with pytest.raises(Busy):
            run_cell(here, wait=False)
        assert run_cell(cell(seed=1), wait=False).status == "done"


def test_a_failure_is_recorded_without_a_run(cell: Make) -> None:
    here = cell(preset="mixed", fold=2)
    made = record_failure(here, f"killed in {Path.home()}")
    assert made.reason == "killed in ~"
    assert read(here.key.path(here.results)) == made


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("method", ["baseline", "one_shot_single"])
def test_a_worker_without_the_drivers_folder_hands_its_files_over(
    method: str, cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)  # pytest's own descriptors
    (tmp_path / "node").mkdir()

    def deliver(work: InWorker) -> Any:
        """As a worker process would."""
        sent = pickle.loads(pickle.dumps(work))  # noqa: S301 (made right here)
        return pickle.loads(pickle.dumps(sent(work.results)))  # noqa: S301 (made right here)

    here = cell(method)
    own = deliver(in_worker(WholeCell(patient=False), here))
    assert own.files is None
    assert here.log.exists()
    assert read(here.key.path(here.results)) == own.record == receive(own, here.results)

    driver = tmp_path / "driver"
    far = dataclasses.replace(here, results=driver)
    there = deliver(InWorker(WholeCell(patient=False), far, driver, mark(driver) + "another machine's"))
    assert not here.key.path(driver).exists()
    assert receive(there, driver) == read(here.key.path(driver))
    (picture,) = there.record.pictures
    assert (driver / picture).read_bytes() == (here.results / picture).read_bytes()
    assert there.record.metrics == own.record.metrics
    assert far.log.exists()


def test_without_workers_a_search_fails_with_that_reason(cell: Make) -> None:
    made = run_cell(cell("genetic_single"), pool.Pool([]))
    assert made.status == "failed"
    assert (made.reason or "").startswith("NoWorkerLeft: ")


def interrupted(cell: Make, **other: Any) -> Cell:
    here = cell(preset="interrupt", fold=2, **other)
    with pytest.raises(KeyboardInterrupt):
        run_cell(here)
    return here


def test_a_done_cell_is_run_anew(cell: Make) -> None:
    here = interrupted(cell)
    assert run_cell(here).resumed
    with pytest.raises(KeyboardInterrupt):  # as the first time: nothing of the finished training is continued
        run_cell(here)


def test_fresh_cells_begin_at_the_first_epoch(cell: Make) -> None:
    here = interrupted(cell)
    with pytest.raises(KeyboardInterrupt):
        run_cell(dataclasses.replace(here, resume=False))


def test_trainings_of_other_code_begin_anew(cell: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = interrupted(cell)
    monkeypatch.setattr("benchmarks.methods.training.code", lambda: "another")
    with pytest.raises(KeyboardInterrupt):
        run_cell(here)


def test_a_broken_checkpoint_is_said_and_its_training_begins_anew(cell: Make, caplog: pytest.LogCaptureFixture) -> None:
    here = interrupted(cell)
    path = here.work / "train" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(KeyboardInterrupt):
        run_cell(here)
    assert "last.ckpt is broken; its training starts anew" in caplog.text
    assert run_cell(here).status == "done"


def test_a_cell_leaves_the_network_that_it_scored(cell: Make, toy: ModuleType, only_toy: None) -> None:
    here = cell("local_single")
    made = run_cell(here)
    assert made.structure is not None
    opened = checkpoint.load(here.model, "toy")
    assert opened.config == here.config
    assert toy.evaluate(opened.model, here.config, Split("test", 1)) == made.metrics
    found = {name: list(d) for name, d in Structure.read(opened.model).items() if name in made.structure}
    assert found == made.structure


ROWS = [name for name, method in METHODS.items() if method.standard] + ["baseline_multi", "learnable_spacings"]


@pytest.mark.parametrize("method", ROWS)
def test_the_network_of_every_row_opens_or_is_not_kept(
    cell: Make, toy: ModuleType, only_toy: None, method: str
) -> None:
    here = cell(method)
    made = run_cell(here)
    assert made.status == "done", made.reason
    assert here.model.exists() == (method != "learnable_spacings")  # no task builds convs of DCLS
    if here.model.exists():
        opened = checkpoint.load(here.model, "toy")
        assert toy.evaluate(opened.model, here.config, Split("test", 1)) == made.metrics


def test_data_that_changes_while_a_cell_runs_fails_it(own: Make, toy: ModuleType, mine: list[Path]) -> None:
    def fit(model: Any, config: Any, run: Any) -> None:
        toy.fit(model, config, run)
        (config.root / "labels.txt").write_text("background")

    here = own(mine[0], task=dataclasses.replace(toy.TASK, fit=fit))
    made = run_cell(here)
    assert made.status == "failed"
    assert "the data is not what it was when the cell was planned" in (made.reason or "")
    # Planned before the change, and on a machine that has other data.
    for late in (here, own(mine[1], identity=here.identity)):
        assert "the data is not what it was" in (run_cell(late).reason or "")
    assert run_cell(own(mine[0])).status == "done"


def test_a_full_disk_replaces_no_finished_record(cell: Make, toy: ModuleType) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "cannot write last.ckpt: No space left on device")

    here = cell()
    done = run_cell(here)
    with pytest.raises(OSError, match="cannot write last.ckpt: No space left"):
        run_cell(dataclasses.replace(here, task=dataclasses.replace(toy.TASK, fit=full)))
    assert read(here.key.path(here.results)) == done


def test_missing_data_replaces_no_finished_record(own: Make, mine: list[Path]) -> None:
    here = own(mine[0], preset="ours")
    done = run_cell(here)
    assert here.identity is not None
    assert done.protocol["data"] == f"files {here.identity.fingerprint}"
    assert done.data == "own mine"
    gone = dataclasses.replace(here, identity=None, task=dataclasses.replace(here.task, unavailable=lambda c: "get it"))
    assert run_cell(gone).status == "failed"
    assert record_failure(gone, f"{UNAVAILABLE}get it").status == "failed"
    assert read(here.key.path(here.results)) == done
    record_failure(gone, "killed")
    assert read(here.key.path(here.results)).reason == "killed"


def test_a_finished_result_is_kept_where_its_record_cannot_be_written(
    cell: Callable[..., Cell], results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    results.mkdir()
    (results / "runs").write_text("a file where the records' folder should be")
    with pytest.raises(OSError, match="cannot write .*The result is kept in .*: copy that file to its place") as error:
        run_cell(cell())
    assert len(str(error.value).splitlines()) == 1
    (kept,) = (tmp_path / "elsewhere").rglob("fold1-seed0.json")
    assert read(kept).status == "done"
    assert str(kept) in str(error.value)
