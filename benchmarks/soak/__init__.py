"""A soak: events come in while processes, the database and the broker are killed, stopped and restarted at random.

`functions` are what runs; each of their steps leaves a mark when it begins and when it has had its effect. `load` sends the events, `faults` does the
harm, `brokers` are what carries the runs, and `verdict` compares marks and tables with what was promised.
"""
