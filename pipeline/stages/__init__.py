"""The chunk and embed stages, and the worker loop around them."""
