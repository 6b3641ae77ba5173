"""Runs on many devices, by one process or by several."""
