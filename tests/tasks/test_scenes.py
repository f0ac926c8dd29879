"""The scenes that tasks share: four octaves of sizes, held-out sources."""

import numpy as np
import pytest

from tasks import scenes


def test_sizes_span_four_octaves():
    source = scenes.Source.open(1, held_out=False, digits=10)
    heights, areas = [], []
    for number in range(60):
        scene = scenes.compose(source, f"sizes {number}")
        assert scene.image.shape == (256, 256, 3)
        for segment in range(2, len(scene.categories)):
            mask = scene.segments == segment
            heights.append(np.ptp(np.flatnonzero(mask.any(axis=1))) + 1)
            areas.append(mask.sum())
    octaves = np.floor(np.log2(np.array(heights) / 15.5)).astype(int)
    assert min(np.bincount(octaves.clip(0, 3))) > 20
    assert min(heights) < 18
    assert max(heights) > 200
    small, large = np.mean(np.array(areas) < 32**2), np.mean(np.array(areas) >= 96**2)
    assert min(small, large, 1 - small - large) > 0.05  # of COCO's three sizes


@pytest.mark.parametrize("fold", scenes.FOLDS)
def test_test_scenes_share_no_glyph_and_no_pixel_with_training(fold):
    train, test = (scenes.Source.open(fold, held_out=held_out, digits=10) for held_out in (False, True))
    for digit in range(10):
        seen = {glyph.tobytes() for glyph in train.glyphs[digit]}
        unseen = {glyph.tobytes() for glyph in test.glyphs[digit]}
        assert len(unseen - seen) >= 0.98 * len(unseen)  # a handful of 8 x 8 images were drawn twice
        assert len(train.glyphs[digit]) + len(test.glyphs[digit]) >= 170
    for kind, names in scenes.PHOTOGRAPHS.items():
        assert len(train.photographs[kind]) == 2 * len(names)
        assert len(test.photographs[kind]) == len(names)
    whole = scenes.Source.open(fold, held_out=True, digits=2)
    assert len(whole.glyphs) == 2
