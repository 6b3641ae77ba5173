"""Training that goes on from weights that exist, on examples of a task."""
