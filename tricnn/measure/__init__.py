"""How long it takes: clocks, contests, tuning."""
