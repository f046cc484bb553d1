"""From a plan to Triton source and machine code."""
