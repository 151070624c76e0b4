"""Records of JSONL files: their dialects, their shapes, and the check of a whole file."""
