"""Twins of `jaxllm.fast`."""

from jaxllm.reference.fast import decode, quantised_weights

__all__ = ["decode", "quantised_weights"]
