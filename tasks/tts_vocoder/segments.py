"""Segments of clips, which a training reads: where they are cut, and their samples and mels."""

import logging
import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tasks.tts_vocoder.data import Clips

log = logging.getLogger(__name__)


class Cut(NamedTuple):
    """Where to cut a segment. start: from 0, the clip's start, to 1 (exclusive), that of the last whole segment."""

    clip: int
    start: float


Segment = Tensor | tuple[Tensor, Tensor]
"""Samples (length), and if there are mels beside the recordings, those of the samples (mels, length / hop)."""


class Segments(Dataset[Segment]):
    """Segments of `length` samples: `segments[Cut(3, 0.5)]` is the middle one of clip 3.

    A shorter clip is padded with zeros at its end, its mel with silence; the log says it once per clip. With mels,
    segments start at a frame.
    """

    def __init__(self, clips: Clips, length: int) -> None:
        self.clips, self.length = clips, length
        self._padded: set[int] = set()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, cut: Cut) -> Segment:
        clip = self.clips[cut.clip]
        wave, mel, mels = torch.from_numpy(clip.wave), clip.mel, self.clips.shape.mels
        if len(wave) < self.length:
            if cut.clip not in self._padded:
                self._padded.add(cut.clip)
                name, seconds = self.clips.names[cut.clip], self.length / self.clips.shape.sample_rate
                log.info("%s is shorter than a segment of %.2f s and is padded with silence", name, seconds)
            wave = torch.nn.functional.pad(wave, (0, self.length - len(wave)))
        if mel is None or mels is None:
            start = int(cut.start * (len(wave) - self.length + 1))
            return wave[start : start + self.length]
        frames, hop = self.length // mels.config.hop, mels.config.hop
        mel = torch.nn.functional.pad(mel, (0, max(0, frames - mel.shape[1])), value=mels.config.silence)
        first = int(cut.start * (mel.shape[1] - frames + 1))
        return wave[first * hop : first * hop + self.length], mel[:, first : first + frames]


class Cuts(Sampler[Cut]):
    """`per_clip` random cuts of every clip in random order, new every epoch.

    They depend on the seed and the epoch only.
    """

    def __init__(self, clips: int, per_clip: int, seed: int) -> None:
        self.clips, self.per_clip, self.seed, self.epoch = clips, per_clip, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Cut]:
        generator = random.Random(f"cuts/{self.seed}/{self.epoch}")
        cuts = [Cut(clip, generator.random()) for clip in range(self.clips) for _ in range(self.per_clip)]
        generator.shuffle(cuts)
        return iter(cuts)

    def __len__(self) -> int:
        return self.clips * self.per_clip
