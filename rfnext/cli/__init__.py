"""The command line `rfnext`."""
