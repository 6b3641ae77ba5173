"""Tests of corpora, shards and batches."""
