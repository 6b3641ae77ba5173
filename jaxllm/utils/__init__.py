"""Files and their encoding, validation of config fields, processes, and errors. Nothing here knows about models."""
