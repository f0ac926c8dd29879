"""The embedded scenes: every pixel has the class of what lies on top of it."""

import numpy as np

from tasks.scenes import STUFF, Source, compose
from tasks.semantic_segmentation.data import open_scenes


def test_labels_are_those_of_the_scenes_segments():
    dataset = open_scenes(2, 6, 2, digits=3, smallest=60.0, validation=0.34)
    assert dataset.classes == (*STUFF, "digit 0", "digit 1", "digit 2")
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [4, 2, 2]
    seen = set()
    for part, kind, number in (
        (dataset.train, "train", 1),
        (dataset.validation, "train", 5),
        (dataset.test, "test", 1),
    ):
        source = Source.open(2, held_out=kind == "test", digits=3, smallest=60.0)
        scene = compose(source, f"digit scenes 2 {kind} {number}")
        sample = part[number % 4 if kind == "train" else number]
        assert np.array_equal(sample.image, scene.image)
        for segment, category in enumerate(scene.categories):
            name = next((name for name, id_ in STUFF.items() if id_ == category), f"digit {category - 1}")
            values = np.unique(sample.labels[scene.segments == segment])
            assert values.tolist() in ([], [dataset.classes.index(name)])
            seen.add(name)
    assert len(seen) >= 5


def test_of_the_least_scenes_one_is_left_for_training():
    dataset = open_scenes(1, 2, 1, digits=1, smallest=200.0, validation=0.99)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [1, 1, 1]
