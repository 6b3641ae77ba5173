"""Tests of the model, against its NumPy twin."""
