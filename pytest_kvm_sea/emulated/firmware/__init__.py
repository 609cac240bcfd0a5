# SPDX-License-Identifier: GPL-2.0-only
"""The firmware of the emulated host: a process outside the machine, which shares its memory (docs/firmware.md)."""
