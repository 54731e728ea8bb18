"""The file formats: what a profile and a comparison hold. Everything else in this folder stands above these.

base        types that records share
profile     the profile
layer, cost, race, data   its parts
comparison  two profiles side by side
"""
