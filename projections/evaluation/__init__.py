"""Views of evaluations: the matrix of scores, and a mark for each version."""
