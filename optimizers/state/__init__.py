"""What an optimizer keeps.

layout           named slots, their dtypes and bytes
low_bit          moments in 8-bit blocks
form_mode        fake tensors for following updates quickly
storage_tracker  the bytes that live tensors occupy
"""
