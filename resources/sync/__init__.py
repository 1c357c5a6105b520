"""Other systems' data, read exactly and loaded into tables of this database with dlt."""
