"""A small world with misconceptions: problems, an exact step checker and a tiny policy, so that all runs offline.

Real policies are wrong in habits: they believe some false facts, and believe them on and off. The sandbox's policy is
built that way (see `world.py`), which leaves a reward model something to learn that votes cannot see.
"""

from pathlib import Path

from implicit_prm.sandbox.world import check_steps, problems

# A plain Hugging Face folder: `AutoModelForCausalLM.from_pretrained(POLICY_PATH)`.
POLICY_PATH = Path(__file__).parent / "policy"

__all__ = ["POLICY_PATH", "check_steps", "problems"]
