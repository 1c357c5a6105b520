"""Which event starts which steps, with its flow control: the functions of each family."""
