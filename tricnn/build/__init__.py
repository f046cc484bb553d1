"""From Triton source to machine code: one compile service, its cache, and what the machine code says."""
