"""Fusion: the nodes of a graph grouped into kernels, by rules that are tried one site at a time (fuser.py)."""
