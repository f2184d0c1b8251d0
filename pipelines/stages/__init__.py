"""The training stages: pretrain, adapt, classify."""
