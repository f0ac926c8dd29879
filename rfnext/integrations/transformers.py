"""Any search inside Hugging Face's Trainer: its rounds, its state in the checkpoints, and gradient clipping."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

from rfnext import files
from rfnext.search.protocol import Search

FILE = "local_search.json"
"""In every checkpoint of the Trainer: the search's state. Branches and their weights are in the model's own file."""


class SearchCallback(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues]
    """Counts epochs or optimizer steps, runs the rounds, and lets a resumed training go on with its search.

        search = LocalSearch(model, LocalConfig())  # before the Trainer
        Trainer(model=model, args=arguments, callbacks=[SearchCallback(search)]).train()

    Args:
        search: over the Trainer's model or any part of it.
        every: what counts as a step.
        max_norm: if given, the gradients of `search.parameters_to_clip()` are clipped at this norm; set the Trainer's
            own max_grad_norm to 0, which would clip the branch weights, too.

    Raises, when training begins, RuntimeError if the optimizer lacks the branch weights or both clip, and ValueError if
    the checkpoint to go on from holds no state of this search.
    """

    def __init__(
        self, search: Search, every: Literal["epoch", "step"] = "epoch", max_norm: float | None = None
    ) -> None:
        if every not in ("epoch", "step"):
            raise ValueError(f"every must be 'epoch' or 'step', got {every!r}")
        self.search, self.every, self.max_norm = search, every, max_norm

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the settings, and take the state of the checkpoint if the training is resumed."""
        if self.max_norm is not None and (args.max_grad_norm or args.fp16):
            raise RuntimeError("max_norm clips beside the Trainer: set its max_grad_norm=0, and train without fp16")
        optimized = {id(p) for group in kwargs["optimizer"].param_groups for p in group["params"]}
        if not all(id(weight) in optimized for weight in self.search.branch_weights()):
            raise RuntimeError("the optimizer does not hold the branch weights: build the search before the Trainer")
        if state.global_step:
            path = _folder(args, state) / FILE
            if not path.is_file():
                raise ValueError(f"cannot resume: {path} is missing, the state of the search at this checkpoint")
            self.search.load_state_dict(files.read_json(path))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clip the network's own gradients."""
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.search.parameters_to_clip(), self.max_norm)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an optimizer step."""
        if self.every == "step":
            self.search.after_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an epoch."""
        if self.every == "epoch":
            self.search.after_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the search's state into the checkpoint that was written."""
        if state.is_world_process_zero:
            files.write_text(_folder(args, state) / FILE, json.dumps(self.search.state_dict()) + "\n")


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
