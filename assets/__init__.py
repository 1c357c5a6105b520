"""Tables that are made of what happened, as Dagster assets."""
