"""The tables in PostgreSQL, and everything that talks SQL to them; nothing of Dagster.

- `schema/`: the tables, triggers and SQL functions, by subject; `migrations/` creates them.
- `queries.sql`, `gateway.sql`, `dev.sql`, `retention.sql`, `rollups.sql`: every statement that is
  sent, each with a name, a description and the indexes it uses.
- `queries.py`: reads these files, and runs their statements by name.
- `database.py`: where the database is, and one pool of connections per process.
- `embedded.py`: the PostgreSQL server that ships with the project; `embedded_access.py` says who
  may connect to it, `embedded_programs.py` runs its programs, and `private_folders.py` keeps its
  folders closed to other users.
- `data_folder.py`: the project's data folder.
"""
