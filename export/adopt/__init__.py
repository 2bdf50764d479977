"""Conversion of third-party ONNX models to encoder files, in a separate process."""
