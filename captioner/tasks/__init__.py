"""What a model is trained for: batches, a loss, a validation."""
