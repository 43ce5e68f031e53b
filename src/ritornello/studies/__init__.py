"""Comparisons, the papers' and that of recipes: every row trained alike, one JSON per run, and tables of them."""
