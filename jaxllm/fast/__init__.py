"""What exists only for speed, a file beside each textbook file that it serves."""
