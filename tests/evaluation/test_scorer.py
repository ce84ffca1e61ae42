"""What is opened to score, and what names its scores."""

from implicit_prm.config import ScorerConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation.scorer import open_scorer
from tests.conftest import graded_rows, write_rows


def test_the_limit_is_the_models_unless_one_is_given_and_scores_are_kept_by_it(tmp_path, tiny_folder):
    groups = load_groups(str(write_rows(tmp_path / "candidates.jsonl", graded_rows(2, 3))))
    options = {"checkpoint": str(tiny_folder), "reference": "none", "beta": 1.0, "reference_cache": None}
    free, short = (
        open_scorer(ScorerConfig(**options, max_length=limit), "newline", skip_too_long=True) for limit in (None, 40)
    )
    assert (free.model.limit_tokens, short.model.limit_tokens) == (256, 40)
    assert all(score.step_rewards for group in groups for score in free.score(group))
    assert not any(score.step_rewards for group in groups for score in short.score(group))
    assert free.key(groups) != short.key(groups)
