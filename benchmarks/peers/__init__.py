"""The same durable job on other systems, each in a virtual environment of its own."""
