"""Export a trained model as a directory that other tools load: model card, processors, ONNX; each is checked."""
