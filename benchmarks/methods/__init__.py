"""The rows of the tables: what each method searches, trains and scores."""
