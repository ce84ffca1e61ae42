"""Any scorer as a guide: each text is scored once, and its tokens are counted."""

from implicit_prm import ImplicitPRM
from implicit_prm.scoring.scorers import group_scorer
from implicit_prm.search.protocols import Prefix
from implicit_prm.search.rescoring import RescoringGuide
from implicit_prm.types import Problem, StepScores

PROBLEM = Problem("p", "Modulo 50, left to right: 1 + 2 * 3", "9")


class Lines:
    def __init__(self):
        self.seen = []

    def score(self, problem, responses, finished=None):
        self.seen += zip(responses, finished, strict=True)
        return [StepScores(text, [], [float(len(line)) for line in text.split()]) for text in responses]


def guide(scorer):
    return RescoringGuide(group_scorer(scorer), scorer, PROBLEM, PROBLEM.text)


def test_a_text_is_scored_once(tiny_folder):
    scorer = Lines()
    one = guide(scorer)
    first = one.score([Prefix("a\n"), Prefix("bb\n"), Prefix("a\n")], [0, 0, 0])
    assert [scores.step_rewards for scores in first] == [[1.0], [2.0], [1.0]]
    one.score([Prefix("a\n", finished=True), Prefix("bb\n")], [0, 1])
    assert scorer.seen == [("a\n", False), ("bb\n", False), ("a\n", True)]
    assert one.tokens is None  # it has no lengths


def test_tokens_of_an_implicit_prm_are_those_of_two_models(tiny_folder, other_folder):
    prm = ImplicitPRM.from_pretrained(tiny_folder, reference=str(other_folder), beta=0.5, steps="newline", device="cpu")
    one, prompt = guide(prm), len(prm.encoder.prompt_ids(PROBLEM.text))
    texts = ["1 + 2 = 3\n", "1 + 2 = 4\n3 * 3 = 9\n"]
    one.score([Prefix(text) for text in texts], [0, 0])
    lengths = [len(ids) for ids in prm.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    assert one.tokens == 2 * (prompt + sum(lengths))
