"""How cells run: here, in worker processes or on a cluster, in which order, and what is shown meanwhile."""
