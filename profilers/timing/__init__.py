"""Times.

clock, stopwatch   one clock that waits for the device, and spans of a profile
interleaved        timed steps, one after another with those they are compared with; refreshes told from ordinary ones
step               the time of an optimizer step of each method
step_by_shape      the same from one parameter of each shape class
data_and_clip      the time of batches and of gradient clipping
kernels, decompositions   SVD, eigenvectors, QR and online PCA on this device
"""
