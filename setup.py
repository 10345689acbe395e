"""Metadata and dependencies of vswin_jax: the one place for both."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "vswin_jax/__init__.py").read_text())[1]
# For `python -m vswin_jax.serve`.
DEMO = ["python-multipart>=0.0.20", "starlette>=1.0", "uvicorn>=0.40"]

setup(
    name="vswin_jax",
    version=VERSION,
    description="Video Swin Transformer in JAX: train, fine-tune, evaluate and predict",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vswin_jax", "vswin_jax.*"]),
    package_data={
        "vswin_jax.inference.serving": ["page/*"],
        "vswin_jax.weights.layouts": ["labels/*.txt"],
    },
    install_requires=[
        "absl-py>=2.1",
        # There are no wheels for Windows.
        "array_record>=0.7; sys_platform != 'win32'",
        "av>=18.0",
        "clu>=0.0.12",
        "etils[epath]>=1.9",
        "filelock>=3.30",
        "flax>=0.12.8",
        # The builders of TFDS import it and TFDS does not say so.
        "importlib_resources>=6.4",
        "jax>=0.10.2",
        "jaxtyping>=0.3.2",
        "matplotlib>=3.9",
        "ml_collections>=1.1",
        "ml_dtypes>=0.5",
        "numpy>=2.1",
        "opencv-python-headless>=4.11",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=11.0",
        "safetensors>=0.5",
        # CLU's TensorBoard writer imports it and does not say so.
        "tensorboard>=2.20",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.10",
    ],
    extras_require={
        "beam": ["apache-beam>=2.70"],
        "demo": DEMO,
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"],
        # For `python -m vswin_jax.export --to onnx`, beside torch and torchvision.
        "onnx": ["onnx>=1.19", "onnxruntime>=1.22", "onnxscript>=0.5"],
        # For answers and features in Parquet files.
        "parquet": ["pyarrow>=17.0"],
        "test": [
            *DEMO,
            "beartype>=0.19",
            "hypothesis>=6.100",
            # The command `ffmpeg`, of FFmpeg 9.
            "imageio-ffmpeg>=0.8",
            "pyarrow>=17.0",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
        # Also the compilers of --mode=dry_run --topology, on machines without a TPU or GPU.
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda12": ["jax[cuda12]>=0.10.2"],
        "cuda13": ["jax[cuda13]>=0.10.2"],
        # As the extra was called before there were two.
        "cuda": ["jax[cuda12]>=0.10.2"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
