"""A loopback HTTP server that speaks the part of Qdrant's REST API that vectide uses.

The engine behind it is qdrant-edge, the server's own, so conditional writes are judged by real
code; the real client and adapter, in several processes, run against it in every ``make test``.
What it does not know it refuses (400 or 404): it can never ignore a condition silently.

Run: ``python -m tests.support.qdrant_server --state DIR [--port N]``; it prints one ready line.
Faults for tests: ``POST /_faults {"status": 503, "count": 3}`` answers the next writes with that
status; ``{"drop_after": n}`` applies the next n writes and cuts the connection without an answer;
``{"delay": seconds}`` slows every request down.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import qdrant_edge as edge

from pipeline.store.edge_filters import edge_filter, field_index

_MODES = {
    None: edge.UpdateMode.Upsert,
    "upsert": edge.UpdateMode.Upsert,
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}


class Refused(Exception):
    """Answered with a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Faults:
    """What goes wrong next."""

    status: int = 0
    count: int = 0
    drop_after: int = 0
    delay: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Shards:
    """Collections as folders, opened again at start."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.lock = threading.RLock()
        self.open: dict[str, tuple[Any, dict[str, Any]]] = {}
        state.mkdir(parents=True, exist_ok=True)
        for described in sorted(state.glob("*/config.json")):
            shard = edge.EdgeShard.load(str(described.parent / "shard"))
            self.open[described.parent.name] = shard, json.loads(described.read_text())

    def create(self, name: str, body: Mapping[str, Any]) -> None:
        with self.lock:
            if name in self.open:
                raise Refused(409, f"collection {name} exists")
            vectors = {
                vector: edge.EdgeVectorParams(params["size"], getattr(edge.Distance, params["distance"]))
                for vector, params in body["vectors"].items()
            }
            folder = self.state / name / "shard"
            folder.mkdir(parents=True)
            shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors))
            config = {"metadata": body.get("metadata"), "vectors": body["vectors"], "indexes": []}
            (self.state / name / "config.json").write_text(json.dumps(config))
            self.open[name] = shard, config

    def index(self, name: str, field: str, kind: Any) -> None:
        shard, config = self.get(name)
        with self.lock:
            shard.update(field_index(field, kind))
            if field not in config["indexes"]:
                config["indexes"].append(field)
                (self.state / name / "config.json").write_text(json.dumps(config))

    def close(self) -> None:
        for shard, _ in self.open.values():
            shard.close()
        self.open.clear()

    def get(self, name: str) -> tuple[Any, dict[str, Any]]:
        target = self.aliases().get(name, name)
        if target not in self.open:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.open[target]

    def delete(self, name: str) -> bool:
        import shutil

        with self.lock:
            if name not in self.open:
                return False
            self.open.pop(name)[0].close()
            shutil.rmtree(self.state / name)
            self.set_aliases({alias: target for alias, target in self.aliases().items() if target != name})
            return True

    def aliases(self) -> dict[str, str]:
        path = self.state / "aliases.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def set_aliases(self, aliases: Mapping[str, str]) -> None:
        path = self.state / "aliases.new"
        path.write_text(json.dumps(dict(aliases)))
        path.replace(self.state / "aliases.json")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    shards: Shards
    faults: Faults
    version = "1.19.0"
    api_key: str | None = None

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def setup(self) -> None:
        super().setup()
        # Without this every small answer waits for the client's delayed acknowledgement: 40 ms.
        import socket

        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        started = time.time()
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0].rstrip("/") or "/"
        write = method in ("PUT", "DELETE") or (
            path.endswith(("/delete", "/payload", "/batch")) and "query" not in path
        )
        drop = False
        try:
            body = json.loads(raw) if raw else {}
            if path == "/_faults":
                for name, value in body.items():
                    setattr(self.faults, name, value)
                return self._answer(200, {"result": True})
            # The version is told to everybody, as by the real one.
            if path != "/" and self.api_key is not None and self.headers.get("api-key") != self.api_key:
                raise Refused(401, "Must provide an API key or an Authorization bearer token")
            if self.faults.delay:
                time.sleep(self.faults.delay)
            if write:
                with self.faults.lock:
                    if self.faults.count > 0:
                        self.faults.count -= 1
                        raise Refused(self.faults.status, "injected fault")
                    if self.faults.drop_after > 0:
                        self.faults.drop_after -= 1
                        drop = True
            result = self._route(method, path, body)
        except Refused as error:
            return self._answer(error.status, {"status": {"error": str(error)}, "time": 0.0})
        except (ValueError, KeyError, TypeError) as error:
            return self._answer(400, {"status": {"error": f"{type(error).__name__}: {error}"}, "time": 0.0})
        except Exception as error:
            return self._answer(500, {"status": {"error": str(error)}, "time": 0.0})
        if drop:
            self.close_connection = True
            self.connection.close()
            return None
        if path == "/":
            return self._answer(200, result)
        return self._answer(200, {"result": result, "status": "ok", "time": time.time() - started})

    def _route(self, method: str, path: str, body: dict[str, Any]) -> Any:
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", r"/", lambda _: {"title": "qdrant - vector search engine", "version": self.version}),
            ("GET", r"/collections", lambda _: {"collections": [{"name": name} for name in sorted(self.shards.open)]}),
            ("GET", r"/aliases", self._aliases),
            ("POST", r"/collections/aliases", self._change_aliases),
            ("GET", r"/collections/([^/]+)/exists", lambda _, name: {"exists": name in self.shards.open}),
            ("GET", r"/collections/([^/]+)", self._info),
            ("PUT", r"/collections/([^/]+)", self._create),
            ("PATCH", r"/collections/([^/]+)", self._change),
            ("DELETE", r"/collections/([^/]+)", lambda _, name: self.shards.delete(name)),
            ("PUT", r"/collections/([^/]+)/index", self._index),
            ("PUT", r"/collections/([^/]+)/points", self._upsert),
            ("POST", r"/collections/([^/]+)/points/delete", self._delete),
            ("POST", r"/collections/([^/]+)/points/batch", self._batch),
            ("POST", r"/collections/([^/]+)/points", self._retrieve),
            ("POST", r"/collections/([^/]+)/points/scroll", self._scroll),
            ("POST", r"/collections/([^/]+)/points/query", self._query),
            ("POST", r"/collections/([^/]+)/points/query/batch", self._query_batch),
            ("POST", r"/collections/([^/]+)/points/count", self._count),
            ("POST", r"/collections/([^/]+)/facet", self._facet),
        ]
        for verb, pattern, act in routes:
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                return act(body, *match.groups())
        raise Refused(404, f"this server does not speak {method} {path}")

    def _aliases(self, body: dict[str, Any]) -> Any:
        return {
            "aliases": [{"alias_name": alias, "collection_name": name} for alias, name in self.shards.aliases().items()]
        }

    def _change_aliases(self, body: dict[str, Any]) -> Any:
        with self.shards.lock:
            aliases = self.shards.aliases()
            for action in body["actions"]:
                _known(action, "create_alias")
                change = action["create_alias"]
                self.shards.get(change["collection_name"])
                aliases[change["alias_name"]] = change["collection_name"]
            self.shards.set_aliases(aliases)
        return True

    def _info(self, body: dict[str, Any], name: str) -> Any:
        shard, config = self.shards.get(name)
        info = shard.info()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": info.indexed_vectors_count,
            "points_count": info.points_count,
            "segments_count": info.segments_count,
            "config": {
                "params": {"vectors": config["vectors"]},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                    "indexing_threshold": config.get("indexing_threshold", 10_000),
                },
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
                "metadata": config["metadata"],
            },
            "payload_schema": {},
        }

    def _change(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "optimizers_config")
        _known(body["optimizers_config"], "indexing_threshold")
        self.shards.get(name)[1].update(body["optimizers_config"])
        return True

    def _create(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "vectors", "metadata", "shard_number", "replication_factor")
        self.shards.create(name, body)
        return True

    def _index(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "field_name", "field_schema")
        schema = body["field_schema"]
        kind = "tenant" if isinstance(schema, dict) and schema.get("is_tenant") else schema
        self.shards.index(name, body["field_name"], kind)
        return _done()

    def _upsert(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "points", "update_filter", "update_mode")
        shard, _ = self.shards.get(name)
        points = []
        for point in body["points"]:
            _known(point, "id", "vector", "payload")
            points.append(edge.Point(point["id"], point["vector"], point["payload"]))
        condition = edge_filter(body["update_filter"]) if body.get("update_filter") else None
        shard.update(edge.UpdateOperation.upsert_points(points, condition, _MODES[body.get("update_mode")]))
        return _done()

    def _delete(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "filter")
        operation = edge.UpdateOperation.delete_points_by_filter(edge_filter(body["filter"]))
        self.shards.get(name)[0].update(operation)
        return _done()

    def _batch(self, body: dict[str, Any], name: str) -> Any:
        shard, _ = self.shards.get(name)
        for operation in body["operations"]:
            _known(operation, "set_payload")
            change = operation["set_payload"]
            _known(change, "payload", "filter")
            shard.update(edge.UpdateOperation.set_payload_by_filter(edge_filter(change["filter"]), change["payload"]))
        return [_done() for _ in body["operations"]]

    def _retrieve(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "ids", "with_payload", "with_vector")
        shard, _ = self.shards.get(name)
        records = shard.retrieve(body["ids"], body.get("with_payload", True), body.get("with_vector", False))
        return [_point(record) for record in records]

    def _scroll(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "filter", "limit", "offset", "with_payload", "with_vector")
        request = edge.ScrollRequest(
            offset=body.get("offset"),
            limit=body["limit"],
            filter=edge_filter(body["filter"]),
            with_payload=_payload(body["with_payload"]),
            with_vector=body["with_vector"],
        )
        records, following = self.shards.get(name)[0].scroll(request)
        return {
            "points": [_point(record) for record in records],
            "next_page_offset": None if following is None else str(following),
        }

    def _query(self, body: dict[str, Any], name: str) -> Any:
        return {"points": [_scored(point) for point in self.shards.get(name)[0].query(_request(body))]}

    def _query_batch(self, body: dict[str, Any], name: str) -> Any:
        requests = [_request(one) for one in body["searches"]]
        answers = self.shards.get(name)[0].query_batch(edge.QueryBatchRequest(requests))
        return [{"points": [_scored(point) for point in answer]} for answer in answers]

    def _count(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "filter", "exact")
        request = edge.CountRequest(exact=bool(body.get("exact", True)), filter=edge_filter(body["filter"]))
        return {"count": self.shards.get(name)[0].count(request)}

    def _facet(self, body: dict[str, Any], name: str) -> Any:
        _known(body, "key", "filter", "limit", "exact")
        if body["key"] not in self.shards.get(name)[1]["indexes"]:  # the engine alone does not mind
            raise Refused(400, f"Wrong input: No appropriate index for faceting: `{body['key']}`")
        request = edge.FacetRequest(
            key=body["key"],
            limit=body["limit"],
            exact=bool(body.get("exact")),
            filter=edge_filter(body["filter"]) if body.get("filter") else None,
        )
        hits = self.shards.get(name)[0].facet(request).hits
        return {"hits": [{"value": hit.value, "count": hit.count} for hit in hits]}

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "1")
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the client did not wait for the answer


def _request(body: Mapping[str, Any]) -> Any:
    _known(body, "query", "using", "filter", "limit", "with_payload", "with_vector")
    query = body.get("query")
    payload = body.get("with_payload", False)
    options: dict[str, Any] = {}
    if query is not None:
        vector = query["nearest"] if isinstance(query, dict) else query
        options["query"] = edge.Query.Nearest(vector, using=body["using"])
    return edge.QueryRequest(
        limit=body["limit"],
        filter=edge_filter(body["filter"]) if body.get("filter") else None,
        with_payload=_payload(payload),
        with_vector=bool(body.get("with_vector", False)),
        **options,
    )


def _payload(asked: Any) -> Any:
    return edge.PayloadSelector.Include(asked) if isinstance(asked, list) else asked


def _known(body: Mapping[str, Any], *names: str) -> None:
    unknown = {name for name, value in body.items() if value is not None} - set(names)
    if unknown:
        raise Refused(400, f"this server does not understand {sorted(unknown)}")


def _point(record: Any) -> dict[str, Any]:
    return {"id": str(record.id), "payload": record.payload, "vector": _plain(record.vector)}


def _scored(point: Any) -> dict[str, Any]:
    return {**_point(point), "score": point.score, "version": point.version}


def _plain(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: [float(x) for x in values] for name, values in vector.items()}
    return None


def _done() -> dict[str, Any]:
    return {"operation_id": 0, "status": "completed"}


class Server(ThreadingHTTPServer):
    """A thread a connection; a client that is gone, perhaps killed, or that trusts us not, is no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


def serve(state: Path, port: int = 0, version: str = "1.19.0", api_key: str | None = None) -> ThreadingHTTPServer:
    """A server on loopback, not yet serving; its ``server_address`` has the port."""
    bound = {"shards": Shards(state), "faults": Faults(), "version": version, "api_key": api_key}
    handler = type("BoundHandler", (Handler,), bound)
    return Server(("127.0.0.1", port), handler)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    server = serve(arguments.state, arguments.port)

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"qdrant loopback ready on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
    server.RequestHandlerClass.shards.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
