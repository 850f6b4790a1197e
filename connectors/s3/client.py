"""The client of S3 and of SQS, and what its errors mean: the only file that knows botocore."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Final

from connectors.s3.settings import S3Settings
from pipeline.errors import Fatal, SourceUnavailable, Transient

#: A loop must beat once a minute: twice two attempts of these, for an object and then for its bucket, are less.
_CONNECT_SECONDS: Final = 3.0
_READ_SECONDS: Final = 8.0
_ATTEMPTS: Final = 2
_REGION: Final = "us-east-1"
#: Nothing but the credentials is wrong, or what they may do; other ones may be there by the next attempt.
_REFUSED: Final = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_THROTTLED: Final = frozenset(
    {"SlowDown", "RequestLimitExceeded", "RequestThrottled", "Throttling", "ThrottlingException", "TooManyRequests"}
)
_REMEDIES: Final = {
    "AccessDenied": "it needs s3:ListBucket and s3:GetObject",
    "ExpiredToken": "the session has ended",
    "NoSuchBucket": "make it, or correct `bucket`",
    "PermanentRedirect": "set `region` to the bucket's",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "the secret does not belong to access_key_id",
}
_NO_BOTOCORE: Final = "the s3 connector needs botocore, which is not installed"


def installed() -> bool:
    """True if there is a client."""
    return importlib.util.find_spec("botocore") is not None


class Refused(Exception):
    """The server has answered no.

    Args:
        code: the protocol's word for it; of HTTP if there is none.
        status: of HTTP.
        detail: for people.
    """

    def __init__(self, code: str, status: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status = status
        self.throttled = code in _THROTTLED
        self.unauthorised = code in _REFUSED


class Broken(Exception):
    """There was no answer, or it broke off."""


class Client:
    """Asks one service; made at the first question, and anew once it was refused. Used by one thread.

    Args:
        service: ``s3`` or ``sqs``.
        settings: of the source.
        endpoint_url: of the service; empty: AWS's own.
        region: of the service; the settings' if empty.
        read_seconds: that the service may wait before it answers.
    """

    def __init__(
        self, service: str, settings: S3Settings, endpoint_url: str, region: str = "", read_seconds: float = 0.0
    ) -> None:
        self._service = service
        self._settings = settings
        self._endpoint_url = endpoint_url
        self._region = region or settings.region
        self._read_seconds = _READ_SECONDS + read_seconds
        self._client: Any = None

    def ask(self, operation: str, **of: object) -> Mapping[str, Any]:
        """One request, with a few attempts.

        Raises:
            Refused, Broken: what became of it.
            SourceUnavailable: there are no credentials, or they cannot be read.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        client = self._client
        if client is None:
            client = self._client = self._made()
        try:
            answer: Mapping[str, Any] = getattr(client, operation)(**of)
        except ClientError as error:
            said = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            refused = Refused(str(said.get("Code", status)), status, str(said.get("Message", "")))
            if refused.unauthorised:
                self.close()
            raise refused from None
        except HTTPClientError as error:
            raise Broken(_first_line(error)) from None
        except BotoCoreError as error:  # no credentials, an answer that is no XML ...
            self.close()
            raise Broken(_first_line(error)) from None
        except ValueError as error:
            raise Broken(_first_line(error)) from None
        return answer

    def close(self) -> None:
        """Let connections go."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _made(self) -> Any:
        try:
            import botocore.session
            from botocore import UNSIGNED
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise Fatal(_NO_BOTOCORE, "pip install 'vectide[s3]'") from None
        # At DEBUG it logs headers, among them the token of a session; at INFO where it found credentials.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        settings = self._settings
        path_style = bool(settings.endpoint_url) if settings.path_style is None else settings.path_style
        try:
            keys = settings.keys()
            session = botocore.session.Session(profile=settings.profile or None)
            session.register_component("data_loader", _loader())
            if keys is not None:
                session.set_credentials(keys.id, keys.secret, keys.token or None)
            return session.create_client(
                self._service,
                region_name=self._region or session.get_config_variable("region") or _REGION,
                endpoint_url=self._endpoint_url or None,
                verify=None if settings.ca_file is None else str(settings.ca_file),
                config=Config(
                    signature_version=UNSIGNED if settings.anonymous else None,
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=self._read_seconds,
                    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                    s3={"addressing_style": "path" if path_style else "auto"},
                    user_agent_extra="vectide",
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise SourceUnavailable(_first_line(error)) from None


class Body:
    """The content of an object, on its way.

    Args:
        stream: botocore's.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        # botocore, which also checks lengths and digests, has no way to ask for it: a test shows that this works.
        stream._raw_stream = _Arriving(stream._raw_stream)  # noqa: SLF001

    def read(self, size: int) -> bytes:
        """Up to so many bytes, as they arrive; none at the end.

        Raises:
            Broken: it ends before its end, or is not what was written.
        """
        from botocore.exceptions import BotoCoreError

        try:
            part: bytes = self._stream.read(size)
        except (BotoCoreError, OSError, ValueError) as error:
            raise Broken(_first_line(error)) from None
        except Exception as error:  # of urllib3, which botocore does not translate everywhere
            if not type(error).__module__.startswith("urllib3"):
                raise
            raise Broken(_first_line(error)) from None
        return part

    def close(self) -> None:
        """What was not read is left where it is."""
        self._stream.close()


class _Arriving:
    """A stream of urllib3 whose ``read`` gives what has arrived, and does not wait until it is as much as asked for: a
    deadline can be looked at in between.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, size: int) -> bytes:
        part: bytes = self._raw.read1(size)
        return part

    def close(self) -> None:
        self._raw.close()


@functools.cache
def _loader() -> Any:
    """Reads the description of a service once: most of the time that it takes to make a client."""
    from botocore.loaders import create_loader

    return create_loader()


def unavailable(place: str, why: Exception) -> SourceUnavailable:
    """A failure as the runner waits it out, and what to do about it."""
    remedy = _REMEDIES.get(why.code, "") if isinstance(why, Refused) else ""
    return SourceUnavailable(f"{place}: {why}" + (f"; {remedy}" if remedy else ""))


def unreadable(place: str, why: Exception) -> Transient:
    """A failure of one object."""
    return Transient(f"{place}: {why}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
