"""How long a gradient subspace lasts.

short_run  the training steps along which subspaces are followed
follow     all layers along that run
layer      one layer's bases, frozen and followed
curves     captured energy by age
schedule   when a basis is taken and looked at
"""
