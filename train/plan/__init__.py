"""What a training run would need on devices that one may not have: compiled by XLA, and timed by a stated model."""
