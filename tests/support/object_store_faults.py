"""Injects faults into an S3 test server: requests are refused, delayed or cut by the rules of a plan file.

Swift's proxy loads this as its first Paste filter. The file is read at each request, so a test can change the plan
while the server runs: `{"id": "...", "rules": [...]}`, where a rule is an object with these fields.

    kind     slow_down | server_error | not_found | forbidden | expired_token   an S3 error instead of a response
             delay      the response comes `seconds` late
             stall      the body stops after `bytes` for `seconds`
             cut        the connection is closed after `bytes` of the body
    key      shell pattern for the key, without the bucket ("" for requests about the bucket); default: every key
    method   GET, PUT, ...; default: every method
    skip     let this many matching requests pass first; default 0
    first    then apply to this many; default: all
    share    apply to this share of them only, drawn from the plan's id; default 1

`<plan>.fired` has the number of faults of each rule. Runs in Swift's environment: the standard library and eventlet.
"""

import json
import random
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import eventlet

ERRORS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "server_error": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "not_found": ("404 Not Found", "NoSuchKey", "The specified key does not exist."),
    "forbidden": ("403 Forbidden", "AccessDenied", "Access Denied."),
    "expired_token": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
}


def filter_factory(_global_conf, plan, **_):
    """Create the filter: the entry point for Paste; `plan` is the path of the plan file."""
    return lambda app: Faults(app, Path(plan))


class Faults:
    """The Paste filter: applies the first due rule to each request."""

    def __init__(self, app, plan):
        self.app = app
        self.plan = plan
        self.id = None
        self.matched = Counter()
        self.fired = Counter()

    def __call__(self, environ, start_response):
        rule = self.rule_for(environ)
        if rule is None:
            return self.app(environ, start_response)
        if rule["kind"] in ERRORS:
            return error_response(environ, start_response, *ERRORS[rule["kind"]])
        if rule["kind"] == "delay":
            eventlet.sleep(rule["seconds"])
            return self.app(environ, start_response)
        return interrupt(self.app(environ, start_response), rule)

    def rule_for(self, environ):
        """Return the first due rule for this request, or None; count the request for every rule that it matches."""
        due = None
        for number, rule in enumerate(self.rules()):
            if matches(rule, environ):
                self.matched[number] += 1
                if due is None and self.is_due(number, rule):
                    due = number, rule
        if due is None:
            return None
        self.fired[due[0]] += 1
        draft = Path(f"{self.plan}.counting")
        draft.write_text(json.dumps({"id": self.id, "counts": self.fired}))
        draft.replace(f"{self.plan}.fired")
        return due[1]

    def rules(self):
        plan = json.loads(self.plan.read_text())
        if plan["id"] != self.id:
            self.id = plan["id"]
            self.matched.clear()
            self.fired.clear()
        return plan["rules"]

    def is_due(self, number, rule):
        turn = self.matched[number] - 1 - rule.get("skip", 0)
        if turn < 0 or turn >= rule.get("first", float("inf")):
            return False
        return random.Random(f"{self.id} {number} {turn}").random() < rule.get("share", 1)


def matches(rule, environ):
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    key = path.lstrip("/").partition("/")[2]
    method = environ["REQUEST_METHOD"]
    return rule.get("method", method) == method and fnmatchcase(key, rule.get("key", "*"))


def error_response(environ, start_response, status, code, message):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def interrupt(body, rule):
    """Yield the bytes of `body`; after `bytes` of them apply the rule."""
    remaining = rule.get("bytes", 0)
    try:
        for chunk in body:
            if len(chunk) > remaining >= 0:
                yield chunk[:remaining]
                if rule["kind"] == "cut":
                    raise OSError("cut by the fault plan")
                eventlet.sleep(rule["seconds"])
                chunk = chunk[remaining:]
                remaining = -1
            remaining -= len(chunk) if remaining >= 0 else 0
            yield chunk
    finally:
        if hasattr(body, "close"):
            body.close()
