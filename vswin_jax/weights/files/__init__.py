"""Readers of PyTorch zip and legacy files, safetensors and npz; a writer of Orbax directories."""
