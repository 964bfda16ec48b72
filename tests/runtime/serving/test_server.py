import signal
import socket
import threading
import time

import httpx2
import numpy as np

from ctx_runtime.execution import Execution
from tests.fixtures.bundles import edit_graph, expected, write_tiny_bundle
from tests.fixtures.servers import served, serving_process


def post(url, ids):
    """The status of a request, its answer and its headers; None and why where there is no answer."""
    tensor = {"name": "input_ids", "shape": [1, len(ids)], "datatype": "INT64", "data": ids}
    asked = {"inputs": [tensor], "outputs": [{"name": "pooled"}]}
    try:
        response = httpx2.post(f"{url}/v2/models/tiny/infer", json=asked, timeout=30)
    except httpx2.TransportError as error:
        return None, error, {}
    return response.status_code, response.json(), response.headers


def in_threads(count, work):
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_overload_is_503_with_retry_after_and_loses_nothing_that_was_accepted(bundle, monkeypatch):
    real = Execution.run_batch

    def slow(execution, jobs):
        time.sleep(0.03)
        return real(execution, jobs)

    monkeypatch.setattr(Execution, "run_batch", slow)
    answers = []
    with served(bundle, workers=1, max_queue=4) as (address, runtime):
        rows = [list(range(3, 4 + index)) for index in range(40)]
        threads = in_threads(40, lambda index: answers.append((rows[index], post(f"http://{address}", rows[index]))))
        for thread in threads:
            thread.join()
        counted = runtime.stats().requests
    taken = [(ids, answer) for ids, (status, answer, _) in answers if status == 200]
    refused = [headers for _, (status, _, headers) in answers if status == 503]
    assert len(taken) + len(refused) == 40 and taken and refused
    assert all(int(headers["Retry-After"]) >= 1 for headers in refused)
    for ids, answer in taken:
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected(np.array([ids]))["pooled"][0], atol=1e-5)
    assert (counted.submitted, counted.finished, counted.refused) == (len(taken), len(taken), len(refused))


def test_sigterm_under_load_loses_nothing_that_was_accepted(bundle):
    answers, ids = [], [7] * 3000
    with serving_process(bundle) as (url, process):

        def load(index):
            status = 200
            while status == 200:
                status, answer, headers = post(url, ids)
                answers.append((status, answer, headers))

        threads = in_threads(8, load)
        while len(answers) < 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        _, told = process.communicate(timeout=20)
    answered = [answer for status, answer, _ in answers if status == 200]
    assert process.returncode == 0 and f"stopped; {len(answered)} requests were answered" in told
    assert {status for status, _, _ in answers} <= {200, 503, None}
    for status, answer, headers in answers:
        if status == 503:
            assert answer == {"error": "the server shuts down"} and headers["Retry-After"] == "1"
        elif status is None:
            assert isinstance(answer, httpx2.ConnectError | httpx2.RemoteProtocolError | httpx2.ReadError)


def test_a_second_signal_ends_a_server_that_waits(bundle):
    with serving_process(bundle) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as unfinished:
            unfinished.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            while httpx2.get(f"{url}/v2/health/ready").status_code != 200:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            while httpx2.get(f"{url}/v2/health/ready").status_code != 503:
                time.sleep(0.05)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM


def test_a_bucket_that_no_backend_can_serve_ends_the_server_with_what_is_wrong(tmp_path):
    root = write_tiny_bundle(tmp_path / "broken")
    edit_graph(root, lambda model: setattr(model.graph.node[0], "op_type", "Absent"), "graphs/ctx-48.unmasked.onnx")
    with serving_process(root) as (_, process):
        _, told = process.communicate(timeout=30)
    assert process.returncode == 2 and "error: " in told and "ready" not in told and "Traceback" not in told
