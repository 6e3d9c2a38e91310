"""The package, what it needs at run time, and the extras."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ppema/__init__.py").read_text())[1]

setup(
    name="ppema",
    version=VERSION,
    description="Averages of model weights (EMA and kin) for PaddlePaddle, with a training toolkit",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ppema", "ppema.*"]),
    package_data={"ppema": ["py.typed"], "ppema.data": ["*.npz", "*.txt"]},
    python_requires=">=3.9",
    install_requires=["paddlepaddle>=3.0", "numpy", "pyyaml", "visualdl", "matplotlib"],
    extras_require={
        # Updates at the speed of memory; without it NumPy computes the same bits.
        "fast": ["numba"],
        # tools/export_model.py --onnx, and its comparison.
        "onnx": ["paddle2onnx>=2.0", "onnxruntime"],
        "test": [
            *("pytest", "pytest-timeout", "pytest-xdist", "jsonschema", "numba"),
            *("ruff", "mypy", "types-PyYAML"),
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "License :: OSI Approved :: Apache Software License",
        "Typing :: Typed",
    ],
)
