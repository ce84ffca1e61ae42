"""Final answers: where a response states one, and whether it equals the gold answer. Usable by itself."""

from implicit_prm.grading.grader import Grader, Verdict
from implicit_prm.grading.pool import GraderPool

__all__ = ["Grader", "GraderPool", "Verdict"]
