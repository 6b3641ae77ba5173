"""Peers of `jaxllm bench`: scripts for a Python that has PyTorch and need not have jaxllm.

`nanogpt` and `hf` train, `nanogpt_writer` and `hf_writer` generate; `torch_worker` and `torch_writer` are what they
share, and `protocol` is what every process that is timed shares, ours included. Each script is started by its path, so
these files import only one another, NumPy, PyTorch and the peer.
"""
