"""ONNX models of others become encoder files, in a process of their own."""
