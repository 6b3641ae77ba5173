"""The program around jaxllm: config, training loop, checkpoints, reports, command line."""
