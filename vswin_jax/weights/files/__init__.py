"""Readers of weight files: PyTorch zip and pickle files, safetensors, Orbax directories."""
