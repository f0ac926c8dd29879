"""Cases and trainings of action segmentation, of the study `segmentation_at_equal_cost`."""

from functools import lru_cache
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.studies.equal_cost_training import Case, Design, SearchConfig, Training
from rfnext import Where
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.data import Batch, Dataset, Video
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.evaluation import score
from tasks.action_segmentation.models import build, searched
from tasks.action_segmentation.training import Shuffled
from tasks.lightning_fit import derived_seed
from tasks.spec import Part


class SegmentationCase(Case):
    """A data set, one of its folds, and a seed."""

    @property
    def where(self) -> Where:
        """The dilated convs."""
        return searched

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return -(-len(_opened(self.config, self.fold).dataset.train) // self.config.batch)

    def untrained(self) -> nn.Module:
        """The network, by torch's seed."""
        return build(self.config)

    def training(self, design: Design | None = None, config: SearchConfig | None = None) -> Training:
        """A training that has not begun."""
        return SegmentationTraining(self, design, config)


class SegmentationTraining(Training):
    """What `tasks.action_segmentation.training` computes."""

    def prepare(self) -> None:
        """Keep the fold in memory, and tell the network of its labels."""
        self._fold = _opened(self.case.config, self.case.fold)
        self.network.prepare(video.labels for video in self._fold.videos["train"])

    def rate(self, epoch: int) -> float:
        """A tenth from `Config.lr_drop_epoch` on."""
        drop = self.case.config.lr_drop_epoch
        return 0.1 if drop is not None and epoch >= drop else 1.0

    def loss(self, epoch: int, batch: int) -> Tensor:
        """The task's, of some videos."""
        order = Shuffled(len(self._fold.dataset.train), self.case.seed)
        order.set_epoch(epoch)
        size = self.case.config.batch
        chosen = _batch(self.case.config, self.case.fold, tuple(order)[batch * size : (batch + 1) * size])
        torch.manual_seed(derived_seed("dropout", self.case.seed, epoch, batch))
        return self.network.objective(chosen, self.case.config.smoothing)

    def measure(self, part: Part) -> dict[str, float]:
        """f1@10, f1@25, f1@50, edit and accuracy, in percent; all are nan if the network diverged."""
        return score(self.network, self._fold.dataset, self._fold.videos[part], self.case.config.last_segment)

    def error(self, scores: dict[str, float]) -> float:
        """100 less the mean of the five metrics, by which the task selects an epoch."""
        return 100 - fmean(scores.values())


class _Fold(NamedTuple):
    dataset: Dataset
    videos: dict[Part, list[Video]]


@lru_cache(maxsize=1)
def _opened(config: Config, fold: int) -> _Fold:
    dataset = open_fold(config, fold)
    parts: tuple[Part, ...] = ("train", "validation", "test")
    return _Fold(dataset, {part: list(dataset.part(part)) for part in parts})


@lru_cache(maxsize=2048)
def _batch(config: Config, fold: int, indices: tuple[int, ...]) -> Batch:
    return _opened(config, fold).dataset.train.batch(indices)
