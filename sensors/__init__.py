"""Which event starts which job, and under which flow control: one module a family."""
