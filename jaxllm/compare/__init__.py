"""A computation in JAX beside its reference in NumPy: values, gradients and a report of the differences.

`assert_close_to_reference` and `compare_function` compare any function or Linen module with a function of NumPy, or
with numbers that another program has saved, which `recorded` reads. `compare_model` compares the GPT with
`jaxllm.reference.gpt`, `compare_optimizer` a step of Optax with `jaxllm.reference.optimizer`; the command
`jaxllm compare` prints both. `jaxllm.compare.pairs` compares two models with each other.
"""

from jaxllm.compare.function import assert_close_to_reference, compare_function
from jaxllm.compare.measure import Comparison
from jaxllm.compare.model import compare_model
from jaxllm.compare.optimizer import compare_optimizer
from jaxllm.compare.random_parameters import random_parameters
from jaxllm.compare.recorded import recorded
from jaxllm.compare.report import Report
from jaxllm.compare.tolerances import MODEL_TOLERANCES, TOLERANCES, arithmetic

__all__ = [
    "MODEL_TOLERANCES", "TOLERANCES", "Comparison", "Report", "arithmetic", "assert_close_to_reference",
    "compare_function", "compare_model", "compare_optimizer", "random_parameters", "recorded",
]  # fmt: skip
