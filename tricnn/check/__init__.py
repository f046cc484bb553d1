"""Is it right: verification, counting of bytes, races."""
