"""Weights that others have trained: the headers of their files, and single tensors out of them."""
