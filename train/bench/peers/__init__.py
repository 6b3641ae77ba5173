"""Peers of `jaxllm bench`: scripts for a Python that has PyTorch and need not have jaxllm.

`nanogpt` and `hf` train, `nanogpt_writer` and `hf_writer` generate. They share `torch_worker` and `torch_writer`; all
timed processes, ours included, share `protocol`. `nanogpt_losses` evaluates what nanoGPT's own train.py has saved. Each
script is started by its path, so these files import only one another, NumPy, PyTorch and the peer.
"""
