"""Tests of other people's weights, in and out."""
