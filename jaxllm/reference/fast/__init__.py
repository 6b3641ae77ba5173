"""Twins of `jaxllm.fast`."""

from jaxllm.reference.fast import attention, quantised_weights

__all__ = ["attention", "quantised_weights"]
