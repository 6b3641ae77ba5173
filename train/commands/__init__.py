"""A file for each command, with its options and what it does, and the helpers of a command beside it."""
