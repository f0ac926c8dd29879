"""The parts of a fold, the carving of validation videos, and batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.action_segmentation.data import IGNORED, carve_validation, open_dataset, upsample
from tasks.action_segmentation.ms_tcn_format.lengths import Sampling
from tasks.spec import DataError

LENGTHS = {"s5_a": 156, "s5_b": 163}
"""Frames of the test videos of `root`."""

SHARED = Path(__file__).parents[4] / "shared" / "data" / "action_segmentation" / "50salads_svm_1fps"


@pytest.mark.defect(32)
def test_reads_features_and_labels(root):
    dataset = open_dataset(root, fold=1)
    assert (dataset.classes, dataset.feature_size) == (("cut", "mix", "background"), 4)
    assert dataset.test.names == ("s5_a", "s5_b")
    assert sorted(dataset.train.names + dataset.validation.names) == [
        f"s{n}_{take}" for n in range(1, 5) for take in "ab"
    ]
    video = dataset.part("test")[1]
    assert (video.name, video.features.shape) == ("s5_b", (4, LENGTHS["s5_b"]))
    assert video.features.dtype == np.float32
    assert video.labels.dtype == np.int64
    np.testing.assert_array_equal(video.features[2], 2000 + np.arange(LENGTHS["s5_b"]))
    np.testing.assert_array_equal(video.full_labels, np.arange(LENGTHS["s5_b"]) // 10 % 3)
    assert [v.name for v in dataset.train] == list(dataset.train.names)


@pytest.mark.parametrize("stride", [1, 2, 3, 1000])
def test_stride_takes_every_nth_frame_and_upsample_undoes_it(root, stride):
    for video in open_dataset(root, fold=1, sampling=Sampling(stride)).test:
        frames = LENGTHS[video.name]
        np.testing.assert_array_equal(video.features[0], np.arange(0, frames, stride))
        assert len(video.full_labels) == frames
        restored = upsample(video.labels, stride, frames)
        np.testing.assert_array_equal(restored, [video.full_labels[t // stride * stride] for t in range(frames)])
    for predictions in (0, 5):
        with pytest.raises(ValueError, match="are not of 7 frames"):
            upsample(np.zeros(predictions), 2, 7)
    assert upsample(np.array([5, 6]), 2, 7).tolist() == [5, 5, 6, 6, 6, 6, 6]


@pytest.mark.parametrize("shape", [(4, 150), (1, LENGTHS["s5_a"])])
def test_features_that_change_their_shape_meanwhile_are_refused(root, shape):
    test = open_dataset(root, fold=1).test
    np.save(root / "features" / "s5_a.npy", np.zeros(shape))
    for use in (lambda: test[0], lambda: test.batch([0, 1])):
        with pytest.raises(DataError, match=r"s5_a\.npy: .* \(4, 156\): it has changed meanwhile"):
            use()


def test_reads_real_features():
    if not SHARED.is_dir():
        pytest.skip(f"no real features in {SHARED}")
    dataset = open_dataset(SHARED, fold=2, group=r"rgb-\d+")
    parts = dataset.train, dataset.validation, dataset.test
    assert [len(part) for part in parts] == [32, 8, 10]
    subjects = [{video.name[:6] for video in part} for part in parts]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 25
    assert (dataset.feature_size, len(dataset.classes)) == (28, 18)


class TestValidation:
    def test_keeps_groups_together_and_depends_on_the_fold_alone(self):
        videos = [f"P{subject:02d}_cam{camera}_P{subject:02d}_tea" for subject in range(3, 23) for camera in "123"]
        train, held_out = carve_validation(videos, fold=1, share=0.2, group=r"P\d+")
        assert (len(train), len(held_out)) == (48, 12)
        assert {v[:3] for v in train}.isdisjoint(v[:3] for v in held_out)
        assert carve_validation(videos[::-1], fold=1, group=r"P\d+") == (train[::-1], held_out[::-1])
        assert carve_validation(videos, fold=2, group=r"(P\d+)_")[1] != held_out

    def test_takes_whole_groups_as_near_to_the_share_as_they_allow(self):
        videos = [f"S{subject}_{take}" for subject in range(1, 4) for take in range(7)]  # GTEA: 3 of 4 subjects
        assert len(carve_validation(videos, fold=1, share=0.2, group=r"(S\d+)_")[1]) == 7
        assert len(carve_validation(videos, fold=1, share=0.99, group=r"S\d+")[1]) == 14
        assert len(carve_validation(videos, fold=1, share=0.2)[1]) == 4

    @pytest.mark.parametrize(
        ("videos", "arguments", "message"),
        [
            (["a"], {}, r"fold 1 has no validation video: the training videos \(1\) are of one group"),
            (["P1_a", "P1_b"], {"group": r"P\d"}, r"the training videos \(2\) are of one group"),
            (["a", "b"], {"group": "("}, "not a regular expression"),
            (["a", "b"], {"group": "S"}, "matches none of the training videos, such as 'a'"),
            (["a", "b"], {"share": 0.0}, "above 0 and below 1"),
            (["a", "b"], {"share": 1.0}, "above 0 and below 1"),
        ],
    )
    def test_refuses_an_empty_part(self, videos, arguments, message):
        with pytest.raises(ValueError, match=message):
            carve_validation(videos, fold=1, **arguments)

    def test_an_empty_part_of_a_folder_names_its_bundle(self, root):
        bundle = root / "splits/train.split1.bundle"
        bundle.write_text(bundle.read_text().splitlines()[0] + "\n")
        with pytest.raises(DataError, match=rf"{bundle}: fold 1 has no validation video"):
            open_dataset(root, fold=1)


def test_a_batch_is_padded_at_the_end(root):
    batch = open_dataset(root, fold=1).test.batch([1, 0])
    lengths, frames = (LENGTHS["s5_b"], LENGTHS["s5_a"]), LENGTHS["s5_b"]
    assert batch.features.shape == (2, 4, frames)
    assert (batch.features.dtype, batch.labels.dtype, batch.mask.dtype) == (torch.float32, torch.int64, torch.bool)
    for k, length in enumerate(lengths):
        assert batch.mask[k, 0].tolist() == [t < length for t in range(frames)]
        assert batch.labels[k].tolist() == [t // 10 % 3 for t in range(length)] + [IGNORED] * (frames - length)
        for row in range(4):
            assert batch.features[k, row].tolist() == [1000 * row + t for t in range(length)] + [0] * (frames - length)
