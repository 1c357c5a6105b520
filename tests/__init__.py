"""Tests of units, of the database, of jobs in this process, of the stack, and of its failures."""
