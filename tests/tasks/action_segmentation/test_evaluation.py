"""Predictions cover every frame; what counts in which metric."""

import dataclasses

import pytest
import torch

from tasks.action_segmentation.data import open_dataset
from tasks.action_segmentation.evaluation import predict, score
from tasks.action_segmentation.models import ms_tcn
from tasks.action_segmentation.ms_tcn_format.lengths import Sampling


@pytest.fixture(scope="module")
def dataset(embedded):
    return open_dataset(embedded, fold=1, sampling=Sampling(16))


@pytest.fixture
def model():
    return ms_tcn(12, 7, stages=2, layers=3, maps=8)


def test_prediction_covers_every_frame_and_restores_the_mode(model, dataset):
    video = dataset.test[0]
    for training_mode in (False, True):
        model.train(training_mode)
        found = predict(model, video.features, dataset.step, len(video.full_labels))
        assert all(module.training is training_mode for module in model.modules())
    assert found.shape == video.full_labels.shape
    batch = dataset.test.batch([0])
    expected = model.eval()(batch.features)[-1, 0].argmax(0).numpy()
    assert (found[::16] == expected).all()
    assert (found[15::16] == expected[: len(found[15::16])]).all()


def test_background_counts_only_in_accuracy(model, dataset):
    renamed = dataclasses.replace(dataset, classes=("background", *dataset.classes[1:]))
    scores = score(model, renamed, dataset.validation, "i+1")
    assert scores["accuracy"] == score(model, dataset, dataset.validation, "i+1")["accuracy"]
    with torch.no_grad():  # predict nothing but background
        for parameter in model.parameters():
            parameter.zero_()
        model.stages[-1].classify.bias[0] = 1
    assert score(model, renamed, dataset.validation, "i+1")["edit"] == 0
    assert score(model, dataset, dataset.validation, "i+1")["edit"] > 0
