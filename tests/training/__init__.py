"""Tests of training runs and of what they leave on disk."""
