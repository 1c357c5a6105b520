"""`make demo`: starts the stack, sends events through every way in, and prints what became of them."""
