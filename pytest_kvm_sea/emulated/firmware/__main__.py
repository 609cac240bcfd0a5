# SPDX-License-Identifier: GPL-2.0-only
"""`python -m pytest_kvm_sea.emulated.firmware`: the firmware of one machine, from its start to its end."""

from __future__ import annotations

import argparse
import select
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_kvm_sea.emulated.firmware.ram import Ram
from pytest_kvm_sea.emulated.firmware.service import Service
from pytest_kvm_sea.firmware import port

_TICK = 0.002
"""Seconds between two looks at EINJ's registers; nothing tells that the kernel has written there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one machine. The exit code."""
    parser = argparse.ArgumentParser(prog="python -m pytest_kvm_sea.emulated.firmware", description=__doc__)
    parser.add_argument("--ram", type=Path, required=True, help="file with the machine's RAM, shared with it")
    parser.add_argument("--port", type=Path, required=True, help="socket to listen on; the machine's port connects")
    parser.add_argument("--registers", type=Path, help="file with EINJ's registers, shared with the machine")
    given = parser.parse_args(arguments)
    service = Service(Ram(given.ram), given.registers)
    with socket.socket(socket.AF_UNIX) as listener:
        # Under its name only when it listens: whoever sees it may connect.
        unborn = given.port.with_suffix(".new")
        listener.bind(str(unborn))
        listener.listen(1)
        unborn.rename(given.port)
        connection, _ = listener.accept()
        with connection:
            serve(service, connection)
    return 0


def serve(service: Service, connection: socket.socket) -> None:
    """Answer, and look at the registers, until the other end has gone."""
    line = b""
    while True:
        service.step()
        if not select.select([connection], [], [], 0 if service.hurries() else _TICK)[0]:
            continue
        try:
            data = connection.recv(port.LONGEST)
        except ConnectionResetError:
            return
        if not data:
            return
        *lines, line = (line + data).split(b"\n")
        for each in lines:
            connection.sendall(port.answer(each, service.operations))


if __name__ == "__main__":
    sys.exit(main())
