"""The contact form: who gets its messages, and how spam is told."""
