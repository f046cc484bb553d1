"""What a person reads: figures with their units, tables, progress."""
