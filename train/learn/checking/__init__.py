"""`jaxllm learn check`: runs the learner's functions in a process, compares, and says which mistake it is."""
