"""What a stage minimises: contrastive, adaptation, classification and domain losses."""
