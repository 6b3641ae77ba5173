"""Other people's GPTs behind `jaxllm bench`: scripts for a Python that has PyTorch, and not jaxllm.

Each is started by its path, so these files import only one another, NumPy, PyTorch and the peer.
"""
