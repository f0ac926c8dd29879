"""The local search in mmengine: a hook with the published arguments, and the runner that it needs.

A config of MMDetection 3, MMSegmentation 1 or any other project on mmengine searches with three entries:

    custom_imports = dict(imports=["rfnext.integrations.mmengine"], allow_failed_imports=False)
    runner_type = "RFSearchRunner"
    custom_hooks = [
        dict(type="RFSearchHook", mode="search", config=dict(search=dict(
            step=0, max_step=11, search_interval=1, exp_rate=0.5, init_alphas=0.01, mmin=1, mmax=24,
            num_branches=2))),
    ]

Every conv that can be searched is, in any detector; `skip_layer=["backbone.stem", "layer1"]` beside num_branches leaves
out what is in modules of these names.

A hook alone cannot do it: mmengine builds the optimizer before it calls any hook, so that branches wrapped around the
model by then would never be trained. `RFSearchRunner` builds the model, initialises its weights, wraps it, and only
then builds the optimizer; with another runner the hook raises an error. Where a search is already wrapped around the
model, `LocalSearchHook` attaches it to any runner.

Only mmengine is needed here. mmdet and the like also import the compiled operators of mmcv, which mmcv-lite lacks ("No
module named 'mmcv._ext'"). Where mmcv has none, importing this module puts `rfnext.integrations.compiled_ops` in their
place.
"""

import contextlib
import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from rfnext import files
from rfnext.branches import keep_branches
from rfnext.convs.padding import Conv
from rfnext.convs.searchable import unsearchable
from rfnext.dilation import Rule, check_rule
from rfnext.integrations.mmengine_checkpoints import checkpoint_globals
from rfnext.integrations.mmengine_runner import ContinuingRunner
from rfnext.integrations.mmengine_settings import SearchSettings, has_components
from rfnext.search.local import LocalSearch
from rfnext.search.protocol import Search
from rfnext.structure import Structure, named_convs

with contextlib.suppress(ImportError):  # without mmcv, or without torchvision
    from rfnext.integrations import compiled_ops

    compiled_ops.install()

with contextlib.suppress(ImportError), warnings.catch_warnings():
    # mmcv has a hook of the same name, which mmcv 2 never lets search, and refuses to come second in the registry.
    warnings.filterwarnings("ignore", ".*MultiScaleDeformableAttention")
    import mmcv.cnn as _  # noqa: F401

STATE, DILATIONS = "local_search", "dilations"
"""Keys in mmengine's checkpoints: the search's state, and the dilations of a single-branch network."""

MODES = ("search", "fixed_single_branch", "fixed_multi_branch")


class LocalSearchHook(Hook):
    """Counts epochs or iterations, runs the rounds, and keeps the search's state in mmengine's checkpoints.

        search = LocalSearch(model, LocalConfig())
        runner = Runner(model, ..., custom_hooks=[LocalSearchHook(search)])

    Build the search before the runner's `train`, which builds the optimizer; it is an error if that lacks the branch
    weights. `EMAHook`'s copy gets the new branches after each round. A resumed run continues with the branches,
    probabilities, counters and history that it stopped with.

    Args:
        search: the search over the runner's model or any part of it.
        every: what counts as a step: "epoch" or "iteration".
        settings: if given, `local_search_config_step<N>.json` is written to the runner's `work_dir` after each round,
            by rank 0 and atomically, in the published format with these as its "search" besides the step.
        verbose: log each round.
    """

    def __init__(
        self,
        search: Search,
        every: Literal["epoch", "iteration"] = "epoch",
        settings: Mapping[str, Any] | None = None,
        verbose: bool = True,
    ) -> None:
        if every not in ("epoch", "iteration"):
            raise ValueError(f"every must be 'epoch' or 'iteration', got {every!r}")
        self.search = search
        self.every = every
        self.settings = settings
        self.verbose = verbose

    def before_train(self, runner: Runner) -> None:
        """Raise RuntimeError if nothing would be searched: no steps are counted, or no optimizer has the weights."""
        if self.every == "epoch" and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise RuntimeError("the training counts no epochs, and nothing would be searched: set by_epoch=False")
        groups = runner.optim_wrapper.param_groups  # type: ignore[union-attr]
        if isinstance(groups, dict):  # of several optimizers
            groups = [group for own in groups.values() for group in own]
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        if not all(id(weight) in optimized for weight in self.search.branch_weights()):
            raise RuntimeError(
                "the optimizer does not hold the branch weights, so nothing would be searched: build LocalSearch "
                "before the optimizer, and let its parameters include LocalSearch.branch_weights()"
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Count an iteration."""
        if self.every == "iteration":
            self._after_step(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Count an epoch."""
        if self.every == "epoch":
            self._after_step(runner)

    def _after_step(self, runner: Runner) -> None:
        before = {**self.search.initial, **(self.search.history[-1].structure if self.search.history else {})}
        if not self.search.after_step():
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self.search.copy_to(hook.ema_model.module.get_submodule(self._path(hook.src_model)))
        if self.settings is not None and is_main_process():
            self._write(Path(runner.work_dir) / f"local_search_config_step{self.search.step}.json")
        if self.verbose:
            structure = self.search.history[-1].structure
            moved = {name: d for name, d in structure.items() if d != before[name]}
            runner.logger.info(
                f"local search: round {len(self.search.history)} moved {len(moved)} of {len(structure)} dilations"
                + "".join(f"\n  {name}: {before[name]} -> {d}" for name, d in moved.items())
            )

    def _write(self, path: Path) -> None:
        # The published tools expect names as they are under DDP.
        structure = {f"module.{name}": list(d) for name, d in self.search.history[-1].structure.items()}
        content = {"search": {**(self.settings or {}), "step": self.search.step}, "structure": structure}
        if anchors := self.search.initial.anchors:  # which the published tools do not know, and would ignore
            content |= {"version": 2, "anchor": {f"module.{name}": anchor for name, anchor in anchors.items()}}
        files.write_text(path, json.dumps(content, indent=4) + "\n")

    def _path(self, model: nn.Module) -> str:
        """The name of the searched network in the model that is trained."""
        for name, part in model.named_modules():
            if part is self.search.model:
                return name
        raise RuntimeError("the searched network is not part of the model that the runner trains")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the search's state."""
        checkpoint[STATE] = self.search.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Continue the search if the run is resumed; raises ValueError if the checkpoint is of no search."""
        if not runner._resume:  # load_from: the weights alone, for a search that begins
            return
        if STATE not in checkpoint:
            raise ValueError(
                "cannot resume: the checkpoint holds no local search; to begin one from its weights, give it as "
                "load_from and leave resume out"
            )
        self.search.load_state_dict(checkpoint[STATE])


@HOOKS.register_module(force=True)
class RFSearchHook(Hook):
    """Searches receptive fields, or trains with those that were found. Takes the arguments of mmcv's hook.

    It works in an `RFSearchRunner` (runner_type="RFSearchRunner" in the config, or `build_runner`).

    Args:
        mode: "search"; "fixed_single_branch", plain convs at the dilations of a structure; or "fixed_multi_branch",
            the branches around it kept and their probabilities trained.
        config: dict(search=dict(...)); "structure" as in a structure file; and "anchor", which tap of all convs stays
            in place when a dilation changes: "centre" or "last", or a list with one per axis. Arguments of "search":
            step, the steps that count as done already; max_step, which is exclusive: rounds are run at steps below
            it; search_interval, steps between two rounds; exp_rate, the spread; mmin and mmax, the bounds;
            num_branches; init_alphas, 0.01; and skip_layer, names of modules that are left alone with all that is in
            them. A name is one component of a module's name or several in a row, in full: "layer1" and
            "backbone.layer1" mean the module backbone.layer1, and neither means backbone.layer10. (mmcv's hook
            matched substrings.)
        rfstructure_file: structure to start from ("search") or to train with. Every conv that is not skipped needs
            an entry; entries of skipped layers are not used.
        by_epoch: a step is an epoch; otherwise an iteration.
        verbose: log what is done.
        rule: arithmetic of the search, see `rfnext.LocalConfig`: "default", which is free of the known faults of the
            published one, or "paper" for exactly that.

    Raises:
        ValueError: for an unknown mode, rule or argument, settings out of range, or a mode that lacks its structure.
    """

    def __init__(
        self,
        mode: str = "search",
        config: Mapping[str, Any] | None = None,
        rfstructure_file: str | None = None,
        by_epoch: bool = True,
        verbose: bool = True,
        rule: Rule = "default",
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"RFSearchHook: unknown mode {mode!r}; known: {', '.join(MODES)}")
        check_rule(rule)
        config = dict(config or {})
        for name in ("search", "structure"):
            if not isinstance(config.get(name) or {}, Mapping):
                raise ValueError(f"RFSearchHook: {name!r} in config is a dict, got {config[name]!r}")
        known = ("search", "structure", "anchor")
        if unknown := set(config) - set(known):
            raise ValueError(f"RFSearchHook: config has no entry {sorted(unknown)[0]!r}; it has {', '.join(known)}")
        anchor = config.get("anchor")
        self.anchor = tuple(anchor) if isinstance(anchor, list) else anchor
        self.mode = mode
        self.settings = SearchSettings.parse(config.get("search") or {})
        self.local_config = self.settings.local_config(rule)
        self.rfstructure_file = rfstructure_file
        self.structure = Structure(config["structure"]) if config.get("structure") else None
        self.by_epoch = by_epoch
        self.verbose = verbose
        self._prepared: nn.Module | None = None
        if mode != "search" and rfstructure_file is None and self.structure is None:
            raise ValueError(
                f"RFSearchHook: mode {mode!r} needs rfstructure_file, e.g. the local_search_config_step10.json that "
                "a search wrote to its work_dir"
            )

    def where(self, name: str, conv: Conv) -> bool:
        """Whether the layer of this name is not skipped."""
        return not any(has_components(name, skipped) for skipped in self.settings.skip_layer)

    def prepare(self, model: nn.Module) -> LocalSearchHook | None:
        """Wrap the model, whose weights are initialised by now; the optimizer comes after.

        Returns:
            The hook that runs the search, to be registered with the runner; None for the fixed modes.

        Raises:
            ValueError: if skip_layer names no module, the structure does not fit the model, or nothing is left to
                search; see `Structure.apply`, `keep_branches` and `LocalSearch`.
            OSError: if the structure file cannot be read.
        """
        names = [name for name, _ in model.named_modules()]
        for skipped in self.settings.skip_layer:
            if not any(has_components(name, skipped) for name in names):
                parts = {part for name in names for part in name.split(".")}
                close = difflib.get_close_matches(skipped, parts, n=1)
                raise ValueError(
                    f"RFSearchHook: skip_layer names {skipped!r}, which no module of the {type(model).__name__} is "
                    "called; whole components of names count" + (f"; did you mean {close[0]!r}?" if close else "")
                )
        structure = Structure.load(self.rfstructure_file) if self.rfstructure_file else self.structure
        if structure is not None:
            try:
                self._apply(structure, model)
            except ValueError as error:
                raise ValueError(f"{self.rfstructure_file or 'RFSearchHook: config.structure'}: {error}") from None
        self._prepared = model
        if self.mode != "search":
            return None
        search = LocalSearch(model, self.local_config, self.where, self.anchor)
        search.step = self.settings.step
        settings = asdict(self.settings) | {"skip_layer": list(self.settings.skip_layer)}
        return LocalSearchHook(search, "epoch" if self.by_epoch else "iteration", settings, self.verbose)

    def _apply(self, structure: Structure, model: nn.Module) -> None:
        dilations = {name: d for name, conv, d in structure.match(model) if self.where(name, conv)}
        used = Structure(dilations, {name: structure.anchors.get(name, self.anchor) for name in dilations})
        if self.mode != "fixed_multi_branch":
            used.apply(model, self.where)
            return
        for name, conv in named_convs(model).items():
            if unsearchable(conv) is None and self.where(name, conv) and name not in used:
                raise ValueError(f"the structure has no entry for layer {name!r}")
        keep_branches(model, used, self.local_config)

    def before_run(self, runner: Runner) -> None:
        """Raise RuntimeError in a runner that did not call `prepare`."""
        if self._prepared is None or self._prepared is not _unwrapped(runner.model):
            raise RuntimeError(
                f"RFSearchHook does nothing in a {type(runner).__name__}, which builds the optimizer before a hook "
                'can wrap the model: put runner_type = "RFSearchRunner" and custom_imports = '
                'dict(imports=["rfnext.integrations.mmengine"]) into the config, or use '
                "rfnext.integrations.mmengine.build_runner(cfg)"
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the dilations of a single-branch network, which its weights do not show."""
        if self.mode == "fixed_single_branch":
            checkpoint[DILATIONS] = _dilations(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if a training of another structure would go on with this one."""
        if runner._resume and checkpoint.get(DILATIONS, now := _dilations(runner)) != now:
            raise ValueError(
                f"cannot resume: the checkpoint is of another structure than {self.rfstructure_file or 'the config'}; "
                "give that one, or train in another work_dir"
            )


@RUNNERS.register_module()
class RFSearchRunner(ContinuingRunner):
    """mmengine's Runner in the order that `RFSearchHook` needs, for trainings that may be interrupted.

    It builds the model, initialises its weights (those that an init_cfg names are loaded), wraps it, and continues as
    mmengine does: DDP, optimizer, EMA, load_from or resume. Plain checkpoints load into the wrapped model, and its
    own ones with the branches that they were trained with. Without the hook it is a `ContinuingRunner`.
    """

    _weights_initialised = False
    _ready = False

    def train(self) -> nn.Module:
        """Wrap the model, then train it as mmengine does."""
        self.prepare(training=True)
        return super().train()

    def val(self) -> dict[str, Any]:
        """Wrap the model, then validate it as mmengine does."""
        self.prepare(training=False)
        return super().val()

    def test(self) -> dict[str, Any]:
        """Wrap the model, then test it as mmengine does."""
        self.prepare(training=False)
        return super().test()

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wrap the model by DDP, once it has its branch weights."""
        # DDP registers the parameters that there are, so it must come after the branch weights.
        return model if self.distributed and not self._ready else super().wrap_model(model_wrapper_cfg, model)

    def prepare(self, training: bool) -> None:
        """Let the hook wrap the model, once; for a training, after its weights are initialised or loaded.

        Raises:
            ValueError: if there are several such hooks.
        """
        if training:
            self._init_model_weights()
        if self._ready:
            return
        hooks = [hook for hook in self.hooks if isinstance(hook, RFSearchHook)]
        if len(hooks) > 1:
            raise ValueError(f"custom_hooks holds {len(hooks)} RFSearchHooks; a model can have one")
        for hook in hooks:
            following = hook.prepare(self.model)
            if hook.verbose:
                searched = "" if following is None else f", {len(following.search.initial)} convs searched"
                self.logger.info(f"RFSearchHook: {hook.mode}{searched}")
            if following is not None:
                self.register_hook(following, hook.priority)
        self._ready = True
        if self.distributed:
            self.model = self.wrap_model(self.cfg.get("model_wrapper_cfg"), self.model)

    def _init_model_weights(self) -> None:
        # mmengine calls it again later, when the model is wrapped and its initialisers no longer recognise the convs.
        if not self._weights_initialised:
            self._weights_initialised = True
            with checkpoint_globals():  # an init_cfg may name a file
                super()._init_model_weights()


def build_runner(cfg: Config | dict[str, Any]) -> RFSearchRunner:
    """The runner for a config with an `RFSearchHook` among its custom_hooks, whatever its runner_type.

    Raises ValueError if there is no such hook.
    """
    hooks: Sequence[Any] = cfg.get("custom_hooks") or ()
    types = [hook.get("type") if isinstance(hook, dict) else type(hook) for hook in hooks]
    if not any(kind is RFSearchHook or str(kind).rpartition(".")[2] == "RFSearchHook" for kind in types):
        raise ValueError('custom_hooks of the config has no dict(type="RFSearchHook", ...): nothing to search')
    return cast(RFSearchRunner, RFSearchRunner.from_cfg(cfg))


def _dilations(runner: Runner) -> dict[str, list[int]]:
    return {name: list(d) for name, d in Structure.read(_unwrapped(runner.model)).items()}


def _unwrapped(model: nn.Module) -> nn.Module:
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model
