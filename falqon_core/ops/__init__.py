"""Operators of the trainer, one a file: what is computed, written in plain torch (the oracle), and the name others call.

`dispatch.operator` is the only place where a kernel for another device plugs in.
"""
