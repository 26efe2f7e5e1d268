"""What a run shows while it goes on: the display, its numbers, traces."""
