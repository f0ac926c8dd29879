"""Whether a training is long enough for the rounds of its local search."""

import logging
from typing import Literal

from rfnext import LocalSearch, Search

log = logging.getLogger(__name__)


def check_rounds(search: Search | None, length: int, unit: Literal["epochs", "iterations"]) -> None:
    """Log that a training of so many epochs or iterations is too short for all rounds of its local search.

    Raises ValueError if not even one is run and the dilations would stay as they are, as by rule "paper".
    """
    if not isinstance(search, LocalSearch):
        return
    config = search.config
    fit = length // config.interval
    if fit >= config.rounds:
        return
    said = (
        f"the training has {length} {unit}, so {fit} of the {config.rounds} rounds of its search are run, one every "
        f"{config.interval}"
    )
    mend = f"lower --search.interval to {max(1, length // config.rounds)} or raise --epochs"
    if fit == 0 and config.rule == "paper":
        raise ValueError(f"{said}: it would find nothing; {mend}")
    last = "; dilations change once, at the end" if fit == 0 else ""
    log.warning("%s%s; %s", said, last, mend)
