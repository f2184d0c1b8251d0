"""A plan of faults comes in as a file; requests to the object store are refused, delayed or cut as it says.

Swift's proxy loads this as its first Paste filter. The file is read at each request, so a test changes the plan while
the server runs: `{"id": "...", "rules": [...]}`, where a rule is an object with these fields.

    kind     slow_down | server_error | not_found | forbidden | expired_token   an S3 error instead of an answer
             delay      the answer comes `seconds` late
             stall      the body stops after `bytes` for `seconds`
             cut        the connection is closed after `bytes` of the body
    key      shell pattern for the key, without the bucket ("" for requests about the bucket); default: every key
    method   GET, PUT, ...; default: every method
    skip     let this many matching requests pass first; default 0
    first    then fault this many; default: without end
    share    fault only this share of them, drawn from the plan's id; default 1

What was done is counted per rule in `<plan>.fired`. Runs in Swift's environment: the standard library and eventlet.
"""

import json
import random
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import eventlet

ANSWERS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "server_error": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "not_found": ("404 Not Found", "NoSuchKey", "The specified key does not exist."),
    "forbidden": ("403 Forbidden", "AccessDenied", "Access Denied."),
    "expired_token": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
}


def filter_factory(_global_conf, plan, **_):
    """Paste's entry point; `plan` is the path of the plan file."""
    return lambda app: Faults(app, Path(plan))


class Faults:
    def __init__(self, app, plan):
        self.app = app
        self.plan = plan
        self.id = None
        self.seen = Counter()
        self.fired = Counter()

    def __call__(self, environ, start_response):
        rule = self.rule_for(environ)
        if rule is None:
            return self.app(environ, start_response)
        if rule["kind"] in ANSWERS:
            return refuse(environ, start_response, *ANSWERS[rule["kind"]])
        if rule["kind"] == "delay":
            eventlet.sleep(rule["seconds"])
            return self.app(environ, start_response)
        return interrupted(self.app(environ, start_response), rule)

    def rule_for(self, environ):
        """The first rule that faults this request; counts it for every rule that it matches."""
        chosen = None
        for number, rule in enumerate(self.rules()):
            if matches(rule, environ):
                self.seen[number] += 1
                if chosen is None and self.is_due(number, rule):
                    chosen = number, rule
        if chosen is None:
            return None
        self.fired[chosen[0]] += 1
        draft = Path(f"{self.plan}.counting")
        draft.write_text(json.dumps({"id": self.id, "counts": self.fired}))
        draft.replace(f"{self.plan}.fired")
        return chosen[1]

    def rules(self):
        plan = json.loads(self.plan.read_text())
        if plan["id"] != self.id:
            self.id = plan["id"]
            self.seen.clear()
            self.fired.clear()
        return plan["rules"]

    def is_due(self, number, rule):
        turn = self.seen[number] - 1 - rule.get("skip", 0)
        if turn < 0 or turn >= rule.get("first", float("inf")):
            return False
        return random.Random(f"{self.id} {number} {turn}").random() < rule.get("share", 1)


def matches(rule, environ):
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    key = path.lstrip("/").partition("/")[2]
    method = environ["REQUEST_METHOD"]
    return rule.get("method", method) == method and fnmatchcase(key, rule.get("key", "*"))


def refuse(environ, start_response, status, code, message):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def interrupted(body, rule):
    """The bytes of `body`; after `bytes` of them the rule strikes."""
    left = rule.get("bytes", 0)
    try:
        for chunk in body:
            if len(chunk) > left >= 0:
                yield chunk[:left]
                if rule["kind"] == "cut":
                    raise OSError("cut by the fault plan")
                eventlet.sleep(rule["seconds"])
                chunk = chunk[left:]
                left = -1
            left -= len(chunk) if left >= 0 else 0
            yield chunk
    finally:
        if hasattr(body, "close"):
            body.close()
