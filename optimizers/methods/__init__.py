"""The method table: one record for each method. Read this first.

method          the record: everything the rest of subopt knows about a method
registry        the records of methods that step in some basis, and the table of all
preconditioned  the records of methods that precondition whole matrices
low_rank        the record of dynamical low-rank training
transient       what one update needs beside weights and state, counted on fake tensors
"""
