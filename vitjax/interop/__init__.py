"""Other libraries' weights: names and shapes as tables that are used both ways."""
