"""Training that begins from weights that exist: the base, what of it is trained, examples, objectives, merging."""
