"""The dev metrics, by hand."""

import pytest
import torch

from implicit_prm.training import dev_metrics


def test_dev_metrics_by_hand():
    """Prompt 1: correct 0.3 and 0.1, incorrect 0.2. Prompt 2: incorrect 0.5, correct 0.4, and a hole."""
    outcome = torch.tensor([[0.3, 0.1, 0.2], [0.5, 0.4, -100.0]])
    lowest = torch.tensor([[-1.0, -1.0, -1.0], [-3.0, -2.0, -100.0]])
    labels = torch.tensor([[1, 1, 0], [0, 1, -100]])
    sums = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    metrics = dev_metrics(
        type(
            "P",
            (),
            {"predictions": (torch.stack([outcome, lowest], -1).numpy(), sums.numpy()), "label_ids": labels.numpy()},
        )
    )
    assert metrics["rewards/accuracies"] == pytest.approx((1 + 0 + 0) / 3)
    assert metrics["rewards/margins"] == pytest.approx((0.1 - 0.1 - 0.1) / 3, abs=1e-6)
    assert metrics["pass_at_1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["best_of_n/sum"] == pytest.approx((1 + 0) / 2)
    assert metrics["best_of_n/min"] == pytest.approx((2 / 3 + 1) / 2)  # three equals share the pick of prompt 1
