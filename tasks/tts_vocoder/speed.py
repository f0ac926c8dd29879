"""Speed of a generator before and after a search: `python -m tasks.tts_vocoder.speed [GENERATOR]`.

Prints a table: the real-time factor (seconds of computing per second of speech; below 1 is faster than real time) of
the hand-designed generator and of its searched forms, as a whole and chunk by chunk; how far each reads ahead; the
latency of a chunk: from its first frame until its sound is made; and the time of a training step, forward and backward,
plain and in search. All rows are timed in turns, so other load on the machine affects all alike; the minimum over turns
is printed. On one thread seconds are CPU seconds.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from rfnext import Bounds, LocalConfig, LocalSearch, Structure, keep_branches
from rfnext.files import explained
from tasks.ranges import COUNT, THREADS, Range, number_in
from tasks.tts_vocoder.export import context, merged
from tasks.tts_vocoder.generators import (
    GENERATORS,
    CausalHiFiGAN,
    Generator,
    Stream,
    build,
    remove_weight_norm,
    searched,
)
from tasks.tts_vocoder.mels.mel import MelConfig

BRANCHES = LocalConfig(branches=3, spread=0.5, bounds=Bounds(1, 64))


def forms(network: Generator, structure: Structure | None) -> dict[str, Generator]:
    """The generator as designed, with a structure, with branches, and with merged branches."""
    designed = copy.deepcopy(network).eval()
    result = {"hand-designed": designed}
    centre = Structure.read(network, searched)
    if structure is not None:
        result["single branch"] = single = copy.deepcopy(designed)
        structure.apply(single)
        centre = structure
    result["3 branches"] = several = copy.deepcopy(designed)
    keep_branches(several, centre, BRANCHES)
    result["3 branches merged"] = merged(several)
    for name in ("hand-designed", "single branch"):
        if name in result:
            remove_weight_norm(result[name])
    return result


def real_time_factors(networks: dict[str, Generator], *, seconds: float = 4.0, turns: int = 5) -> dict[str, float]:
    """Seconds of computing per second of speech of each network, the minimum over turns, on random mels."""
    config = next(iter(networks.values())).mel_config
    mel = torch.randn(1, config.mels, round(seconds * config.sample_rate / config.hop))
    length = mel.shape[2] * config.hop / config.sample_rate

    def synthesis(network: Generator) -> Callable[[], object]:
        return lambda: network(mel)

    with torch.no_grad():
        times = _interleaved({name: synthesis(network) for name, network in networks.items()}, turns)
    return {name: least / length for name, least in times.items()}


def streaming(networks: dict[str, Generator], *, chunk: int, turns: int = 5) -> dict[str, tuple[int, float]]:
    """Frames that each network reads ahead, and seconds of making a chunk of `chunk` frames within a long stream.

    A causal generator keeps what it has read (`Stream`); others compute each chunk from all frames that it depends on,
    as `export.stream` does. The minimum over turns.
    """
    around = {name: context(network) for name, network in networks.items()}

    def next_chunk(name: str, network: Generator) -> Callable[[], object]:
        if isinstance(network, CausalHiFiGAN):
            stream, mel = Stream(network), torch.randn(1, network.mel_config.mels, chunk)
            return lambda: stream(mel)
        mel = torch.randn(1, network.mel_config.mels, chunk + sum(around[name]))
        return lambda: network(mel)

    with torch.no_grad():
        times = _interleaved({name: next_chunk(name, network) for name, network in networks.items()}, turns)
    return {name: (around[name][1], times[name]) for name in networks}


def training_steps(network: Generator, *, batch: int = 4, segment: int = 8192, turns: int = 3) -> dict[str, float]:
    """Seconds of forward and backward, "plain" and "search" (3 branches), on random mels."""
    config = network.mel_config
    mel = torch.randn(batch, config.mels, segment // config.hop)
    searching = copy.deepcopy(network).train()
    LocalSearch(searching, BRANCHES, searched)

    def step(model: nn.Module) -> Callable[[], object]:
        return lambda: model(mel).square().mean().backward()

    return _interleaved({"plain": step(copy.deepcopy(network).train()), "search": step(searching)}, turns)


def _interleaved(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Minimum seconds of each call over turns; every turn makes each call once, and a first turn is not counted.

    On one thread they are CPU seconds: a busy machine counts less.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if turn:
                least[name] = min(least[name], clock() - start)
    return least


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.tts_vocoder.speed",
        description="Real-time factor of a generator's searched forms on the CPU, and what a training step costs.",
    )
    parser.add_argument("generator", nargs="?", default="hifi_gan_v1", choices=list(GENERATORS))
    parser.add_argument("--structure", type=Path, help="structure file: a row for the generator with its dilations")
    parser.add_argument(
        "--seconds", type=number_in(Range(above=0, most=600)), default=4.0, help="of speech; default: %(default)s"
    )
    parser.add_argument(
        "--chunk", type=number_in(COUNT, int), default=4, help="frames of a chunk of a stream; default: %(default)s"
    )
    parser.add_argument(
        "--turns", type=number_in(COUNT, int), default=5, help="of which the least time counts; default: %(default)s"
    )
    parser.add_argument("--threads", type=number_in(THREADS, int), default=1, help="of torch; default: %(default)s")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    try:
        structure = None if given.structure is None else Structure.load(given.structure)
        network = build(given.generator, MelConfig())
        networks = forms(network, structure)
        factors = real_time_factors(networks, seconds=given.seconds, turns=given.turns)
        streamed = streaming(networks, chunk=given.chunk, turns=given.turns)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {explained(error)}")
    print(
        f"{given.generator}, {given.threads} thread(s), {given.seconds:g} s of speech, least of {given.turns} turns; "
    )
    print(f"in chunks of {given.chunk} frames:\n")
    print("| generator | real-time factor | x hand-designed | in chunks | look-ahead, ms | latency, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    frame = network.mel_config.hop / network.mel_config.sample_rate
    for name, factor in factors.items():
        ahead, seconds = streamed[name]
        latency = (ahead + given.chunk) * frame + seconds
        numbers = [f"{factor:.3f}", f"{factor / factors['hand-designed']:.2f}", f"{seconds / given.chunk / frame:.3f}"]
        print(f"| {' | '.join([name, *numbers, f'{1000 * ahead * frame:.0f}', f'{1000 * latency:.0f}'])} |")
    steps = training_steps(network, turns=given.turns)
    print(f"\nTraining step: plain {steps['plain']:.2f} s, in search {steps['search'] / steps['plain']:.2f} x")


if __name__ == "__main__":
    main()
