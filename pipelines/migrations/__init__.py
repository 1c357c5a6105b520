"""The tables of the families, in the schema `app`; `runyard migrate` runs these after the engine's own."""
