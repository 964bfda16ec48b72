"""Length-adaptive PyTorch models."""
