"""The cffi module built from native/; its functions are declared in native/build_native.py."""

from typing import Any

ffi: Any
lib: Any
