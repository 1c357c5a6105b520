"""`make demo`: start the stack, send events through every entry point, print the outcomes."""
