"""The contact form: its recipient, its spam checks and its limits."""
