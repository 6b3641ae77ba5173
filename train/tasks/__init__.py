"""Tasks that score a trained model by the likelihood of texts, as benchmarks do."""
