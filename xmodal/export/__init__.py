"""A trained model in, a directory that other tools load out: card, processors, ONNX, each checked against the model."""
