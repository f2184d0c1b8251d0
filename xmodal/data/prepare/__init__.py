"""Read tables and folders of image-caption pairs and plan the shards made of them."""
