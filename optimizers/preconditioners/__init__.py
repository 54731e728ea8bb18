"""Preconditioners of whole matrices, and what they share.

preconditioned   grafting and momentum around any of them
registry         the list of them
shampoo, sketchy, shared_basis, shared_basis_residual, block_adam
grafting         whose step length a preconditioned step gets
matrix_roots, inverse_sqrt, tridiagonal   the linear algebra
"""
