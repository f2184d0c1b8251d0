"""Losses on embeddings, domains and predictions: contrastive, adversarial, discrepancies, and on unlabelled rows."""
