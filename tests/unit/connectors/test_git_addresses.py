"""Addresses of submodules: where they lead, and that it is nowhere that the settings do not name."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.git.addresses import access_to, resolved
from connectors.git.commands import Access
from connectors.git.settings import GitSettings


@pytest.mark.parametrize(
    ("parent", "url", "expected"),
    [
        ("https://h/team/a.git", "../b.git", "https://h/team/b.git"),
        ("https://h/team/a.git", "../../x/b.git", "https://h/x/b.git"),
        ("https://h/team/a.git/", "./b", "https://h/team/a.git/b"),
        ("git@h:team/a.git", "../b.git", "git@h:team/b.git"),
        ("git@h:/team/a.git", "../b.git", "git@h:/team/b.git"),
        ("/srv/git/a", "../b", "/srv/git/b"),
        ("file:///srv/git/a", "../b", "file:///srv/git/b"),
        ("https://h/a.git", "https://other/b", "https://other/b"),
    ],
)
def test_relative_addresses_are_git_s(parent: str, url: str, expected: str) -> None:
    assert resolved(parent, url) == expected


@pytest.mark.parametrize(
    ("root", "url", "why"),
    [
        ("https://h/a", "/etc/secrets", "no submodule of a remote"),
        ("https://h/a", "file:///etc/secrets", "no submodule of a remote"),
        ("https://h/a", "secrets", "neither a URL"),
        ("https://h/a", "ext::sh -c true", "transports that run commands"),
        ("https://h/a", "-oProxyCommand=true", "transports that run commands"),
        ("https://h/a", "ssh://-oProxyCommand=true/x", "names no host"),
        ("https://h/a", "https:///x", "names no host"),
        ("https://h/a", "ftp://h/x", "a URL of file"),
        ("https://h/a", "http://h/x", "less safe"),
        ("https://h/a", "git://h/x", "less safe"),
        ("https://h/a", "https://h:8443/x", "h:8443 is not the repository's host"),
        ("https://h/a", "https://169.254.169.254/x", "not the repository's host"),
        ("https://h/a", "https://h@evil/x", "evil is not the repository's host"),
        ("https://h/a", "git@evil:x", "evil is not the repository's host"),
        ("ssh://git@h/a", "ssh://evil%2f@h/x", "names no host"),
        ("ssh://git@h/a", "ssh://h#@evil/x", "names no host"),
        ("ssh://git@h/a", "ssh://h?@evil/x", "names no host"),
        ("ssh://git@h/a", "ssh://evil\\@h/x", "names no host"),
        ("https://h/a", "https://h#@evil/x", "names no host"),
        ("https://h/a", "https://h%2eevil/x", "names no host"),
        ("https://h/a", "../../x", "leads out of"),
        ("/srv/git/a", "/etc/secrets", "does not lie in /srv/git"),
        ("/srv/git/a", "../../../etc/secrets", "does not lie in /srv/git"),
        ("/repo", "file:///home/me/secrets", "does not lie in /, "),
        ("file://srv/git/a", "/srv/git/b", "three slashes"),
        ("/srv/git/a", "https://h/x", "h is not the repository's host"),
    ],
)
def test_an_address_that_leads_too_far_is_refused(root: str, url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        access_to(resolved(root, url), Access(root), root, ["named"])


def test_a_folder_is_judged_where_git_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of file://any/etc/secrets git takes /etc/secrets, wherever this process is."""
    monkeypatch.chdir(tmp_path)
    root = f"{tmp_path}/a"
    with pytest.raises(ValueError, match="three slashes"):
        access_to("file://any/etc/secrets", Access(root), root, [])
    assert access_to(f"file://{tmp_path}/b", Access(root), root, []).transports == ("file",)
    assert access_to("file:///guides", Access("/handbook"), "/handbook", []).repository == "file:///guides"


def test_a_folder_is_no_submodule_of_a_remote_submodule() -> None:
    with pytest.raises(ValueError, match="no submodule of a remote"):
        access_to("/srv/git/b", Access("/srv/git/a"), "https://named/x", ["named"])


def test_secrets_are_for_the_repository_s_own_host() -> None:
    root = Access("https://h:8443/a", "robot", "s3cret", ssh_key_file=Path("key"), ca_file=Path("ca"))
    hosts = ["named", "h"]
    own = access_to("https://other:user@h:8443/b", root, root.repository, hosts)
    assert (own.repository, own.username, own.password) == ("https://h:8443/b", "robot", "s3cret")
    for url in ("https://named/b", "https://h/b", "ssh://git@named/b", "git@named:b"):
        found = access_to(url, root, root.repository, hosts)
        assert (found.username, found.password, found.ssh_key_file, found.ca_file) == ("", "", None, Path("ca"))
        assert len(found.transports) == 1
    assert access_to("https://me:p%40ss@h:8443/b", root, root.repository, hosts).repository == "https://h:8443/b"
    assert access_to("ssh://git:pw@named/b", root, root.repository, hosts).repository == "ssh://git@named/b"


@pytest.mark.parametrize("host", ["https://h", "h/x", "", "h:", "me@h"])
def test_a_host_of_submodules_is_a_host(host: str) -> None:
    with pytest.raises(ValueError, match="must be a host"):
        GitSettings(repository="https://h/a", submodule_hosts=(host,))
    found = GitSettings(repository="https://h/a", submodule_hosts=("GitHub.com:22",))
    assert found.submodule_hosts == ("github.com:22",)
