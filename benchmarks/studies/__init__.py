"""Studies: questions that a table of the suite does not answer, each one module and one folder of results."""
