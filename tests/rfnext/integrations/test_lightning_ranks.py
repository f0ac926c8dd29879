"""Lightning's Trainer with two ranks (gloo), which equals its training by one process on whole batches."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rfnext import Search, Structure
from tests.rank_processes import environment_of_ranks
from tests.rfnext.search.training_on_ranks import BATCH, local, loss, network

pl = pytest.importorskip("lightning.pytorch")

from rfnext.integrations.lightning import LocalSearchCallback  # noqa: E402

EPOCHS = 3


class Training(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.search: Search = local(network())
        self.network: nn.Module = self.search.model

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return loss(self.network, batch[0])

    def train_dataloader(self) -> Any:
        """Rank 0 of two has samples 0, 2, ... in their order: together they have the batches of one."""
        ranks = self.trainer.world_size
        x = torch.randn(4 * BATCH, 2, 40, generator=torch.Generator().manual_seed(1)).double()
        return DataLoader(TensorDataset(x[self.global_rank :: ranks]), batch_size=BATCH // ranks)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(folder: Path, devices: int, strategy: Any) -> Any:
    module = Training()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        use_distributed_sampler=False,  # it shuffles
        callbacks=[LocalSearchCallback(module.search, folder=folder)],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    torch.save(module.network.state_dict(), folder / f"weights{trainer.global_rank}.pt")
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders without workers and within itself
def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    module = fit(tmp_path / "one", 1, "auto")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(tmp_path)],
        env=environment_of_ranks(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = module.network.state_dict()
    assert module.search.structure() != module.search.initial
    for round_ in range(1, EPOCHS + 1):
        names = [folder / f"structure-round{round_}.json" for folder in (tmp_path, tmp_path / "one")]
        assert Structure.load(names[0]) == Structure.load(names[1])
    for rank in range(2):
        weights = torch.load(tmp_path / f"weights{rank}.pt", weights_only=True)
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-10)


if __name__ == "__main__":
    fit(Path(sys.argv[1]), 2, "ddp")
