"""Updates: what moves one whole tensor by its gradient.

update         the protocol, and its usual form: through a basis
basis          what a basis is, the weights' own coordinates, and which steps refresh
precision      the precision of products with bases
rounding       coordinates that are zero but for rounding
elementwise    Adam, Adafactor, Hfac, Lion, momentum, SGD
averages       running averages
fused_adam     Adam by torch's fused kernel
torch_builtin  updates that torch ships
"""
