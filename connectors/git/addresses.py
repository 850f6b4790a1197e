"""Addresses of repositories: what can be one, and where that of a submodule may lead.

A ``.gitmodules`` is written by whoever can commit. So a submodule is of a host that the configuration names, by a
transport that is no worse than its own, and with nothing in its address that is secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from connectors.git.commands import Access

SCHEMES: Final = ("file", "git", "http", "https", "ssh")
URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.+)", re.DOTALL)
#: ``user@host:path``, as ssh has it.
SCP: Final = re.compile(r"((?:[\w.-]+@)?[\w.-]+:)(?!:)(?!//)(.+)", re.DOTALL)
#: What stands before the path of a URL: nothing in it that git, curl and ssh could read in different ways.
_AUTHORITY: Final = re.compile(r"(?:[^@/?#\\\s\[\]]*@)?([\w.-]+|\[[\da-fA-F:.]+\])(?::(\d{1,5}))?", re.ASCII)
_TRANSPORT: Final = re.compile(r"[\w+.-]+::")
_PORTS: Final = {"git": 9418, "http": 80, "https": 443, "ssh": 22}
#: What is said before their @ is dropped.
_WEB: Final = ("http", "https")
#: These hide nothing on their way, and believe anybody.
_PLAIN: Final = ("git", "http")


class Place(NamedTuple):
    """Where an address leads."""

    transport: str
    host: str
    """With its port, unless that is the transport's own; empty: this machine."""
    folder: str
    """On this machine."""


def repository_address(value: str) -> str:
    """The address, if it can be one of a repository.

    Raises:
        ValueError: says why not.
    """
    if not value or any(char in value for char in "\0\r\n"):
        raise ValueError("it is empty, or holds a line break")
    if value.startswith("-") or _TRANSPORT.match(value):
        raise ValueError("it must be a folder, a URL or user@host:path; transports that run commands are refused")
    url = URL.fullmatch(value)
    if url is not None and url.group(1).lower() not in SCHEMES:
        raise ValueError(f"it must be a folder, or a URL of {', '.join(SCHEMES)}")
    return value


def resolved(parent: str, address: str) -> str:
    """The address of a submodule: ``./`` and ``../`` lead on from the parent's, as for git.

    Raises:
        ValueError: it leads out of the parent's host.
    """
    if not address.startswith(("./", "../")):
        return address
    url, scp = URL.fullmatch(parent), SCP.fullmatch(parent)
    if url is not None:
        parts = urlsplit(parent)
        head, path = f"{parts.scheme}://{parts.netloc}/", parts.path
    else:
        head, path = (scp.group(1), scp.group(2)) if scp is not None else ("/", parent)
        head += "/" if scp is not None and path.startswith("/") else ""
    names = [name for name in path.split("/") if name]
    for name in address.split("/"):
        if name == "..":
            if not names:
                raise ValueError(f"{address} leads out of {head}")
            names.pop()
        elif name not in ("", "."):
            names.append(name)
    return head + "/".join(names)


def place_of(address: str) -> Place:
    """Where an address leads.

    Raises:
        ValueError: nobody can say.
    """
    url, scp = URL.fullmatch(address), SCP.fullmatch(address)
    if url is not None and url.group(1).lower() == "file":
        # Of file://a/b git takes /b; as a path it would be a folder below that of this process.
        folder = unquote(url.group(2), errors="surrogateescape")
        if not folder.startswith("/"):
            raise ValueError("a file:// address has no host: it needs three slashes")
        return Place("file", "", folder)
    if url is not None:
        transport, before = url.group(1).lower(), url.group(2).partition("/")[0]
        authority = _AUTHORITY.fullmatch(before)
        # git decodes all of a URL before it looks for the host: of ssh://a%2f@b it asks a.
        if authority is None or authority.group(1).startswith("-") or ("%" in before and transport not in _WEB):
            raise ValueError("it names no host, or not so that everybody reads the same of it")
        host, port = authority.group(1).strip("[]").lower(), authority.group(2)
        return Place(transport, f"{host}:{int(port)}" if port and int(port) != _PORTS[transport] else host, "")
    if scp is not None:
        return Place("ssh", scp.group(1)[:-1].rpartition("@")[2].lower(), "")
    if not os.path.isabs(address):
        raise ValueError("it is neither a URL nor an absolute path")
    return Place("file", "", address)


def access_to(address: str, root: Access, parent: str, hosts: Collection[str]) -> Access:
    """How a submodule is reached.

    Args:
        address: resolved.
        root: how the source's own repository is.
        parent: the address of the repository that names the submodule.
        hosts: those besides the root's own.

    Raises:
        ValueError: it must not be.
    """
    here, own = place_of(repository_address(address)), place_of(root.repository)
    if here.transport == "file":
        beside, there = os.path.realpath(os.path.dirname(own.folder.rstrip("/"))), os.path.realpath(here.folder)
        if place_of(parent).transport != "file" or own.transport != "file":
            raise ValueError("a folder of this machine is no submodule of a remote repository")
        # Of a repository at the root of the file system, everything lies in the folder that it lies in.
        above = os.path.dirname(there) if beside == os.sep else os.path.commonpath((beside, there))
        if above != beside:
            raise ValueError(f"it does not lie in {beside}, as the repository does")
    elif here.transport in _PLAIN and here.transport != own.transport:
        raise ValueError(f"{here.transport} is less safe than what the repository is reached by")
    elif here.host != own.host and here.host not in hosts:
        raise ValueError(f"{here.host} is not the repository's host: name it in submodule_hosts, or exclude it")
    url = URL.fullmatch(address)
    if url is not None and here.transport != "file":
        parts = urlsplit(address)
        user, _, netloc = parts.netloc.rpartition("@")
        # As a rule `git@`; a password is for no argument of a process.
        netloc = f"{user.partition(':')[0]}@{netloc}" if user and here.transport == "ssh" else netloc
        address = parts._replace(netloc=netloc).geturl()
    same = (here.transport, here.host) == (own.transport, own.host)
    return replace(
        root,
        repository=address,
        username=root.username if same else "",
        password=root.password if same else "",
        ssh_key_file=root.ssh_key_file if same else None,
        transports=(here.transport,),
    )
