"""The long tables behind --details: layers, subspaces, blocks, phases, decompositions, and all of the ranking."""
