"""Tests of training that goes on from weights that exist."""
