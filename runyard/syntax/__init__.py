"""What people write, parsed: durations, times, JSON paths, and how long things are kept."""
