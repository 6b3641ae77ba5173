"""Tests of the course: its pieces, what a learner is shown, and the commands around it."""
