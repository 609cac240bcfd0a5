# SPDX-License-Identifier: GPL-2.0-only
"""`python -m pytest_kvm_sea.emulated.firmware`: the firmware of one machine, from its start to its end."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_kvm_sea.emulated.firmware.ram import Ram
from pytest_kvm_sea.emulated.firmware.service import Service
from pytest_kvm_sea.firmware import port


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pytest_kvm_sea.emulated.firmware", description=__doc__)
    parser.add_argument("--ram", type=Path, required=True, help="file with the machine's RAM, shared with it")
    parser.add_argument("--port", type=Path, required=True, help="socket to listen on; the machine's port connects")
    given = parser.parse_args(arguments)
    ram = Ram(given.ram)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(given.port))
        listener.listen(1)
        connection, _ = listener.accept()
        service = Service(ram)
        with connection, connection.makefile("rb") as requests:
            for line in requests:
                connection.sendall(port.answer(line, service.operations))
    return 0


if __name__ == "__main__":
    sys.exit(main())
