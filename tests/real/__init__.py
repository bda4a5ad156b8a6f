"""Real models, and an independent twin of what is measured on them."""
