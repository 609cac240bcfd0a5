# SPDX-License-Identifier: GPL-2.0-only
"""What a firmware and those who deal with it agree on: tables of ACPI, and the port of a firmware that plays along."""
