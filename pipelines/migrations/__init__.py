"""The pipelines' tables, in the schema `app`; `runyard migrate` runs these after the engine's."""
