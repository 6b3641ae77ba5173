"""A model of another program beside ours: where its numbers part from ours, and which known slip explains it.

`record` is the file that records a step of a PyTorch model, and `trace` reads what it wrote. `names` and `layouts`
say which of their arrays is which of ours, and `matched` has them by our names. `side_by_side` compares all numbers
from the tokens on, then by `replay` and `backward` each module on their input. `piece` is one module's recorded
input, output and parameters. `diagnosis` fits a departure against the known slips.
"""

from jaxllm.compare.foreign.diagnosis import Explanation, departure, diagnose
from jaxllm.compare.foreign.piece import KINDS, ForeignPiece

__all__ = ["KINDS", "Explanation", "ForeignPiece", "departure", "diagnose"]
