"""What a run leaves on disk: its folder, checkpoints, metrics, samples and loss plot, and reading them back."""
