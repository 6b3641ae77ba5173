"""One file a piece of the course: the right functions, inputs, and the catalogue of slips."""
