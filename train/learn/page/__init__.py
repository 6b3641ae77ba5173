"""`jaxllm learn show`: one page with every number that a model makes of a text."""
