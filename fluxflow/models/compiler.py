"""What torch.compile needs on every device."""

import os
import shutil

from fluxflow.errors import ConfigError


def check_compiler() -> None:
    """Refuse compilation before it begins.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("compile=true needs a C++ compiler: install g++, or name one in the variable CXX.")
