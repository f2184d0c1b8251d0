"""Random image augmentation as numbers: an image's size and a generator in, crop, flip and tint out."""
