"""Which event starts which job, with its flow control: one module for each family."""
