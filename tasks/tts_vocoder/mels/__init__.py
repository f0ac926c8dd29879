"""Log-mel spectrograms: computing them, checking those of others, and their files."""
