"""Options of the trainer: which are refused, and what is said of warm-up."""

import pytest

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.training.arguments import training_arguments
from tests.runs import config, weights


def test_a_run_of_warm_up_only_is_reported(tmp_path, tiny_folder, rollouts_file):
    said = []
    fit(config(tmp_path / "one", tiny_folder, rollouts_file, max_steps=1, warmup_steps=0.03), said.append)
    assert any("the only optimiser step had a learning rate of 0, so nothing was learnt" in line for line in said)
    assert all((weights(tmp_path / "one")[name] == value).all() for name, value in weights(tiny_folder).items())
    said.clear()
    fit(config(tmp_path / "more", tiny_folder, rollouts_file, max_steps=3, warmup_steps=1), said.append)
    assert not any("warm" in line for line in said)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rat", 1e-4, "trainer.learning_rat: .* trainer.learning_rate"),
        ("label_smoothing_factor", 0.1, "trainer.label_smoothing_factor"),
        ("use_liger_kernel", True, "trainer.use_liger_kernel"),
        ("eval_strategy", "sometimes", "sometimes"),
        ("report_to", "nobody", "nobody"),
        ("report_to", "comet_ml", "(?i)comet"),  # not installed
    ],
)
def test_unsupported_options_are_refused(key, value, message, tmp_path, tiny_folder, rollouts_file):
    run = config(tmp_path / "run", tiny_folder, rollouts_file)
    run.trainer[key] = value
    with pytest.raises(ImplicitPRMError, match=message):
        training_arguments(run)
