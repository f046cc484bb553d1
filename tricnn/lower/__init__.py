"""From a plan to a program: the template, tile, grid and the two small functions of every launch."""
