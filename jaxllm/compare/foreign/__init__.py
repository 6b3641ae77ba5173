"""A model of another program beside ours: where its numbers part from ours, and which known slip explains it.

`piece` is one module's recorded input, output and parameters. `diagnosis` fits a departure against the known slips.
"""

from jaxllm.compare.foreign.diagnosis import Explanation, departure, diagnose
from jaxllm.compare.foreign.piece import KINDS, ForeignPiece

__all__ = ["KINDS", "Explanation", "ForeignPiece", "departure", "diagnose"]
