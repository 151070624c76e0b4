"""The files that a user downloads: the merged FP8 checkpoint, its model card and its checksums."""
