"""The inbox: find complete files and make jobs of them."""
