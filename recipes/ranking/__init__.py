"""Methods as rows of one table, best first: the rule, and a row's memory, time and reasons."""
