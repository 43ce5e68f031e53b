"""The papers' comparisons: every row trained alike, one JSON per run, and tables beside the papers' figures."""
