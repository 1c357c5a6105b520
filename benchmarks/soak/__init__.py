"""A soak test: processes, the database and the broker are disturbed at random under load.

They are killed, stopped and restarted. `functions` contains the functions, whose steps leave a mark
when they begin and when they have had their effect. `load` sends the events, `faults` injects the
faults, `brokers` starts the brokers that carry the runs, and `verdict` compares the marks and the
tables with the guarantees.
"""
