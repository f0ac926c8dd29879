"""One conv of a searched network: which can be searched, taking it over, its paddings, its own forward()."""
