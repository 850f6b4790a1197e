"""vectide: keeps a vector store in step with its sources, for ever."""
