"""A file a trainer: what opens a watch inside it, and closes it whatever happens."""
