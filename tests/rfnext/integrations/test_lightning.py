"""The callback on real Trainer runs: rounds, checkpoints, resuming, averaging copies, files."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import rfnext
from rfnext import LocalConfig, LocalSearch, Structure
from rfnext.structure import searched_convs

pl = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from rfnext.integrations.lightning import AtomicCheckpointIO, LocalSearchCallback, open_logger  # noqa: E402

pytestmark = [
    # Advice on how to load data faster, and deprecations within Lightning; none of them is ours to mend.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

BATCHES = 3


class Net(pl.LightningModule):
    """Learns to repeat the input of 6 positions before. Everything random comes from the seed or the data."""

    def __init__(self, *, part: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=4, dilation=4)
        )
        self.search = LocalSearch(
            self.network if part else self, LocalConfig(interval=1, rounds=3, branches=3, spread=0.5)
        )

    def loss(self, x: Tensor) -> Tensor:
        return (self.network(x)[..., 6:] - x[..., :-6]).square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch[0])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("validation_loss", self.loss(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def loader(seed: int) -> DataLoader[Any]:
    x = torch.randn(4 * BATCHES, 2, 40, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x), batch_size=4)


def fit(
    module: Any,
    folder: Path,
    epochs: int,
    *callbacks: Any,
    every: Literal["epoch", "step"] = "epoch",
    resume: Path | None = None,
    validate: bool = False,
    **settings: Any,
) -> Any:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[LocalSearchCallback(module.search, every=every), *callbacks],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **({"logger": False, "enable_checkpointing": bool(callbacks)} | settings),
    )
    trainer.fit(module, loader(1), loader(2) if validate else None, ckpt_path=resume, weights_only=True)
    return trainer


def test_rounds_run_once_per_epoch_and_the_structure_moves(tmp_path: Path) -> None:
    module = Net()
    fit(module, tmp_path, 5)
    search = module.search
    assert [r.step for r in search.history] == [1, 2, 3]
    assert search.step == 5
    assert Structure.read(module.network) != search.initial
    assert set(search.structure()) == {"0", "2"}


def test_rounds_by_optimizer_steps_count_accumulated_gradients_once(tmp_path: Path) -> None:
    module = Net()
    fit(module, tmp_path, 2, every="step", accumulate_grad_batches=2)  # 3 batches: 2 optimizer steps per epoch
    assert module.search.step == 4
    assert [r.step for r in module.search.history] == [1, 2, 3]


def test_the_whole_module_can_be_searched(tmp_path: Path) -> None:
    module = Net(part=False)
    fit(module, tmp_path, 1)
    assert set(module.search.structure()) == {"network.0", "network.2"}


@pytest.mark.parametrize(("every", "accumulate"), [("epoch", 1), ("step", 2)])
@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.defect(22)
def test_a_run_resumed_from_its_checkpoint_equals_the_uninterrupted_one(
    stop: int, every: Literal["epoch", "step"], accumulate: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"every": every, "accumulate_grad_batches": accumulate}
    whole = Net()
    fit(whole, tmp_path, 5, **settings)

    interrupted, saved = Net(), ModelCheckpoint(dirpath=tmp_path, filename="last")
    fit(interrupted, tmp_path, stop, saved, **settings)
    assert interrupted.search.state_dict() != whole.search.state_dict()
    resumed = Net()
    fit(resumed, tmp_path, 5, resume=tmp_path / "last.ckpt", **settings)
    assert_same(resumed, whole)


@pytest.mark.defect(22)
def test_a_checkpoint_saved_by_validation_resumes_at_the_same_round(tmp_path: Path) -> None:
    """A monitored checkpoint is written at the end of validation, before the epoch's round is run."""
    whole = Net()
    saved = ModelCheckpoint(
        tmp_path, "{epoch}", monitor="validation_loss", save_top_k=-1, save_on_train_epoch_end=False
    )
    fit(whole, tmp_path, 5, saved, validate=True)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == 5
    for checkpoint in checkpoints[:3]:
        resumed = Net()
        fit(resumed, tmp_path, 5, resume=checkpoint, validate=True)
        assert_same(resumed, whole)


def assert_same(module: Net, expected: Net) -> None:
    assert module.search.history == expected.search.history
    assert module.search.state_dict() == expected.search.state_dict()
    states = module.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_two_parts_of_a_network_are_searched_in_one_trainer(tmp_path: Path) -> None:
    """Each callback gets its own state back."""

    class TwoParts(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Sequential(nn.Conv1d(2, 2, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(2, 2, 1))
            self.second = LocalSearch(self.other, LocalConfig(interval=2, rounds=2, branches=3))

        def loss(self, x: Tensor) -> Tensor:
            return super().loss(x) + (self.other(x)[..., 6:] - x[..., :-6]).square().mean()

    def run(epochs: int, *callbacks: Any, resume: Path | None = None) -> TwoParts:
        module = TwoParts()
        fit(module, tmp_path, epochs, LocalSearchCallback(module.second), *callbacks, resume=resume)
        return module

    whole = run(5)
    assert (whole.search.round, whole.second.round) == (3, 2)
    run(3, ModelCheckpoint(dirpath=tmp_path, filename="last"))
    resumed = run(5, resume=tmp_path / "last.ckpt")
    assert_same(resumed, whole)
    assert resumed.second.state_dict() == whole.second.state_dict()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # of Lightning, about the former key
def test_checkpoints_from_before_callbacks_had_keys_of_their_own_resume(tmp_path: Path) -> None:
    whole = Net()
    fit(whole, tmp_path, 5)
    fit(Net(), tmp_path, 2, ModelCheckpoint(dirpath=tmp_path, filename="last"))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (key,) = [key for key in checkpoint["callbacks"] if key.startswith("LocalSearchCallback")]
    checkpoint["callbacks"]["LocalSearchCallback"] = checkpoint["callbacks"].pop(key)
    torch.save(checkpoint, tmp_path / "former.ckpt")
    resumed = Net()
    fit(resumed, tmp_path, 5, resume=tmp_path / "former.ckpt")
    assert_same(resumed, whole)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_the_state_of_other_layers_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    saved = ModelCheckpoint(dirpath=tmp_path, filename="last", save_weights_only=False)
    fit(Net(), tmp_path, 1, saved)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    fewer = Net()
    structure = fewer.search.structure()
    structure.apply(fewer.network)
    fewer.search = LocalSearch(fewer.network, fewer.search.config, where=lambda name, conv: name == "0")
    checkpoint["state_dict"] = fewer.state_dict()
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="the state is of a search over other layers; 1 differ, '2' first"):
        fit(fewer, tmp_path, 2, resume=tmp_path / "last.ckpt")


def test_an_optimizer_without_the_branch_weights_is_an_error(tmp_path: Path) -> None:
    class TooEarly(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam([p for n, p in self.named_parameters() if "branch_weight" not in n])

    with pytest.raises(RuntimeError, match="no optimizer holds the branch weights.*build LocalSearch before fit"):
        fit(TooEarly(), tmp_path, 1)


def test_a_network_outside_the_module_is_an_error(tmp_path: Path) -> None:
    module, other = Net(), Net()
    module.search = other.search
    with pytest.raises(RuntimeError, match="no optimizer holds the branch weights"):
        fit(module, tmp_path, 1)


@pytest.mark.defect(28)
def test_averaging_copies_get_the_new_branches(tmp_path: Path) -> None:
    averaging = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(averaging, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")
    average = averaging.EMAWeightAveraging(decay=0.5)
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            copies = searched_convs(average._average_model.module.network)
            seen.append({name: conv.dilations for name, conv in copies.items()})
            assert seen[-1] == {n: c.dilations for n, c in searched_convs(pl_module.network).items()}

    module = Net()
    fit(module, tmp_path, 4, average, Watch(), validate=True, enable_checkpointing=False)
    assert len({str(dilations) for dilations in seen}) > 1

    # And a run with averaging resumes as well: the checkpoint holds the average's branches and the current ones.
    resumed, saved = Net(), ModelCheckpoint(dirpath=tmp_path, filename="last")
    fit(resumed, tmp_path, 2, averaging.EMAWeightAveraging(decay=0.5), saved, validate=True)
    resumed = Net()
    fit(
        resumed,
        tmp_path,
        4,
        averaging.EMAWeightAveraging(decay=0.5),
        resume=tmp_path / "last.ckpt",
        validate=True,
        enable_checkpointing=False,
    )
    assert_same(resumed, module)


def test_stochastic_weight_averaging_gets_the_new_branches(tmp_path: Path) -> None:
    """Its average is a LightningModule, and begins in the middle of the training; it resumes, too."""
    average = pl.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=2)
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")
            copies = searched_convs(average._average_model.network)  # type: ignore[union-attr,arg-type]
            seen.append({name: conv.dilations for name, conv in copies.items()})
            assert seen[-1] == {n: c.dilations for n, c in searched_convs(pl_module.network).items()}

    module = Net()
    fit(module, tmp_path, 5, average, Watch(), enable_checkpointing=False)
    assert len({str(dilations) for dilations in seen}) > 1
    averaged = average._average_model.network.state_dict()  # type: ignore[union-attr]
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, averaged[name]), name

    resumed = Net()
    again = pl.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=2)
    fit(resumed, tmp_path, 5, again, resume=tmp_path / "middle.ckpt", enable_checkpointing=False)
    assert_same(resumed, module)


@pytest.mark.parametrize(("every", "steps"), [("epoch", 2), ("step", 2 * BATCHES)])
def test_the_epoch_that_only_measures_batch_norms_is_not_counted(every: Any, steps: int, tmp_path: Path) -> None:
    """StochasticWeightAveraging adds it at the end: nothing is trained in it, so no round may move the dilations."""
    module = Net()
    module.network.append(nn.BatchNorm1d(2))
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(module.search.step)

    average = pl.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=1)
    fit(module, tmp_path, 2, average, Watch(), every=every, enable_checkpointing=False)
    assert seen == [steps // 2, steps, steps]
    assert [r.step for r in module.search.history] == list(range(1, min(steps, 3) + 1))


def test_structure_files_and_logs_are_written_per_round(tmp_path: Path) -> None:
    module = Net()
    callback = LocalSearchCallback(module.search, folder=tmp_path / "structures")
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[callback],
        logger=CSVLogger(tmp_path, name="logs", version="0"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, loader(1))
    files = sorted((tmp_path / "structures").iterdir())
    assert [file.name for file in files] == [f"structure-round{n}.json" for n in (1, 2, 3)]
    for file, round_ in zip(files, module.search.history, strict=True):
        assert dict(Structure.load(file)) == round_.structure
        assert json.loads(file.read_text())["format"] == "rfnext-structure"
    rows = (tmp_path / "logs" / "0" / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    assert {"dilation/0", "dilation/2", "probability/2/0", "probability/2/2"} <= set(header)
    logged = [float(v) for row in rows[1:] if (v := row.split(",")[header.index("dilation/2")])]
    assert logged == [r.structure["2"][0] for r in module.search.history]


@pytest.mark.defect(25)
def test_other_ranks_write_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda trainer: False))
    module = Net()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[LocalSearchCallback(module.search, folder=tmp_path / "structures")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(1))
    assert module.search.round == 2
    assert not (tmp_path / "structures").exists()


def test_a_checkpoint_opens_as_the_same_function_without_a_trainer(tmp_path: Path) -> None:
    module = Net()
    fit(module, tmp_path, 2, ModelCheckpoint(dirpath=tmp_path, filename="last"))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    fresh = Net()
    fresh.load_state_dict(state)
    x = torch.randn(1, 2, 40)
    assert torch.equal(fresh.network(x), module.network(x))
    assert Structure.read(fresh) == Structure.read(module)


def test_bad_arguments() -> None:
    search = LocalSearch(nn.Sequential(nn.Conv1d(1, 1, 3)), rfnext.LocalConfig())
    with pytest.raises(ValueError, match="every must be 'epoch' or 'step', got 'batch'"):
        LocalSearchCallback(search, every="batch")  # type: ignore[arg-type]


def test_the_library_itself_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    fit(Net(), tmp_path, 2)
    assert capsys.readouterr() == ("", "")


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"epoch": 1, "weight": torch.ones(2)}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        io.save_checkpoint({"epoch": 2, "weight": (one for one in ())}, path)  # fails halfway
    assert io.load_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Planted:
    """Would be made by whoever opens it, as pickle does."""


@pytest.mark.parametrize("damage", ["cut", "pickled"])
def test_checkpoints_that_are_damaged_or_hold_objects_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"one": Planted()} if damage == "pickled" else {"one": torch.ones(100)}, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint.*delete it"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_loggers_write_into_the_folder(tmp_path: Path) -> None:
    with open_logger("none", tmp_path) as logger:
        assert logger is None
    with open_logger("csv", tmp_path) as logger:
        assert isinstance(logger, CSVLogger)
        logger.log_metrics({"loss": 1.5}, step=3)
        logger.save()
    assert "1.5" in (tmp_path / "csv" / "metrics.csv").read_text()


class Stepped(Net):
    """Plain gradient descent: a step is the gradient itself."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("rule", ["default", "paper"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_the_trainers_clipping_leaves_the_branch_weights_apart(
    rule: rfnext.Rule, algorithm: str, tmp_path: Path
) -> None:
    """By rule "paper" all are clipped together, as published."""
    module = Stepped()
    for conv in searched_convs(module.network).values():
        conv.rule = rule
        with torch.no_grad():
            conv.branch_weight.copy_(torch.tensor([0.01, 0.012, 0.008]))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    batch = next(iter(loader(1)))[0]
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(module.loss(batch), parameters), strict=True))
    clipped = {name for name in names if rule == "paper" or not name.endswith("branch_weight")}
    norm = sum(gradients[name].square().sum() for name in clipped) ** 0.5

    fit(module, tmp_path, 1, gradient_clip_val=0.001, gradient_clip_algorithm=algorithm, limit_train_batches=1,
        max_steps=1, every="step")  # fmt: skip
    assert vars(module).get("configure_gradient_clipping") is None
    rounds = {"network.0.branch_weight", "network.2.branch_weight"}  # a round has started them anew
    for name, p in module.named_parameters():
        if name in rounds:
            continue
        expected = gradients[name] * (0.001 / norm) if algorithm == "norm" else gradients[name].clamp(-0.001, 0.001)
        torch.testing.assert_close(before[name] - p, expected, rtol=1e-3, atol=1e-6)
    (seen,) = module.search.history
    moved = max(abs(p - 1 / 3) for shares in seen.probability.values() for p in shares)
    assert moved > 0.1 or rule == "paper"
