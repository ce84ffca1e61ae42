"""Shapes that several tests use."""

from dataclasses import replace

from implicit_prm.costs.shapes import Shape

LLAMA = Shape(6_979_588_096, 525_336_576, 525_336_576, 0, False, 32, 4096, 4096, 1024)
LORA = replace(LLAMA, adapter=41_943_040)
