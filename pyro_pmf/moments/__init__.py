"""Numbers and their distributions: sums over pairs, expectations, random quantities."""
