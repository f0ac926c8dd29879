"""Training on one fold; `tasks.lightning_fit` has what all Lightning tasks share."""

import contextlib
import dataclasses
import functools
import io
import math
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rfnext.files import write_bytes
from tasks import checkpoint
from tasks.diverged import NotFinite
from tasks.lightning_fit import Training, Validation, derived_seed, train
from tasks.prefetch import Prefetching
from tasks.spec import SELECTED, Run
from tasks.tts_vocoder import losses
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import Clips
from tasks.tts_vocoder.datasets import open_fold
from tasks.tts_vocoder.discriminators import MultiPeriod, MultiResolution, MultiScale
from tasks.tts_vocoder.evaluation import copy_synthesis
from tasks.tts_vocoder.generators import Generator
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.metrics import log_mel_l1
from tasks.tts_vocoder.models import generator_of
from tasks.tts_vocoder.segments import Cuts, Segments

AUDIO = "audio"
"""Folder in `Run.folder` with truth and output of validation clips at the end of training, as WAV files."""

SHOWN = 2
"""Validation clips that are written to `AUDIO` and, with their spectrograms, to the loggers."""


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """Train the generator in place on the fold's training part and leave it at its last epoch.

    By `config.recipe`, or by `config.search_recipe` if `run.search` is set. Every `config.validate_every` epochs, and
    after the last one, the log-mel distance of the validation part is measured. The network of the epoch with the
    least distance (the first of equals) goes to `run.folder / SELECTED`, a file for `synthesize`.
    With `config.ema`, the moving average is measured, selected and kept. The test part is never read.

    Raises:
        TypeError: if the model is no generator.
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run.
    """
    network, recordings = generator_of(model), open_fold(config, run.fold)
    module = _Training(network, config, run)
    loader = Prefetching(
        Segments(recordings.train, config.segment),
        batch_size=config.batch,
        sampler=Cuts(len(recordings.train), config.segments_per_clip, run.seed),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        generator=torch.Generator(),  # else each epoch draws from the global one
    )
    validation = _Validation(recordings.validation, config, run.folder / SELECTED)
    train(module, loader, config, run, validation, config.precision)
    if module.average is not None:
        network.load_state_dict(module.average.module.state_dict())
    with contextlib.suppress(NotFinite):  # what diverged has no audio
        _write_audio(network, recordings.validation, run.folder / AUDIO)


class _Training(Training):
    """Losses, optimizers and learning rate of both recipes."""

    network: Generator

    def __init__(self, network: Generator, config: Config, run: Run) -> None:
        recipe = config.recipe if run.search is None else config.search_recipe
        super().__init__(network, run, recipe=recipe)
        self.automatic_optimization = False
        self.config, self.recipe = config, recipe
        self.log_mel = LogMel(config.mel)
        if recipe == "gan":
            # Compared up to half the sample rate, whatever mels the generator is given (HiFi-GAN's own training).
            self.mel_loss = losses.MelLoss(_full_band(config))
            self.discriminators = _discriminators(config, run.seed)
        else:
            self.mel_loss = losses.MelLoss(config.mel.compared)
            self.stft_loss = losses.MultiResolutionSTFT()
        average = get_ema_multi_avg_fn(config.ema) if config.ema is not None else None
        self.average = None if average is None else AveragedModel(network, multi_avg_fn=average).requires_grad_(False)

    def scored(self) -> Generator:
        """The network whose output counts."""
        return self.network if self.average is None else cast(Generator, self.average.module)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        trained = [self.network_groups()]
        if self.recipe == "gan":
            trained.append([{"params": list(self.discriminators.parameters())}])
        return [torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.8, 0.99), fused=True) for groups in trained]

    def on_train_epoch_start(self) -> None:
        self.scale_learning_rates(self.config.lr_decay**self.current_epoch)

    def on_train_epoch_end(self) -> None:
        # Lightning calls this after the search's callback and before it saves.
        history = self.search.history if self.search else ()
        if self.average is not None and self.search and history and history[-1].step == self.search.step:
            self.search.copy_to(self.average.module)

    def training_step(self, batch: Tensor | list[Tensor], batch_idx: int) -> None:
        """batch: (B, segment), or with mels beside the recordings, these and (B, mels, segment / hop)"""
        self.seed_step("step", batch_idx)
        wave, mel = (batch, self.log_mel(batch)) if isinstance(batch, Tensor) else batch
        real = wave[:, None]
        fake = self.network(mel).float()
        if self.recipe == "gan":
            optimizer, critic = self.optimizers()  # type: ignore[misc]
            self._step(critic, {"discriminator": self._discriminator_loss(real, fake)})
            self._step(optimizer, self._gan_loss(real, fake))
        else:
            self._step(
                self.optimizers(),
                {"mel": self.mel_loss(fake, real), "stft": self.stft_loss(fake, real)},
            )
        if self.average is not None:
            self.average.update_parameters(self.network)

    def _step(self, optimizer: Any, terms: dict[str, Tensor]) -> None:
        """One step down the sum of the terms, each of which is logged."""
        optimizer.zero_grad()
        self.manual_backward(torch.stack(list(terms.values())).sum())
        optimizer.step()
        values = {f"loss/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=self.config.batch)

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        self.discriminators.requires_grad_(True)
        judged = [(part(real)[0], part(fake.detach())[0]) for part in self.discriminators]
        return torch.stack([losses.discriminator_loss(*scores) for scores in judged]).sum()

    def _gan_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        self.discriminators.requires_grad_(False)
        adversarial, matching = [], []
        for part in self.discriminators:
            with torch.no_grad():
                _, real_maps = part(real)
            scores, maps = part(fake)
            adversarial.append(losses.adversarial_loss(scores))
            matching.append(losses.feature_matching_loss(real_maps, maps))
        return {
            "mel": losses.MEL_WEIGHT * self.mel_loss(fake, real),
            "adversarial": torch.stack(adversarial).sum(),
            "features": losses.FEATURE_WEIGHT * torch.stack(matching).sum(),
        }


def _full_band(config: Config) -> MelConfig:
    return dataclasses.replace(config.mel.compared, fmax=None)


def _discriminators(config: Config, seed: int) -> nn.ModuleList:
    """The config's discriminators; their initial weights depend on the seed and change no other random number."""
    divisor = config.discriminator_divisor
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("discriminators", seed))
        known = {
            "period": lambda: MultiPeriod(channels=32 // divisor),
            "scale": lambda: MultiScale(channels=128 // divisor),
            "resolution": lambda: MultiResolution(channels=32 // divisor),
        }
        return nn.ModuleList(known[name]() for name in config.discriminators)


class _Validation(Validation):
    """Log-mel distance of the validation part; gives loggers audio and pictures."""

    def __init__(self, clips: Clips, config: Config, selected: Path) -> None:
        keep = functools.partial(checkpoint.save, selected, "tts_vocoder", config)
        super().__init__(keep, config.validate_every, higher_is_better=False)
        self.clips, self.config = clips, config

    def measure(self, network: nn.Module) -> tuple[dict[str, float], float]:
        pairs = copy_synthesis(generator_of(network), self.clips)
        try:
            distance = float(np.mean([log_mel_l1(*pair, self.config.mel) for pair in pairs]))
        except NotFinite:
            distance = math.nan
        return {"mel_l1": distance}, distance

    def after(self, trainer: pl.Trainer, network: nn.Module) -> None:
        if math.isfinite(self.scores["mel_l1"]):
            _show(trainer.loggers, generator_of(network), self.clips.first(SHOWN), trainer.global_step)


def _show(loggers: list[Any], network: Generator, clips: Clips, step: int) -> None:
    """Audio and spectrograms of some clips, to TensorBoard and Weights & Biases."""
    for logger in loggers:
        if not isinstance(logger, (TensorBoardLogger, WandbLogger)):
            continue
        from tasks.tts_vocoder.illustrate import pixels

        rate = network.mel_config.sample_rate
        image = pixels(network, clips)
        outputs = {name: wave for name, (_, wave) in zip(clips.names, copy_synthesis(network, clips), strict=True)}
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("spectrograms", image, step, dataformats="HWC")
            for name, wave in outputs.items():
                logger.experiment.add_audio(f"output/{name}", torch.from_numpy(wave)[None], step, rate)
        else:
            logger.log_image("spectrograms", [image], step)
            logger.log_audio("output", list(outputs.values()), step, sample_rate=[rate] * len(outputs))


def _write_audio(network: Generator, clips: Clips, folder: Path) -> None:
    import soundfile

    rate = network.mel_config.sample_rate
    shown = clips.first(SHOWN)
    for name, pair in zip(shown.names, copy_synthesis(network, shown), strict=True):
        for kind, wave in zip(("truth", "output"), pair, strict=True):
            buffer = io.BytesIO()
            soundfile.write(buffer, wave, rate, format="WAV", subtype="PCM_16")
            write_bytes(folder / f"{name.replace('/', '-')}-{kind}.wav", buffer.getvalue())
