"""Unit tests, tests on a database, of a job in this process, of the stack, and of its faults."""
