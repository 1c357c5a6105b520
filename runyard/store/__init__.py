"""The event table: its schema and migrations, the connection pool, and one file of queries.

- `migrations/`: the tables, the fan-out trigger and the doors for plain SQL.
- `queries.sql`: every statement that the engine sends, with its name and the index that it uses.
- `queries.py`: reads them, and runs them by name.
- `database.py`: where the database is, and one pool of connections a process.
- `embedded.py`: the PostgreSQL that comes with the project.
- `migrate.py`: brings the tables up to date, once, under a lock.
"""
