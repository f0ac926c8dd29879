"""Training on one fold by Lightning's Trainer, and copy synthesis.

A run that is killed and resumed gives the weights of the uninterrupted one, bit for bit on CPUs: nothing that
is random depends on what was drawn before, only on the seed, the epoch and the batch.
"""

import contextlib
import dataclasses
import io
import logging
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from rfnext import LocalSearch, OneShotSearch
from rfnext.files import write_bytes
from rfnext.integrations.lightning import AtomicCheckpointIO, LocalSearchCallback, open_logger
from rfnext.integrations.wandb import log_structure
from rfnext.ops.choice import reproducible
from tasks.spec import SELECTED, Probe, Run
from tasks.tts_vocoder import checkpoint, losses
from tasks.tts_vocoder.data import Clips, Cuts, Recordings, Segments, Wave
from tasks.tts_vocoder.discriminators import MultiPeriod, MultiResolution, MultiScale
from tasks.tts_vocoder.generators import Generator
from tasks.tts_vocoder.mel import LogMel, MelConfig
from tasks.tts_vocoder.metrics import SHORTEST, log_mel_l1
from tasks.tts_vocoder.task import Config

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
"""Lightning's checkpoint of the last whole epoch, in `Run.folder`; what `Run.resume` continues from."""

GENERATOR = "generator.pt"
"""The generator of the best epoch with its mel and dilations, in `Run.folder`; what `synthesize` takes."""

AUDIO = "audio"
"""Folder in `Run.folder` with truth and output of validation clips at the end of training, as WAV files."""

SHOWN = 2
"""Validation clips that are written to `AUDIO` and, with their spectrograms, to the loggers."""


def fit(network: Generator, recordings: Recordings, config: Config, run: Run) -> None:
    """Train the generator in place on the fold's training part and leave it at its last epoch.

    By `config.recipe`, or by `config.search_recipe` if `run.search` is set. Every `config.validate_every` epochs, and
    after the last one, the log-mel distance of the validation part is measured; the weights of the epoch where it is
    least (the first of equals) go to `run.folder / SELECTED` and, as a file for `synthesize`, to `GENERATOR`. With
    `config.ema` all of that, and the network that is left, is the moving average. The test part is never read.

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run.
    """
    module = _Module(network, config, run)
    loader = DataLoader(
        Segments(recordings.train, config.segment),
        batch_size=config.batch,
        sampler=Cuts(len(recordings.train), config.segments_per_clip, run.seed),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        generator=torch.Generator(),  # else each epoch draws from the global one
    )
    callbacks: list[pl.Callback] = [_Validation(recordings.validation, config, run.folder)]
    if run.search is not None:
        callbacks += [LocalSearchCallback(run.search, every="epoch"), _AverageFollows(run.search)]
    # Lightning saves after all other callbacks, so a checkpoint holds the round that its epoch ended with.
    callbacks.append(
        ModelCheckpoint(run.folder, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False)
    )
    path = run.folder / CHECKPOINT
    if run.resume and not path.exists():
        log.info("%s does not exist: no epoch was finished, starting from the first", path)
    accelerator, devices = _placement(run.device)
    network.train()
    with _quiet(), open_logger(run.logger, run.folder, name=run.name, group=run.group) as logger:
        if logger:
            settings = dataclasses.asdict(config) | {"seed": run.seed, "fold": run.fold}
            logger.log_hyperparams({name: value for name, value in settings.items() if name != "root"})
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=config.precision,
            max_epochs=config.epochs,
            callbacks=callbacks,
            logger=logger or False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=run.folder,
            enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        try:
            with reproducible(trainer.strategy.root_device):
                trainer.fit(module, loader, ckpt_path=path if run.resume and path.exists() else None)
        except SystemExit as error:
            # Lightning makes an exit of Ctrl-C and goes on ignoring it; what it means is for the caller.
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        if run.search is not None and isinstance(logger, WandbLogger) and trainer.is_global_zero:
            log_structure(logger.experiment, run.search.structure(), run.search.initial)
    if module.average is not None:
        network.load_state_dict(module.average.module.state_dict())
    _write_audio(network, recordings.validation, run.folder / AUDIO)


@torch.no_grad()
def synthesise(network: Generator, mel: Tensor) -> Tensor:
    """Waves (B, F * hop) within [-1, 1] of log-mels (B, mels, F), in float32 on the CPU.

    Runs on the network's device in evaluation mode and leaves the mode as it was.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with reproducible(device):
            wave = network(mel.to(device))[:, 0]
    finally:
        network.train(training)
    return wave.float().clamp(-1, 1).cpu()


def copy_synthesis(network: Generator, clips: Clips) -> Iterator[tuple[Wave, Wave]]:
    """(truth, output) of every clip: the output is made of the truth's mel. Both are whole frames long."""
    config = network.mel_config
    log_mel = LogMel(config)
    for clip in clips:
        truth = _whole_frames(clip.wave, config)
        output = synthesise(network, log_mel(torch.from_numpy(truth)[None]))
        yield truth, output[0].numpy()


def _whole_frames(wave: Wave, config: MelConfig) -> Wave:
    # Fewer samples than a transform has cannot be reflected at their ends.
    wave = np.pad(wave, (0, max(0, max(config.n_fft, SHORTEST) - len(wave))))
    return wave[: len(wave) // config.hop * config.hop]


PROBED = 4
"""Clips that receptive fields are measured on."""

PROBED_FRAMES = 64
"""Frames of each, from its middle."""


def probe(network: Generator, clips: Clips) -> Probe:
    """What to measure receptive fields on: the middle of up to `PROBED` clips, the first ones of the part.

    The output is the waveform, (B, 1, F * hop) for mels (B, mels, F), a sample at a time: over a block of samples
    the gradients of a wave would cancel. Distances are mel frames.
    """
    config, device = network.mel_config, next(network.parameters()).device
    log_mel, inputs = LogMel(config), []
    for clip in clips.first(PROBED):
        mel = log_mel(torch.from_numpy(_whole_frames(clip.wave, config))[None])
        start = max(0, (mel.shape[2] - PROBED_FRAMES) // 2)
        inputs.append(mel[:, :, start : start + PROBED_FRAMES].to(device))
    return Probe(
        forward=network,
        inputs=inputs,
        unit="mel frames",
        step=(1.0,),
        output="a sample of the waveform",
    )


def _write_audio(network: Generator, clips: Clips, folder: Path) -> None:
    import soundfile

    rate = network.mel_config.sample_rate
    shown = clips.first(SHOWN)
    for name, pair in zip(shown.names, copy_synthesis(network, shown), strict=True):
        for kind, wave in zip(("truth", "output"), pair, strict=True):
            buffer = io.BytesIO()
            soundfile.write(buffer, wave, rate, format="WAV", subtype="PCM_16")
            write_bytes(folder / f"{name.replace('/', '-')}-{kind}.wav", buffer.getvalue())


class _Module(pl.LightningModule):
    """Losses, optimizers and learning rate of both recipes."""

    def __init__(self, network: Generator, config: Config, run: Run) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.config, self.search = network, config, run.search
        self.recipe = config.recipe if run.search is None else config.search_recipe
        self.log_mel = LogMel(config.mel)
        if self.recipe == "gan":
            # Compared up to half the sample rate, whatever the generator is shown (HiFi-GAN's own training).
            self.mel_loss = losses.MelLoss(_full_band(config))
            self.discriminators = _discriminators(config, run.seed)
        else:
            self.mel_loss = losses.MelLoss(config.mel)
            self.stft_loss = losses.MultiResolutionSTFT()
        average = get_ema_multi_avg_fn(config.ema) if config.ema is not None else None
        self.average = None if average is None else AveragedModel(network, multi_avg_fn=average).requires_grad_(False)
        # What makes a checkpoint useless to another run. A longer training may go on from a shorter one.
        self.run = {"seed": run.seed, "fold": run.fold, "searching": run.search is not None, "recipe": self.recipe}

    def scored(self) -> Generator:
        """The network whose output counts."""
        return self.network if self.average is None else cast(Generator, self.average.module)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        trained = [self.search.parameter_groups() if self.search else [{"params": list(self.network.parameters())}]]
        if self.recipe == "gan":
            trained.append([{"params": list(self.discriminators.parameters())}])
        return [torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.8, 0.99), fused=True) for groups in trained]

    def on_train_epoch_start(self) -> None:
        # From the epoch rather than by a scheduler, whose step Lightning takes only after the checkpoint.
        for group in (group for optimizer in self.trainer.optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.config.lr_decay**self.current_epoch

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """batch: (B, segment)"""
        torch.manual_seed(_derived_seed("step", self.run["seed"], self.current_epoch, batch_idx))
        real = batch[:, None]
        fake = self.network(self.log_mel(batch)).float()
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("run") != self.run:
            raise ValueError(
                f"cannot resume: the checkpoint is of the run {checkpoint.get('run')}, this one is "
                f"{self.run}; give another folder, or do not resume"
            )


def _full_band(config: Config) -> MelConfig:
    return dataclasses.replace(config.mel, fmax=None)


def _discriminators(config: Config, seed: int) -> nn.ModuleList:
    """Those of the config, with initial weights of the seed that disturb no other random numbers."""
    divisor = config.discriminator_divisor
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derived_seed("discriminators", seed))
        known = {
            "period": lambda: MultiPeriod(channels=32 // divisor),
            "scale": lambda: MultiScale(channels=128 // divisor),
            "resolution": lambda: MultiResolution(channels=32 // divisor),
        }
        return nn.ModuleList(known[name]() for name in config.discriminators)


class _Validation(pl.Callback):
    """Measures the validation part and keeps the weights of the best epoch, before the epoch's round of a search."""

    def __init__(self, clips: Clips, config: Config, folder: Path) -> None:
        self.clips, self.config, self.folder = clips, config, folder
        self.best = float("inf")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, _Module)
        epoch = trainer.current_epoch + 1
        if epoch % self.config.validate_every and epoch != self.config.epochs:
            return
        network = pl_module.scored()
        pairs = copy_synthesis(network, self.clips)
        distance = float(np.mean([log_mel_l1(*pair, self.config.mel) for pair in pairs]))
        pl_module.log("validation/mel_l1", distance)
        if distance < self.best:
            self.best = distance
            write_bytes(self.folder / SELECTED, _serialised(network.state_dict()))
            checkpoint.save(self.folder / GENERATOR, network, self.config.generator, self.config.sizes)
        _show(trainer.loggers, network, self.clips.first(SHOWN), trainer.global_step)
        log.info("epoch %d: mel_l1 %.3f", epoch, distance)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class _AverageFollows(pl.Callback):
    """Gives the moving average the branches of each round of a search."""

    def __init__(self, search: LocalSearch | OneShotSearch) -> None:
        self.search = search

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, _Module)
        history = self.search.history
        if pl_module.average is not None and history and history[-1].step == self.search.step:
            self.search.copy_to(pl_module.average.module)


def _show(loggers: list[Any], network: Generator, clips: Clips, step: int) -> None:
    """Audio and spectrograms of some clips, to the loggers that take such."""
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


def _serialised(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _derived_seed(*parts: str | int) -> int:
    """32 bits, all that torch's CPU generator takes, that differ wherever the parts do."""
    return random.Random("/".join(map(str, parts))).getrandbits(32)


def _placement(device: str) -> tuple[str, int | list[int]]:
    """Accelerator and devices of Lightning's Trainer for "auto", "cpu", "cuda" or "cuda:1"."""
    kind, _, index = device.partition(":")
    return kind, [int(index)] if index else 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements, and its advice on workers, which clips in memory do not need."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Folders hold other files, and may be moved between a run and its continuation.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", "The dirpath has changed")
            # Lightning 2.6 with torch 2.14
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`")
            yield
    finally:
        logger.setLevel(level)
