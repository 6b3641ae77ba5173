"""Twins of `jaxllm.fast`."""
