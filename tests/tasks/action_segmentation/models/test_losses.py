"""The losses against loops over frames."""

import pytest
import torch
from torch.nn import functional as F

from tasks.action_segmentation.data import IGNORED
from tasks.action_segmentation.models.losses import loss


class TestLoss:
    @staticmethod
    def slow(logits, labels, lengths, smoothing):
        """Frame by frame."""
        total = 0.0
        for stage in logits:
            entropies, steps = [], []
            for video, target, length in zip(stage, labels, lengths, strict=True):
                log_p = F.log_softmax(video, dim=0)
                for t in range(length):
                    if target[t] != IGNORED:
                        entropies.append(-log_p[target[t], t])
                    if t > 0:
                        difference = log_p[:, t] - log_p[:, t - 1].detach()
                        steps.extend(torch.clamp(difference**2, max=16))
            total = total + torch.stack(entropies).mean()
            if steps:
                total = total + smoothing * torch.stack(steps).mean()
        return total

    @pytest.mark.parametrize("lengths", [[9, 9], [4, 9], [1, 2], [1, 1]])
    def test_equals_a_loop_over_frames(self, lengths):
        frames = max(lengths)
        logits = 4 * torch.randn(3, 2, 5, frames, dtype=torch.float64)  # large enough for the clip to count
        labels = torch.randint(0, 5, (2, frames))
        mask = torch.zeros(2, 1, frames, dtype=torch.bool)
        for k, length in enumerate(lengths):
            labels[k, length:] = IGNORED
            mask[k, :, :length] = True
        labels[0, 0] = IGNORED if lengths[0] > 1 else labels[0, 0]  # an unlabelled frame of the video itself
        one, other = (logits.clone().requires_grad_() for _ in range(2))
        value, expected = loss(one, labels, mask, 0.15), self.slow(other, labels, lengths, 0.15)
        torch.testing.assert_close(value, expected)
        value.backward()
        expected.backward()
        torch.testing.assert_close(one.grad, other.grad)

    @pytest.mark.defect(33)
    def test_padding_changes_nothing(self):
        logits = torch.randn(2, 3, 4, 10)
        labels = torch.randint(0, 4, (3, 10))
        mask = torch.ones(3, 1, 10, dtype=torch.bool)
        padded = (F.pad(logits, (0, 7)), F.pad(labels, (0, 7), value=IGNORED), F.pad(mask, (0, 7)))
        torch.testing.assert_close(loss(logits, labels, mask, 0.15), loss(*padded, 0.15))

    def test_is_finite_without_any_label(self):
        logits = torch.randn(2, 1, 4, 1, requires_grad=True)
        value = loss(logits, torch.full((1, 1), IGNORED), torch.ones(1, 1, 1, dtype=torch.bool), 0.15)
        value.backward()
        assert value == 0
        assert not logits.grad.any()
