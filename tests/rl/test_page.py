"""The page of a run: what the log has, without anything that is loaded from elsewhere."""

from implicit_prm.rl import page
from tests.pages import Page


def rows():
    for step in (1, 2):
        yield {"step": step, "rewards/correct/mean": 0.25 * step, "prm/return": -1.0, "prm/outcome_auroc": None}
    yield {"step": 2, "eval_rewards/correct/mean": 0.75}
    yield {"step": 2, "train_loss": 0.1}


def test_curves_of_what_was_logged(tmp_path):
    page.write(tmp_path / "report.html", list(rows()), {"grpo.seed": 1, "policy": "<b>"}, "prime", 64)
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "128 responses in 2 optimiser steps" in shown.text
    assert "75.0 %" in shown.text
    assert "50.0 %" in shown.text
    assert "grpo.seed" in shown.text
    images = [dict(attributes) for name, attributes in shown.tags if name == "img"]
    assert [image["alt"].split(",")[0] for image in images] == ["Accuracy", "Return of the process rewards"]
    assert all(image["src"].startswith("data:image/png") for image in images)
    assert "<b>" not in shown.source.partition("All options")[2]


def test_an_empty_log_is_a_page_too(tmp_path):
    page.write(tmp_path / "report.html", [], {}, "prime", 64)
    assert "0 responses" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
