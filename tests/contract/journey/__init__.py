"""What code written for the official client does, in the order in which one would: `python -m
tests.contract.journey`.

It runs where only that client is installed, in any of its releases, and speaks to a service by its
address. One text serves the client and its asynchronous twin: whatever may be awaited is.
"""
