"""Tests of the comparison with the reference."""
