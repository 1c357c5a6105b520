"""Text as it is stored and shown: without secrets, and only what PostgreSQL can hold."""
