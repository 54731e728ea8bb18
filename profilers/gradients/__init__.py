"""What gradients say about a model, layer by layer.

stream            gradients of batches, used and dropped as soon as autograd makes them
measure_layers    the measurements of all layers, within a memory limit
second_moment     what needs the gradients of all batches of a layer
spectrum          singular values and the rank they show
rotated           gradients in their own and in older bases
diagonality, off_diagonal, update_agreement, blocks   how diagonal the preconditioner is, and what that changes
noise             signal and noise of batches
activations       spectra of layers' inputs
basis_cost        what a better basis costs
"""
