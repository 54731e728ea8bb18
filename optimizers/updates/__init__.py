"""Updates: what turns a gradient into a step.

update         the protocol
elementwise    Adam, Adafactor, Hfac, Lion, momentum, SGD
averages       running averages
fused_adam     Adam by torch's fused kernel
torch_builtin  updates that torch ships
"""
