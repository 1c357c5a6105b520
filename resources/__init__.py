"""What the families' ops use, in a folder for each family.

`tables` of a family has its own tables in this database; the other modules are its clients of other
systems and its algorithms. `settings` has the settings of all families.
"""
