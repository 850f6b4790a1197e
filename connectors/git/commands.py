"""Git as a subprocess: with a deadline, without the machine's configuration, and with credentials that no list of
processes shows.

Nothing of what a repository says is obeyed: no hook, no configuration, no filter, no transport that runs a
command. So it is read only by way of ``fetch`` into a repository of our own.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pipeline.errors import Fatal, SourceUnavailable
from pipeline.masking import without_passwords

#: ``cat-file --batch-command``.
_LEAST_VERSION: Final = (2, 36)
#: Of the environment: what is needed to find git, its peers and certificates. Everything else is left out.
_KEPT: Final = (
    "PATH", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "HTTPS_PROXY",
    "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "LD_LIBRARY_PATH", "GIT_EXEC_PATH", "USER", "LOGNAME",
)  # fmt: skip
_SETTINGS: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "credential.helper": "",  # empties the list of helpers
    "protocol.ext.allow": "never",
    "fetch.recurseSubmodules": "no",
    "fetch.unpackLimit": "1",  # packs only: a file for each object would be millions
    "submodule.recurse": "false",
    "gc.autoDetach": "false",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "30",
    "advice.detachedHead": "false",
}
#: What answers git's question for a user and a password: only for the host that they are for.
_HELPER: Final = (
    '!f() { test "$1" = get || exit 0; '
    'printf "username=%s\\npassword=%s\\n" "$VECTIDE_GIT_USERNAME" "$VECTIDE_GIT_PASSWORD"; }; f'
)
#: What a person has to do, by a word of git's.
_REMEDIES: Final = {
    "dubious ownership": "; trust_owner = true reads it all the same",
    "Authentication failed": "; see username and password_file",
    "could not read Username": "; see username and password_file",
    "Permission denied (publickey": "; see ssh_key_file",
    "Host key verification failed": "; see known_hosts_file",
}
_ERROR_CHARACTERS: Final = 300
_READ_BYTES: Final = 1 << 16
_END_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Access:
    """How a repository is reached."""

    repository: str
    username: str = ""
    password: str = field(default="", repr=False)
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None
    ca_file: Path | None = None
    trust_owner: bool = False
    transports: tuple[str, ...] = ("file", "git", "http", "https", "ssh")


class Git:
    """Runs git on one bare repository; for several threads.

    Args:
        folder: holds the repository as ``repository.git``.
        access: to what is fetched from.
    """

    def __init__(self, folder: Path, access: Access) -> None:
        self.repository = access.repository
        """What is fetched from."""
        self.directory = folder / "repository.git"
        self._folder = folder
        self._access = access
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def output(self, *arguments: str, seconds: float, keep_open: Sequence[int] = ()) -> bytes:
        """What a command prints.

        Args:
            arguments: after ``git``.
            seconds: most that it may take.
            keep_open: descriptors that it holds open for as long as it runs.

        Raises:
            SourceUnavailable: it failed, or took too long.
        """
        return b"".join(self._read(arguments, seconds, keep_open, stall=False))

    def tokens(self, *arguments: str, seconds: float) -> Generator[bytes]:
        """What a command prints, cut at each NUL, as it comes; closing the iterator ends the command.

        Args:
            arguments: after ``git``.
            seconds: most that it may take without printing anything.
        """
        rest = b""
        with contextlib.closing(self._read(arguments, seconds, (), stall=True)) as parts:
            for part in parts:
                *whole, rest = (rest + part).split(b"\0")
                yield from whole
        if rest:
            yield rest

    def opened(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command to talk to; :meth:`end` it."""
        return self._started(arguments, (), stdin=subprocess.PIPE)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a command and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        with self._lock:
            self._running.discard(process)

    @property
    def stopped(self) -> bool:
        """Whether nothing runs any more."""
        return self._stopped

    def stop(self) -> None:
        """End what runs, and run nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    # ------------------------------------------------------------------------- private

    def _read(
        self, arguments: Sequence[str], seconds: float, keep_open: Sequence[int], *, stall: bool
    ) -> Generator[bytes]:
        process = self._started(arguments, keep_open)
        assert process.stdout is not None
        assert process.stderr is not None
        end, said = time.monotonic() + seconds, b""
        try:
            with selectors.DefaultSelector() as selector:
                for stream in (process.stdout, process.stderr):
                    selector.register(stream, selectors.EVENT_READ)
                while selector.get_map():
                    ready = selector.select(max(0.0, end - time.monotonic()))
                    if not ready:
                        raise SourceUnavailable(f"git {arguments[0]} gave no answer within {seconds:.0f} s")
                    for key, _ in ready:
                        part = os.read(key.fd, _READ_BYTES)
                        if not part:
                            selector.unregister(key.fileobj)
                        elif key.fileobj is process.stderr:
                            said = (said + part)[-4 * _ERROR_CHARACTERS :]
                        else:
                            yield part
                    if stall:
                        end = time.monotonic() + seconds
            try:
                code = process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise SourceUnavailable(f"git {arguments[0]} did not end within {seconds:.0f} s") from None
            if code:
                raise self._failed(arguments[0], code, said)
        finally:
            self.end(process)

    def _started(
        self, arguments: Sequence[str], keep_open: Sequence[int], stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        settings = [part for name, value in self._settings().items() for part in ("-c", f"{name}={value}")]
        command = ["git", "--git-dir", str(self.directory), *settings, *arguments]
        with self._lock:
            if self._stopped:
                raise SourceUnavailable("the source is closed")
            try:
                process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE if stdin == subprocess.DEVNULL else subprocess.DEVNULL,
                    env=self._environment(),
                    cwd=self._folder,
                    start_new_session=True,  # so that its transports end with it
                    pass_fds=tuple(keep_open),
                )
            except FileNotFoundError:
                if not self._folder.is_dir():
                    raise SourceUnavailable(f"the copy of the repository is gone: {self._folder}") from None
                raise no_git() from None
            except OSError as error:
                raise SourceUnavailable(f"git cannot be started: {error.strerror}") from None
            self._running.add(process)
        return process

    def _settings(self) -> Mapping[str, str]:
        access = self._access
        settings = dict(_SETTINGS)
        if access.password:
            settings[f"credential.{_host_of(access.repository)}.helper"] = _HELPER
        if access.ca_file is not None:
            settings["http.sslCAInfo"] = str(access.ca_file)
        return settings

    def _environment(self) -> dict[str, str]:
        access = self._access
        ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
        if access.ssh_key_file is not None:
            ssh += ["-o", "IdentitiesOnly=yes", "-i", str(access.ssh_key_file)]
        if access.known_hosts_file is not None:
            ssh += ["-o", f"UserKnownHostsFile={access.known_hosts_file}"]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {
            "HOME": str(self._folder),  # no .gitconfig, .netrc or credentials of whoever runs this
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self._folder / "trust.gitconfig") if access.trust_owner else os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": ":".join(access.transports),
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_SSH_COMMAND": shlex.join(ssh),
        }
        if access.password:
            environment |= {"VECTIDE_GIT_USERNAME": access.username, "VECTIDE_GIT_PASSWORD": access.password}
        return environment

    def _failed(self, command: str, code: int, said: bytes) -> SourceUnavailable:
        text = " ".join(without_passwords(said.decode("utf-8", "replace")).split())
        if self._access.password:
            text = text.replace(self._access.password, "**********")
        why = text.removeprefix("fatal: ")[:_ERROR_CHARACTERS] or f"it ended with {code}"
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in text), "")
        return SourceUnavailable(f"git {command}: {why}{remedy}")


def check_version() -> None:
    """Refuse a git that is missing or too old.

    Raises:
        Fatal: says what to install.
    """
    try:
        said = subprocess.run(["git", "version"], capture_output=True, timeout=30, check=False).stdout
    except FileNotFoundError:
        raise no_git() from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailable(f"git cannot be started: {error}") from None
    words = said.split()
    numbers = words[2].split(b".") if len(words) > 2 else []
    found = tuple(int(number) for number in numbers[:2] if number.isdigit())
    if found < _LEAST_VERSION:
        raise Fatal(
            f"the git connector needs git {'.'.join(map(str, _LEAST_VERSION))} or later; this is "
            f"{said.decode('utf-8', 'replace').strip() or 'another program'}",
            "install a later one",
        )


def no_git() -> Fatal:
    """There is no git on this machine."""
    return Fatal("the git connector needs the program git, and it is not on the PATH", "install it")


def _host_of(repository: str) -> str:
    parts = urlsplit(repository)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
