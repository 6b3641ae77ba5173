"""Twins of `jaxllm.fast`."""

from jaxllm.reference.fast import cached_gpt, quantised_weights

__all__ = ["cached_gpt", "quantised_weights"]
