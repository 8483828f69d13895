"""What training gives and costs: ways to tune, few rows, smaller models, and the parts that Baton replaces by faster ones."""
