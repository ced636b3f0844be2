"""`/metrics`, read by the parser of Prometheus' own client."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient


def test_prometheus_reads_the_metrics_and_they_name_no_file(anyone: TestClient) -> None:
    text = anyone.get("/metrics").text
    found = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["keepstep_up"] == 0.0
    assert found["keepstep_committed_step"] == 46.0
    assert "jsonl" not in text
