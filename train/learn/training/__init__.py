"""`jaxllm learn train`: the learner's functions in the place of ours."""
