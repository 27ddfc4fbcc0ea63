"""Callbacks that open a watch inside other trainers. Each is a module of its own, which imports its framework."""
