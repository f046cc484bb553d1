"""What a GPU is: targets, data sheets, tiles and tuned files."""
