"""Tests of the tokenizers and their files."""
