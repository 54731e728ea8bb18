"""Bases: the coordinates in which a step is taken.

basis           the protocol, the weights' own coordinates, and which steps refresh
periodic        singular vectors or eigenvectors, fitted every T steps
online_pca      a basis that moves a little in every step
covariance      averages of G G^T and G^T G, and the eigenvectors that follow them
decompositions  orthonormal bases of a gradient or a covariance
precision       the precision of products with bases
"""
