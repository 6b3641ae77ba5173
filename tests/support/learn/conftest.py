"""Solutions of the course: five folders with the same names, of which some need torch. They are no test modules."""

collect_ignore_glob = ["solutions/*"]
