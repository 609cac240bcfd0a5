# SPDX-License-Identifier: GPL-2.0-only
"""The Arm architecture as data: registers, syndromes, descriptors, instruction encodings. Nothing here executes."""
