"""The tests, a room for each room of the code; helpers are in `support`, programs in `tools`."""
