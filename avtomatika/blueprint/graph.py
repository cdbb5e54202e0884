"""The graph of a blueprint, from the same analysis as its check: DOT, Mermaid, JSON, and SVG where Graphviz is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass

from avtomatika.blueprint.decisions import Decision
from avtomatika.blueprint.handlers import State
from avtomatika.blueprint.validation import Analysis, Reading
from avtomatika.errors import ConfigurationError

FORMATS = ("dot", "mermaid", "json", "svg")
_SVG_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Node:
    """A box of the picture: a state, a task of a fan-out, a child blueprint, an approval, or "any state".

    Attributes:
        kind: state, task, blueprint, approval, anywhere.
    """

    id: str
    label: str
    kind: str
    is_start: bool = False
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow of the picture; `kind` is that of the decision."""

    source: str
    target: str
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Graph:
    """The picture of a blueprint."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def render(analysis: Analysis, fmt: str) -> str:
    """The graph as text in one of FORMATS; ConfigurationError where it cannot be made."""
    match fmt:
        case "dot":
            return to_dot(picture(analysis))
        case "mermaid":
            return to_mermaid(picture(analysis))
        case "json":
            return json.dumps(to_json(analysis), indent=2, ensure_ascii=False)
        case "svg":
            return to_svg(picture(analysis))
    raise ConfigurationError(f"unknown graph format {fmt!r}; there are {', '.join(FORMATS)}")


class _Picture:
    def __init__(self, analysis: Analysis) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: dict[Edge, None] = {}
        self._ids: dict[str, str] = {}
        for state in analysis.states.values():
            self._state(state.name, state)
        for index, (reading, decision) in enumerate(analysis.decisions()):
            self._decision(index, reading, decision)
        self.graph = Graph(analysis.name, tuple(self._nodes.values()), tuple(self._edges))

    def _state(self, name: str, state: State | None = None) -> str:
        if name not in self._ids:
            self._ids[name] = f"s{len(self._ids)}"
            is_start, is_end = (state.is_start, state.is_end) if state is not None else (False, False)
            self._add(Node(self._ids[name], name, "state", is_start, is_end))
        return self._ids[name]

    def _add(self, node: Node) -> str:
        self._nodes.setdefault(node.id, node)
        return node.id

    def _target(self, name: str | None) -> str:
        return self._add(Node("any", "any state", "anywhere")) if name is None else self._state(name)

    def _link(self, source: str, target: str, kind: str, *parts: str | None) -> None:
        self._edges.setdefault(Edge(source, target, "\n".join(part for part in parts if part), kind))

    def _decision(self, index: int, reading: Reading, decision: Decision) -> None:
        source = self._state(reading.handler.state)
        condition = _condition(reading)
        names = _names(decision)
        match decision.kind:
            case "parallel":
                for position, name in enumerate(names):
                    task = self._add(Node(f"d{index}_{position}", name, "task"))
                    self._link(source, task, "parallel", condition, "fan-out")
                    for target in decision.targets:
                        self._link(
                            task, self._target(target.state), "parallel", "join" if target.status is None else "too many failed"
                        )
            case "blueprint" | "approval":
                waiting = self._add(Node(f"d{index}", f"{decision.kind}: {' | '.join(names)}", decision.kind))
                self._link(source, waiting, decision.kind, condition)
                for target in decision.targets:
                    self._link(waiting, self._target(target.state), decision.kind, target.status or "any status")
            case "task":
                for target in decision.targets:
                    label = f"{' | '.join(names)}: {target.status or 'any status'}"
                    self._link(source, self._target(target.state), "task", condition, label)
            case _:
                for target in decision.targets:
                    self._link(source, self._target(target.state), decision.kind, condition)


def picture(analysis: Analysis) -> Graph:
    """The nodes and edges to draw."""
    return _Picture(analysis).graph


def _condition(reading: Reading) -> str | None:
    condition = reading.handler.condition
    return f"[{condition.text}]" if condition is not None else None


def _names(decision: Decision) -> list[str]:
    return [*decision.names, *(["…"] if decision.is_open or not decision.names else [])]


_SHAPES = {"state": "box", "task": "component", "blueprint": "box3d", "approval": "octagon", "anywhere": "plaintext"}
_STYLES = {"transition": "solid", "task": "bold", "parallel": "dashed", "unknown": "dotted"}


def to_dot(graph: Graph) -> str:
    """Graphviz DOT."""
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        "  rankdir=TB;",
        '  node [fontname="sans-serif"];',
        '  edge [fontname="sans-serif"];',
    ]
    for node in graph.nodes:
        style = "rounded,bold" if node.is_start else "rounded"
        extra = ", peripheries=2" if node.is_end else ""
        fill = ', fillcolor="#e3f1ff"' if node.is_start else ""
        shaped = f', style="{style}{",filled" if fill else ""}"{fill}' if node.kind == "state" else ""
        lines.append(f"  {_dot_id(node)} [label={_quoted(node.label)}, shape={_SHAPES[node.kind]}{shaped}{extra}];")
    by_id = {node.id: node for node in graph.nodes}
    for edge in graph.edges:
        label = f"label={_quoted(edge.label)}, " if edge.label else ""
        style = _STYLES.get(edge.kind, "solid")
        lines.append(f"  {_dot_id(by_id[edge.source])} -> {_dot_id(by_id[edge.target])} [{label}style={style}];")
    return "\n".join([*lines, "}", ""])


def _dot_id(node: Node) -> str:
    # States go by their own names, so that the text can be read; what is no state begins with a character that they never do.
    return _quoted(node.label if node.kind == "state" else f" {node.id}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "")
    return f'"{escaped}"'


_BRACKETS = {
    "state": ("[", "]"),
    "task": ("[[", "]]"),
    "blueprint": ("[[", "]]"),
    "approval": ("{{", "}}"),
    "anywhere": (">", "]"),
}
_ARROWS = {"task": "==>", "parallel": "-.->", "unknown": "-.->"}


def to_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart."""
    lines = ["flowchart TD"]
    for node in graph.nodes:
        left, right = ("([", "])") if node.is_start else ("(((", ")))") if node.is_end else _BRACKETS[node.kind]
        lines.append(f'  {node.id}{left}"{_entities(node.label)}"{right}')
    for edge in graph.edges:
        label = f'|"{_entities(edge.label)}"|' if edge.label else ""
        lines.append(f"  {edge.source} {_ARROWS.get(edge.kind, '-->')}{label} {edge.target}")
    return "\n".join([*lines, ""])


def _entities(text: str) -> str:
    plain = "".join(c if c.isalnum() or c in " _-.,:=!'/…\n" else f"#{ord(c)};" for c in text)
    return plain.replace("\n", "<br/>")


def to_json(analysis: Analysis) -> dict[str, object]:
    """States and transitions as plain data."""
    states = [
        {
            "name": state.name,
            "is_start": state.is_start,
            "is_end": state.is_end,
            "has_aggregator": state.aggregator is not None,
            "handlers": [
                {
                    "name": handler.name,
                    "condition": handler.condition.text if handler.condition else None,
                    "is_aggregator": handler.is_aggregator,
                    "line": handler.site.line,
                }
                for handler in state.handlers
            ],
        }
        for state in analysis.states.values()
    ]
    transitions = [
        {
            "source": reading.handler.state,
            "target": target.state,
            "kind": decision.kind,
            "status": target.status,
            "names": list(decision.names),
            "names_open": decision.is_open,
            "condition": reading.handler.condition.text if reading.handler.condition else None,
            "handler": reading.handler.name,
            "line": decision.line or reading.line,
        }
        for reading, decision in analysis.decisions()
        for target in decision.targets
    ]
    return {
        "name": analysis.name,
        "version": analysis.version(),
        "start_state": analysis.start_state,
        "end_states": sorted(state.name for state in analysis.states.values() if state.is_end),
        "states": states,
        "transitions": transitions,
    }


def to_svg(graph: Graph) -> str:
    """SVG, drawn by Graphviz' `dot`; ConfigurationError where that is not installed."""
    executable = shutil.which("dot")
    if executable is None:
        raise ConfigurationError(
            "an SVG is drawn by Graphviz, whose program `dot` is not on PATH; "
            "install the package graphviz, or ask for the format dot or mermaid"
        )
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell, and the graph goes to its standard input
            [executable, "-Tsvg"], input=to_dot(graph), capture_output=True, text=True, timeout=_SVG_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"`dot` did not draw the graph within {_SVG_TIMEOUT_SECONDS} s; ask for dot or mermaid"
        ) from None
    if done.returncode != 0:
        raise ConfigurationError(f"`dot` could not draw the graph: {done.stderr.strip()}")
    return done.stdout
