"""Records of cells: their schema and files, the protocol, the machine, and the statistics of their numbers."""
