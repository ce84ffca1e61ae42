"""Token-level guidance: the logits are the weighted sum of log-probabilities, whatever is selected and appended."""

import torch

from implicit_prm.rollouts.generation import DecodingRows
from implicit_prm.search.mixed_rows import MixedRows
from tests.conftest import tiny_model


def test_log_probabilities_are_added_with_their_weights(tokenizer):
    models, weights = [tiny_model(tokenizer, seed) for seed in range(3)], [1.0, 0.3, -0.3]
    context = [5, 6, 7]
    with torch.no_grad():
        rows = MixedRows([(DecodingRows(m, [context]), w) for m, w in zip(models, weights, strict=True)])
        rows.keep(torch.tensor([0, 0]))
        rows.append(torch.tensor([8, 9]))
        rows.append(torch.tensor([10, 0]), torch.tensor([False, True]))
        rows.keep(torch.tensor([1, 0]))
        for place, ids in enumerate([[*context, 9], [*context, 8, 10]]):
            parts = [m(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for m in models]
            expected = sum(w * part for part, w in zip(parts, weights, strict=True))
            torch.testing.assert_close(rows.logits[place], expected, atol=1e-5, rtol=1e-4)
