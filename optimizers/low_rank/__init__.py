"""Dynamical low-rank training: layers as U S V^T whose ranks adapt.

linear, conv      the layers
convert           put them into a model, and make dense or two thin layers of them again
factor_gradients  the gradients of K and L in one backward pass
integrator        how the factors are stepped
layer_step        one step of one layer, truncation included
optimizer         the optimizer of a whole model
"""
