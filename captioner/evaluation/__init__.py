"""How good captions are: pure functions from predictions and references to numbers."""
