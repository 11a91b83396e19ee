"""The page /docs: the OpenAPI document for people, in one file that asks nothing of elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

__all__ = ["docs_html"]

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
section { border: 1px solid var(--line); border-radius: .5rem; padding: 0 1rem; margin: 1rem 0 }
h2 { font-size: 1.1rem } h2 b { font-family: ui-monospace, monospace }
code, pre { font-family: ui-monospace, monospace; background: var(--soft); border-radius: .25rem }
pre { padding: .5rem; overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0; border-top: 1px solid var(--line) }
"""


def docs_html(document: dict[str, Any]) -> str:
    info = document["info"]
    title = escape(info["title"])
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>',
        f"<h1>{title}</h1><p>{escape(info['description'])}</p>",
    ]
    if "security" in document:
        parts.append("<p>Send <code>Authorization: Bearer KEY</code> with each request.</p>")
    parts.append('<p>For programs: <a href="/openapi.json">openapi.json</a></p>')
    for path, methods in document["paths"].items():
        parts += [_route(path, method, route) for method, route in methods.items()]
    return "".join([*parts, "</main></body></html>"])


def _route(path: str, method: str, route: dict[str, Any]) -> str:
    parts = [f"<section><h2>{method.upper()} <b>{escape(path)}</b></h2><p>{escape(route['summary'])}</p>"]
    content = route.get("requestBody", {}).get("content", {})
    if content:
        parts.append(f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in content)}</p>")
    properties = content.get("application/json", {}).get("schema", {}).get("properties", {})
    if properties:
        rows = (f"<tr><th><code>{escape(name)}</code></th><td>{escape(_words(schema))}</td></tr>"
                for name, schema in properties.items())  # fmt: skip
        parts.append(f"<table>{''.join(rows)}</table>")
    errors = {status: answer for status, answer in route["responses"].items() if status != "200"}
    if errors:
        said = (f"<tr><th>{status}</th><td>{escape(answer['description'])}</td></tr>"
                for status, answer in errors.items())  # fmt: skip
        parts.append(f"<details><summary>Errors</summary><table>{''.join(said)}</table></details>")
    return "".join([*parts, "</section>"])


def _words(schema: dict[str, Any]) -> str:
    """What a parameter may be."""
    words = [str(schema.get("description", ""))]
    if "properties" in schema:
        inner = "; ".join(f"{name}: {_words(item)}" for name, item in schema["properties"].items())
        words.append(f"{{{inner}}}")
    elif "enum" in schema:
        words.append(" or ".join(map(str, schema["enum"])))
    elif "const" in schema:
        words.append(str(schema["const"]))
    elif schema.get("type") not in (None, "array"):
        words.append(str(schema["type"]))
    if "default" in schema:
        words.append(f"(default {schema['default']})")
    return " ".join(word for word in words if word)
