"""The mock server tells the processes of its clients apart: tests of shared limits count them."""

from __future__ import annotations

import os
import socket
import subprocess

from support.mock_openai import client_of


def test_a_child_that_inherits_the_connection_is_not_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            address = client.getsockname()
            assert client_of(address) == os.getpid()
            child = subprocess.Popen(["sleep", "60"], pass_fds=[client.fileno()])
            try:
                assert client_of(address) == os.getpid()
            finally:
                child.kill()
                child.wait()
        assert client_of(("127.0.0.1", 1)) == 0
