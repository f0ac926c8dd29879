"""How the tasks are run and reported: methods, one cell, many cells, records, tables and figures."""
