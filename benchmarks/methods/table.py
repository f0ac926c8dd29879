"""METHODS: the rows of every table, in their order."""

from typing import TYPE_CHECKING

from benchmarks.methods.method import Finish, Method, SearchStage
from rfnext.lazy import LazyModule

if TYPE_CHECKING:
    from benchmarks.methods import genetic, peers, retrain, searches, stretched, transferred
else:
    genetic = LazyModule("benchmarks.methods.genetic")
    peers = LazyModule("benchmarks.methods.peers")
    retrain = LazyModule("benchmarks.methods.retrain")
    searches = LazyModule("benchmarks.methods.searches")
    stretched = LazyModule("benchmarks.methods.stretched")
    transferred = LazyModule("benchmarks.methods.transferred")

TUNED = SearchStage(
    "tuned",
    "hand design, its largest dilation chosen on validation at the cost of two trainings",
    searches.tuned,
    settings={"trainings": 2},
    trainings=2,
    shared=False,
    ranks=True,
    kind="tuning",
)
STRETCHED = SearchStage(
    "stretched",
    "hand design, its first and last dilation chosen on validation at the cost of three trainings",
    stretched.stretched,
    # Rungs are in trainings.
    settings={"rungs": (0.125, 0.375), "promoted": 0.25},
    trainings=3,
    ranks=True,
    powers=True,
    kind="tuning",
)
RANDOM = SearchStage(
    "random",
    "best of random structures, ranked on validation at the cost of one training",
    searches.random,
    settings={"candidates": 5},
    shared=False,
    ranks=True,
    kind="control",
)
LOCAL = SearchStage("local", "local search", searches.local, rounds=True)
TRANSFERRED = SearchStage(
    "transferred",
    "local search on another network, its dilations given to layers of the same role",
    transferred.transferred,
    rounds=True,
    donor=True,
)
ONE_SHOT = SearchStage(
    "one_shot",
    "one-shot search: one training with all powers of two in every conv",
    searches.one_shot,
    # See `rfnext.OneShotConfig`; warmup is a share of the training.
    settings={"readout": "log2", "learning_rate": 0.1, "sharpen": 1.0, "warmup": 0.0},
    powers=True,
)
ONE_SHOT_RANKED = SearchStage(
    "one_shot_ranked",
    "one-shot search, its structures and samples ranked on validation by short trainings",
    searches.one_shot_ranked,
    settings={"candidates": 5},
    start=ONE_SHOT,
    shared=False,
    ranks=True,
)
ONE_SHOT_TO_LOCAL = SearchStage(
    "one_shot_to_local", "one-shot search, then local search", searches.local, start=ONE_SHOT, rounds=True
)
GENETIC = SearchStage(
    "genetic",
    "genetic search with successive halving at the cost of six trainings",
    genetic.genetic,
    # Rungs and budget are in trainings.
    settings={"population": 8, "generations": 40, "rungs": (0.125, 0.375), "promoted": 0.25, "budget": 6},
    trainings=6,
    ranks=True,
    powers=True,
)
GENETIC_TO_LOCAL = SearchStage(
    "genetic_to_local", "genetic search, then local search", searches.local, start=GENETIC, rounds=True
)

SINGLE = Finish("single", "trained with one dilation per conv", retrain.single, alone="baseline")
MULTI = Finish("multi", "trained with branches around each dilation", retrain.multi, alone="baseline_multi")
MERGE = Finish("merge", "the search's network, branches merged into larger kernels, fine-tuned", retrain.merged)
AS_SEARCHED = Finish("as_searched", "the search's own network, not retrained", retrain.as_searched, trains=False)
KERNEL_ENLARGEMENT = Finish(
    "kernel_enlargement",
    "the hand-designed field at more taps, larger kernels of grouped channels, no more parameters",
    peers.kernel_enlargement,
    alone="kernel_enlargement",
    settings={"groups": 4},
)
LEARNABLE_SPACINGS = Finish(
    "learnable_spacings",
    "DCLS: taps learn their positions, at most 16 from the centre; their learning rate is chosen on validation at the "
    "cost of one training",
    peers.learnable_spacings,
    alone="learnable_spacings",
    settings={"reach": 16, "factors": (1, 10, 100), "trainings": 1},
    ranks=True,
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(None, SINGLE, standard=True),
        Method(TUNED, SINGLE, standard=True),
        Method(STRETCHED, SINGLE),
        Method(RANDOM, SINGLE),
        Method(None, MULTI),
        Method(None, KERNEL_ENLARGEMENT),
        Method(None, LEARNABLE_SPACINGS),
        Method(LOCAL, AS_SEARCHED, standard=True),
        Method(LOCAL, SINGLE, standard=True),
        Method(LOCAL, MULTI, standard=True),
        Method(LOCAL, MERGE, standard=True),
        Method(TRANSFERRED, SINGLE),
        Method(ONE_SHOT, SINGLE, standard=True),
        Method(ONE_SHOT_RANKED, SINGLE),
        Method(ONE_SHOT_TO_LOCAL, SINGLE, standard=True),
        Method(ONE_SHOT_TO_LOCAL, MULTI),
        Method(GENETIC, SINGLE),
        Method(GENETIC_TO_LOCAL, SINGLE),
        Method(GENETIC_TO_LOCAL, MULTI),
    )
}
