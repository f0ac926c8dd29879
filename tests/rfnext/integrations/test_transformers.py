"""Hugging Face's Trainer as docs/transformers.md says: the network's own gradients are clipped, branches' are not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rfnext import LocalConfig, LocalSearch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

LIMIT = 1e-3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 4, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(4, 1, 3, padding=1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.body(x) - labels).square().mean()}


def norm(parameters: Any) -> float:
    return float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())


def test_the_trainer_clips_the_networks_own_gradients(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    search = LocalSearch(model, LocalConfig(interval=1, rounds=2))
    seen = []

    class Clipping(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            branches = norm(search.branch_weights())
            torch.nn.utils.clip_grad_norm_(search.parameters_to_clip(), LIMIT)
            seen.append((norm(search.parameters_to_clip()), branches, norm(search.branch_weights())))

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            search.after_step()

    signals = torch.randn(8, 1, 32)
    data = [{"x": x, "labels": x.roll(3, -1)} for x in signals]
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, max_grad_norm=0, report_to=[], use_cpu=True, save_strategy="no"
    )
    transformers.Trainer(model=model, args=settings, train_dataset=data, callbacks=[Clipping()]).train()
    assert len(seen) == 2
    for own, before, after in seen:
        assert own == pytest.approx(LIMIT, rel=1e-4)
        assert before == after > 0
    assert search.round == 2


def trainer(folder: Path, epochs: int, **settings: Any) -> Any:
    """A Trainer with a search, and its callback."""
    from rfnext.integrations.transformers import SearchCallback

    torch.manual_seed(0)
    model = Net()
    search = LocalSearch(model, LocalConfig(interval=1, rounds=3))
    generator = torch.Generator().manual_seed(1)
    data = [{"x": x, "labels": x.roll(3, -1)} for x in torch.randn(8, 1, 32, generator=generator)]
    given = {"max_grad_norm": 0, "learning_rate": 0.01, "lr_scheduler_type": "constant", "save_strategy": "epoch"}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, report_to=[], use_cpu=True, **(given | settings)
    )
    made = transformers.Trainer(
        model=model, args=arguments, train_dataset=data, callbacks=[SearchCallback(search, max_norm=1.0)]
    )
    return made, search


@pytest.mark.filterwarnings("ignore")  # of safetensors and accelerate
def test_a_resumed_training_goes_on_with_its_search(tmp_path: Path) -> None:
    whole, search = trainer(tmp_path / "whole", 4)
    whole.train()
    assert search.round == 3
    trainer(tmp_path / "parts", 2)[0].train()
    resumed, other = trainer(tmp_path / "parts", 4)
    resumed.train(resume_from_checkpoint=True)
    assert other.history == search.history
    assert other.structure() == search.structure()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)
    (tmp_path / "parts" / f"checkpoint-{resumed.state.global_step}" / "local_search.json").unlink()
    with pytest.raises(ValueError, match=r"local_search\.json is missing"):
        trainer(tmp_path / "parts", 5)[0].train(resume_from_checkpoint=True)


@pytest.mark.filterwarnings("ignore")
def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="set its max_grad_norm=0"):
        trainer(tmp_path, 1, max_grad_norm=1.0)[0].train()
    made, search = trainer(tmp_path, 1)
    own = [p for p in made.model.parameters() if all(p is not weight for weight in search.branch_weights())]
    made.optimizer = torch.optim.SGD(own, lr=0.1)
    with pytest.raises(RuntimeError, match="does not hold the branch weights"):
        made.train()
