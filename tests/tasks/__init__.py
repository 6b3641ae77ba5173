"""Tests of `train/tasks`."""
