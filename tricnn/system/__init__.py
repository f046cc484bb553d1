"""What a machine gives and how it is asked for: paths, files, cores, and the limits of what tricnn takes on.
Every floor may import it; of tricnn it imports the errors only."""
