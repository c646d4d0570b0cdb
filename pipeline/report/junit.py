"""junit.xml: the checks of a validation as test cases, for a lab's continuous integration."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from pipeline.figures import Figure

# of the document, whose figures become properties
GROUPS = ("accuracy", "latency_ms", "energy_mj", "sram_bytes", "flash_bytes", "arena_bytes", "stack_bytes")


def junit_xml(document: dict[str, Any]) -> str:
    """One test case a check, failed where it does not hold; the figures are the suite's properties."""
    cases = document["checks"]
    failures = sum(not case["ok"] for case in cases)
    suite = ElementTree.Element(
        "testsuite", name=f"edgenas: {document['name']}", tests=str(len(cases)), failures=str(failures), errors="0",
        timestamp=document["created"].removesuffix(" UTC").replace(" ", "T") + ":00",
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for group in GROUPS:
        for source, raw in document[group].items():
            if raw is not None:
                figure = Figure.from_json(raw)
                value = (
                    f"{figure.value:g} ({figure.provenance})"
                    if figure.value < 1e5
                    else f"{figure.value:.0f} ({figure.provenance})"
                )
                ElementTree.SubElement(properties, "property", name=f"{group} {source}", value=value)
    board = document["board"]["name"]
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", classname=f"edgenas.{board}", name=case["name"])
        if not case["ok"]:
            ElementTree.SubElement(element, "failure", message=case["detail"])
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
