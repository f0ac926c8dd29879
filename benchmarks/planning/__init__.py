"""What a suite runs before it runs it: its cells, which are kept, and how long the rest takes."""
