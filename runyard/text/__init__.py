"""Text as it is kept and shown: without secrets, and only what PostgreSQL can hold."""
