"""Connections to addresses that users name, which must never lead into the network that this
service stands in.
"""
