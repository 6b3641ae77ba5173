"""Tokenizers in the files of other programs."""
