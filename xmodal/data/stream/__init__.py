"""The deterministic order of rows, and the blocks that carry them."""
