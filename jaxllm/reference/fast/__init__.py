"""Twins of `jaxllm.fast`."""

from jaxllm.reference.fast import cached_gpt, few_rows, quantised_weights

__all__ = ["cached_gpt", "few_rows", "quantised_weights"]
