"""From files on disk or on the Hub to batches of tensors."""
