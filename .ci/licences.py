"""Check the licences of everything that `pip install ray-pipeline` installs.

The project is under the Apache License 2.0. A dependency under the GPL or AGPL alone would put its
conditions on whoever passes the product on; one that also offers another licence does not.
Packages for development and tests are not passed on, and are not checked.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: The optional dependencies that users install.
EXTRAS = ("qlora",)
_STRONG = re.compile(r"\b(?:A?GPL|(?:Affero )?General Public License)", re.IGNORECASE)
_WEAK = re.compile(r"LGPL|Lesser|MPL|Mozilla|\bMIT\b|BSD|Apache|exception", re.IGNORECASE)


def licences(package: Distribution) -> list[str]:
    """What a package says about its licence: the SPDX expression, else classifiers and text."""
    data = package.metadata
    if expression := data.get("License-Expression"):
        return [expression]
    classifiers = [
        value.removeprefix("License :: ").removeprefix("OSI Approved :: ")
        for value in data.get_all("Classifier") or []
        if value.startswith("License ::")
    ]
    return classifiers or [(data.get("License") or "unknown").strip().splitlines()[0]]


def is_refused(names: list[str]) -> bool:
    """Whether the only licences on offer are the GPL or the AGPL."""
    text = " ".join(names)
    return bool(_STRONG.search(text)) and not _WEAK.search(text)


def installed(root: str, extras: tuple[str, ...]) -> dict[str, Distribution]:
    """The package ``root`` and all that it requires here, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(root, extras)]
    while waiting:
        name, wanted = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # its marker or extra is not for this machine
        found[canonicalize_name(name)] = package
        for line in package.requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            environments = [{"extra": extra} for extra in (*wanted, "")]
            if marker is not None and not any(marker.evaluate(each) for each in environments):
                continue
            if canonicalize_name(requirement.name) not in found:
                waiting.append((requirement.name, tuple(requirement.extras)))
    return found


def main() -> int:
    """Print the packages whose licence is refused, or unknown; returns the exit code."""
    packages = installed("ray-pipeline", EXTRAS)
    named = {name: licences(package) for name, package in sorted(packages.items())}
    refused = {name: names for name, names in named.items() if is_refused(names)}
    for name, names in refused.items():
        print(f"{name}: {'; '.join(names)}: not to be a dependency of an Apache-2.0 product")
    unknown = [name for name, names in named.items() if names == ["unknown"]]
    if unknown:
        print(f"no licence stated: {', '.join(unknown)}")
    print(f"licences of {len(named)} packages checked, {len(refused)} refused")
    return 1 if refused or len(named) < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
