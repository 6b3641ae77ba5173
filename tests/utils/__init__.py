"""Tests of files, processes and errors."""
