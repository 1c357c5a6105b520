"""What the families' ops use: mailers, templates, tables of their own. Each is a Dagster resource or a plain module."""
