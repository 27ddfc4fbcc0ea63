"""One check a file, in the folder of its family; each family's `__init__` registers it."""
