"""`jaxllm learn`: a learner writes the pieces of a language model, and is told what is wrong with each."""
