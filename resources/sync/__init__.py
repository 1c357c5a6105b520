"""Data of other systems, read exactly and loaded into tables of this database with dlt."""
