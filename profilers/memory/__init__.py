"""Memory of a training step.

footprint        the memory of a profile's model, by the best way there is
simulation       a step on fake tensors
cuda_child       a step measured on a GPU, in a process of its own
step_peak        peaks of one optimizer step
passes           forward and backward pass, storage by storage, at any batch size
batch_curve      peaks by batch size
timeline, phases, breakdown, module_scopes   when, in which phase, what, and for which module
savings          what would need less
device_overhead  what devices and libraries take beside tensors
positions        the memory of embeddings of positions
"""
