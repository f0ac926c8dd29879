"""Records to tables, figures and one page. Reads records only; trains nothing and builds no network."""
