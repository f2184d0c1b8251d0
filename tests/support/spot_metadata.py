"""A metadata service like that of an AWS instance (IMDSv2), on the loopback interface, for spot notices alone."""

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MetadataService(ThreadingHTTPServer):
    """IMDSv2: a token by PUT, everything else only with it. `notice` is announced; `failures` requests fail first."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.notice, self.failures, self.tokens, self.valid, self.asked = None, 0, 0, set(), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_PUT(self):
        assert self.path == "/latest/api/token"
        assert 0 < int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.server.tokens += 1
        token = f"token-{self.server.tokens}"
        self.server.valid = {token}
        self._answer(200, token)

    def do_GET(self):
        self.server.asked.append(time.monotonic())
        if self.server.failures:
            self.server.failures -= 1
            self._answer(503, "")
        elif self.headers["X-aws-ec2-metadata-token"] not in self.server.valid:
            self._answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and self.server.notice:
            self._answer(200, json.dumps(self.server.notice))
        else:
            self._answer(404, "")

    def _answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments):
        pass


@contextmanager
def metadata_service():
    server = MetadataService()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def notice_in(seconds):
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
