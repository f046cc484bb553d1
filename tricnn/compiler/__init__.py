"""Passes: each a named function from one immutable value to the next."""
