"""Hugging Face's Trainer as docs/library.md says: the network's own gradients are clipped, branches' are not."""

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
