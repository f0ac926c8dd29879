"""Whether a training is long enough for the rounds of its local search."""

import logging

import rfnext
from tasks.spec import SearchUnit

log = logging.getLogger(__name__)


def shortage(config: rfnext.LocalConfig, length: int, unit: SearchUnit) -> str | None:
    """What is said of a training of so many epochs or iterations that is too short for all rounds of its local search.

    None if it has all of them.
    """
    fit = length // config.interval
    if fit >= config.rounds:
        return None
    said = (
        f"the training has {length} {unit}, so {fit} of the {config.rounds} rounds of its search are run, one every "
        f"{config.interval}"
    )
    if fit == 0:
        said += ": it would find nothing" if config.rule == "paper" else "; dilations change once, at the end"
    if config.interval == 1:
        return f"{said}; lower --search.rounds to {length} or raise --epochs"
    return f"{said}; lower --search.interval to {max(1, length // config.rounds)} or raise --epochs"


def check_rounds(search: "rfnext.Search | None", length: int, unit: SearchUnit) -> None:
    """Log the `shortage` of a training.

    Raises ValueError if not even one round is run and the dilations would stay as they are, as by rule "paper".
    """
    if not isinstance(search, rfnext.LocalSearch) or not (said := shortage(search.config, length, unit)):
        return
    if search.config.rule == "paper" and length < search.config.interval:
        raise ValueError(said)
    log.warning("%s", said)
