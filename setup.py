"""Build the C extension; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["native/build_native.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel serves 3.11 and later
)
