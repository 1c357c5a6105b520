"""Mail: rendering, sending through SendGrid or into a local outbox, and delivery reports."""
