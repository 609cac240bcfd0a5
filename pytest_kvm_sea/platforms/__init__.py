# SPDX-License-Identifier: GPL-2.0-only
"""Descriptions of hosts to simulate: the data (YAML), its model and its loader."""
