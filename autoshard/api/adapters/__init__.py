"""What makes the decorator work on Flax: NNX objects, Linen modules, Hugging Face models."""
