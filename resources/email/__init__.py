"""Mail: written, sent through SendGrid or into an outbox, and what became of it."""
