"""What the families' ops use, in a folder for each family: clients of other systems, the families'
own tables, and `settings`. Each is a Dagster resource or a plain module."""
