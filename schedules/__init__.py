"""What runs on a cron schedule: maintenance, analytics, data sources."""
