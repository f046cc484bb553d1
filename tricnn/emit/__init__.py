"""From a program to one readable Triton file."""
