"""Base models: bringing one in from a folder, a GGUF file or the Hugging Face Hub, and the small
one that is built on the spot.
"""
