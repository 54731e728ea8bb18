"""Updates: what moves one whole tensor by its gradient.

update         the protocol, and its usual form: through a basis
elementwise    Adam, Adafactor, Hfac, Lion, momentum, SGD
averages       running averages
fused_adam     Adam by torch's fused kernel
torch_builtin  updates that torch ships
"""
