"""Functions of modules that are imported at the first call: torch takes seconds, which --help and --list do not need.

if TYPE_CHECKING:  # what editors and type checkers read
    from tasks.tts_vocoder import training
else:
    training = LazyModule("tasks.tts_vocoder.training")

fit = training.fit  # a function as any other; the module is imported when it is called
"""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LazyFunction:
    """A function of a module that is imported at the first call; it can be pickled."""

    module: str
    name: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it."""
        return getattr(importlib.import_module(self.module), self.name)(*arguments, **named)


class LazyModule:
    """A module of which only functions are used. Attributes are functions that import it when they are called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> LazyFunction:
        if name.startswith("__"):
            raise AttributeError(name)
        return LazyFunction(self._name, name)
