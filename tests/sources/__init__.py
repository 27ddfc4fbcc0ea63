"""Bugs that others have listed: for each, the rule that names it, on a small loop with that bug."""
