"""A small synthetic task: problems, an exact step checker and a tiny policy, so that everything runs offline.

Real policies make systematic errors: they hold some false beliefs and act on them some of the time. The sandbox's
policy is built the same way (see `world.py`), so a reward model can learn something that majority votes cannot.
"""

from pathlib import Path

from implicit_prm.sandbox.world import check_steps, problems

# A plain Hugging Face folder: `AutoModelForCausalLM.from_pretrained(POLICY_PATH)`.
POLICY_PATH = Path(__file__).parent / "policy"

__all__ = ["POLICY_PATH", "check_steps", "problems"]
