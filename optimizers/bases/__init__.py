"""Bases that move: the coordinates in which a step is taken. Their protocol is `updates.basis`.

periodic        singular vectors or eigenvectors, fitted every T steps
online_pca      a basis that moves a little in every step
covariance      averages of G G^T and G^T G, and the eigenvectors that follow them
decompositions  orthonormal bases of a gradient or a covariance
completion      what the data leave undetermined of them, the same on every machine
"""
