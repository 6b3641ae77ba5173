"""Files, validation, processes and errors: nothing about models."""
