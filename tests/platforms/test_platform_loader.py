# SPDX-License-Identifier: GPL-2.0-only
"""Reading platforms: what is accepted, and where and how everything else is refused."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.platforms import source
from pytest_kvm_sea.platforms.consistency import IMPLICATIONS, Implication, _word, settle
from pytest_kvm_sea.platforms.loader import PlatformError, load_platform, parse
from pytest_kvm_sea.platforms.model import GIB, KIB, MIB, EinjOutcome, Lockdown, Platform, SeaPolicy
from pytest_kvm_sea.platforms.schema import Document, size

HEAD = "name: box\ndescription: A box.\n"

BAD = {
    "unknown key at the top": (
        HEAD + "kernal: {}\n",
        "3:1: unknown key 'kernal'; nearest valid key: kernel; valid keys: name, description, kernel, cpu,",
    ),
    "unknown key inside": (
        HEAD + "firmware:\n  einj:\n    tabel: false\n",
        "5:5: unknown key 'tabel' in 'firmware.einj'; nearest valid key: table; valid keys: table, module,",
    ),
    "key in the wrong place": (
        HEAD + "ras: true\n",
        "3:1: unknown key 'ras'; nearest valid key: cpu.ras; valid keys: name,",
    ),
    "duplicate key": (
        HEAD + "cpu:\n  ras: true\n  sea_far: true\n  ras: false\n",
        "6:3: key 'ras' is given twice, first at line 4; every key may be given once",
    ),
    "duplicate key that is unknown": (HEAD + "a: 1\na: 2\n", "4:1: key 'a' is given twice, first at line 3"),
    "required key missing": ("description: A box.\n", "1:1: required key missing: name"),
    "both required keys missing": ("cpu: {ras: true}\n", "1:1: required key missing: name, description"),
    "truth value for a section": (
        HEAD + "cpu: true\n",
        "3:6: cpu: wrong type, 'true' (a truth value); expected a mapping of keys to values",
    ),
    "section without a value": (HEAD + "cpu:\n", "3:5: cpu: wrong type, nothing; expected a mapping"),
    "number for a truth value": (
        HEAD + "cpu: {ras: 1}\n",
        "3:12: cpu.ras: wrong type, '1' (a number); expected true or false",
    ),
    "yes for a truth value": (
        HEAD + "cpu: {ras: yes}\n",
        "3:12: cpu.ras: wrong type, 'yes' (a truth value); expected true or false",
    ),
    "text for a truth value": (
        HEAD + 'cpu: {ras: "true"}\n',
        "3:12: cpu.ras: wrong type, 'true' (a text); expected true or false",
    ),
    "number for a text": (
        HEAD + "kernel: {release: 6.19}\n",
        "3:19: kernel.release: wrong type, '6.19' (a number with a fraction); expected a text (put it in quotes",
    ),
    "list for a text": ("name: [box]\ndescription: A box.\n", "1:7: name: wrong type, a list; expected a text"),
    "text for a number": (
        HEAD + "cpu: {ipa_bits: many}\n",
        "3:17: cpu.ipa_bits: wrong type, 'many' (a text); expected a whole number",
    ),
    "octal number": (HEAD + "cpu: {ipa_bits: 050}\n", "3:17: cpu.ipa_bits: wrong type, '050' (a number); expected"),
    "number out of range": (
        HEAD + "cpu: {ipa_bits: 53}\n",
        "3:17: cpu.ipa_bits: 53 is out of range; valid: 32 to 52",
    ),
    "negative number": (HEAD + "hugepages: {free_1g: -1}\n", "3:22: hugepages.free_1g: wrong type, '-1' (a number)"),
    "size without a unit": (
        HEAD + "memory: 68719476736\n",
        "3:9: memory: wrong type, '68719476736' (a number); expected a size with its unit: KiB, MiB or GiB",
    ),
    "size in powers of ten": (HEAD + "memory: 64GB\n", "3:9: memory: wrong type, '64GB' (a text); expected a size"),
    "size out of range": (
        HEAD + "memory: 512MiB\n",
        "3:9: memory: 512MiB is out of range; valid: 1GiB to 4096GiB",
    ),
    "size that is not a multiple": (
        HEAD + "memory: 2097153KiB\n",
        "3:9: memory: 2097153KiB is not a multiple of 2MiB",
    ),
    "page size that does not exist": (
        HEAD + "kernel: {page_size: 8KiB}\n",
        "3:21: kernel.page_size: 8KiB is not known; ",
    ),
    "member of no enumeration": (
        HEAD + "firmware: {sea: claimd}\n",
        "3:17: firmware.sea: 'claimd' is not known; nearest valid value: claimed; "
        "valid values: unclaimed, claimed, claimed-unhandled",
    ),
    "unknown revision": (
        HEAD + "kernel: {uapi: series-v2}\n",
        "3:16: kernel.uapi: series-v2 is not known; nearest valid value: series-v1; valid values: mainline, series-v1",
    ),
    "name with a space": (
        "name: the box\ndescription: A box.\n",
        "1:7: name: the box is not lower case letters, digits, '-' and '.' between them",
    ),
    "error type of two bits": (
        HEAD + "firmware: {einj: {error_types: [0x8, 0x18]}}\n",
        "3:38: firmware.einj.error_types[1]: 0x18 is not one bit of 0x8003ffff",
    ),
    "error type twice": (
        HEAD + "firmware: {einj: {error_types: [0x8, 8]}}\n",
        "3:38: firmware.einj.error_types: 8 is listed twice",
    ),
    "number for a list": (
        HEAD + "firmware: {einj: {error_types: 0x10}}\n",
        "3:32: firmware.einj.error_types: wrong type, '0x10' (a number); expected a list",
    ),
    "merge key": (HEAD + "cpu:\n  <<: {ras: true}\n", "4:3: merge keys (`<<`) are not read"),
    "key that is no word": (HEAD + "? [a]\n: 1\n", "3:3: a key is a plain word, not a list"),
    "tag of Python": (
        HEAD + "cpu: {ras: !!python/object/apply:os.getcwd []}\n",
        "3:12: cpu.ras: wrong type, the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
    "list instead of a platform": ("- name\n", "1:1: a platform: wrong type, a list; expected a mapping"),
    "two documents": (HEAD + "---\n" + HEAD, "3:1: not YAML: expected a single document"),
    "syntax": (HEAD + "cpu: {ras: true\n", "4:1: not YAML: "),
    "tabs": (HEAD + "cpu:\n\tras: true\n", "4:1: not YAML: "),
    "control character": (HEAD + "cpu: \x01\n", ": not YAML: "),
    "nesting": ("[" * 2000, ": not "),
    "nothing": ("", ": the file is empty; required keys: name, description"),
    "only a comment": ("# nothing\n", ": the file is empty; required keys: name, description"),
    "parity with ras": (
        HEAD + "cpu: {parity: true}\n",
        "3:15: cpu.parity: true contradicts cpu.ras: true (with FEAT_RAS the status codes for parity are reserved); "
        "valid value: false",
    ),
    "module without table": (
        HEAD + "firmware: {einj: {table: false, module: true}}\n",
        "3:41: firmware.einj.module: true contradicts firmware.einj.table: false",
    ),
    "notrigger without parameters": (
        HEAD + "firmware: {einj: {parameters: false, notrigger: true}}\n",
        "3:49: firmware.einj.notrigger: true contradicts firmware.einj.parameters: false",
    ),
    "notrigger without table": (
        HEAD + "firmware: {einj: {table: false, notrigger: true}}\n",
        "3:44: firmware.einj.notrigger: true contradicts firmware.einj.parameters: false",
    ),
    "error types without table": (
        HEAD + "firmware: {einj: {table: false, error_types: [0x10]}}\n",
        "3:46: firmware.einj.error_types: [0x10] contradicts firmware.einj.table: false (it lists them); "
        "valid value: []",
    ),
    "the series without its capability": (
        HEAD + "kernel: {uapi: series-v1, sea_to_user: false}\n",
        "3:40: kernel.sea_to_user: false contradicts kernel.uapi: series-v1",
    ),
    "1 GiB pages of 64 KiB": (
        HEAD + "kernel: {page_size: 64KiB}\nhugepages: {free_1g: 1}\n",
        "4:22: hugepages.free_1g: 1 contradicts kernel.page_size: 64KiB",
    ),
    "more huge pages than memory": (
        HEAD + "memory: 2GiB\n",
        "3:9: hugepages: 3GiB in the pools is more than the memory, 2GiB",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("library", ["libyaml", "python"])
def test_refused_with_place_and_hint(case: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "python":
        monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    text, message = BAD[case]
    with pytest.raises(PlatformError) as caught:
        parse(text, "box.yaml")
    assert str(caught.value).startswith(f"box.yaml:{message.lstrip(':')}" if message[0] != ":" else "box.yaml:")
    assert message in str(caught.value)


def test_all_keys_can_be_given() -> None:
    text = HEAD + (
        "kernel:\n"
        "  release: 6.15.0-rc5+sea\n"
        "  uapi: series-v1\n"
        "  page_size: 16KiB\n"
        "  lockdown: integrity\n"
        "cpu: &cpu {ras: false, parity: true, ipa_bits: 0x28}\n"
        "memory: 8GiB\n"
        "hugepages: {free_2m: 4, free_1g: 0}\n"
        "firmware:\n"
        "  sea: claimed-unhandled\n"
        "  forwards_sea: true\n"
        "  einj: {error_types: [0x8, 0x80000000], v2_error_types: [2], v2_components: 3, outcome: timeout}\n"
        "process: {root: false, kvm: false}\n"
    )
    platform = parse(text, "box.yaml")
    assert (platform.name, platform.description) == ("box", "A box.")
    assert (platform.kernel.release, platform.kernel.uapi) == ("6.15.0-rc5+sea", "series-v1")
    assert (platform.kernel.page_size, platform.kernel.lockdown) == (16 * KIB, Lockdown.INTEGRITY)
    assert (platform.cpu.ras, platform.cpu.parity, platform.cpu.ipa_bits) == (False, True, 40)
    assert platform.memory == 8 * GIB
    assert platform.firmware.sea is SeaPolicy.CLAIMED_UNHANDLED
    einj = platform.firmware.einj
    assert einj.error_types == (0x08, 0x8000_0000)
    assert (einj.v2_error_types, einj.v2_components, einj.outcome) == ((2,), 3, EinjOutcome.TIMEOUT)
    assert (platform.process.root, platform.process.kvm) == (False, False)


def test_what_is_left_out_is_the_default() -> None:
    assert parse(HEAD, "box.yaml") == Platform("box", "A box.")


def test_an_alias_repeats_a_value() -> None:
    platform = parse(HEAD + "kernel: {sea_to_user: &no false, s1ptw_level: *no}\n", "box.yaml")
    assert (platform.kernel.sea_to_user, platform.kernel.s1ptw_level) == (False, False)


def test_an_alias_of_itself_ends() -> None:
    with pytest.raises(PlatformError, match="unknown key 'cpu' in 'cpu'"):
        parse(HEAD + "cpu: &cpu {cpu: *cpu}\n", "box.yaml")


def test_consequences_are_drawn_and_stay() -> None:
    # A platform settled twice is the same: no consequence undoes another.
    settled = settle(parse(HEAD + "firmware: {einj: {table: false}}\nkernel: {page_size: 64KiB}\n", "b"), Document("b"))
    assert settle(settled, Document("b")) == settled
    einj = settled.firmware.einj
    assert (einj.table, einj.module, einj.parameters, einj.notrigger) == (False,) * 4
    assert einj.error_types == einj.v2_error_types == ()
    assert settled.hugepages.free_1g == 0


def other_than(value: object, effect: str) -> str:
    """A value, as it is written, that contradicts one."""
    if isinstance(value, bool):
        return str(not value).lower()
    if effect == "firmware.einj.outcome":
        return "reported"
    return {"firmware.sea": "claimed", "firmware.einj.vendor": '"0:1:2.3 vendor_id=1 device_id=2 rev_id=3"'}.get(
        effect, "[0x1]" if value == () else "1"
    )


def nested(keys: dict[str, str]) -> str:
    """YAML, in flow style, of dotted keys."""
    tree: dict[str, object] = {}
    for path, text in keys.items():
        *parents, name = path.split(".")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})  # type: ignore[assignment]
        here[name] = text

    def flow(node: object) -> str:
        return (
            "{" + ", ".join(f"{k}: {flow(v)}" for k, v in node.items()) + "}" if isinstance(node, dict) else str(node)
        )

    return "".join(f"{key}: {flow(node)}\n" for key, node in tree.items())


@pytest.mark.parametrize("rule", IMPLICATIONS, ids=lambda rule: f"{rule.causes[0][0]}-{rule.effect[0]}")
def test_every_contradiction_is_refused_with_its_reason(rule: Implication) -> None:
    effect, implied = rule.effect
    keys = {cause: _word(value) for cause, value in rule.causes}
    keys[effect] = other_than(implied, effect)
    with pytest.raises(PlatformError) as caught:
        parse(HEAD + nested(keys), "box.yaml")
    text = str(caught.value)
    assert text.startswith("box.yaml:"), text
    assert f"{effect}: " in text
    assert f"({rule.because}); valid value: {_word(implied)}" in text
    assert all(f"{cause}: " in text for cause, _ in rule.causes)


def test_claiming_without_ghes_is_refused_at_the_policy() -> None:
    with pytest.raises(PlatformError) as caught:
        parse(HEAD + "firmware:\n  ghes: false\n  sea: claimed\n", "box.yaml")
    assert str(caught.value) == (
        "box.yaml:5:8: firmware.sea: claimed contradicts firmware.ghes: false (GHES is what claims); "
        "valid value: unclaimed"
    )


@given(st.integers(1, 2**20), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_sizes_are_written_as_they_are_read(number: int, unit: str) -> None:
    written = size(number * {"KiB": KIB, "MiB": MIB, "GiB": GIB}[unit])
    again = int(written[:-3]) * {"KiB": KIB, "MiB": MIB, "GiB": GIB}[written[-3:]]
    assert again == number * {"KiB": KIB, "MiB": MIB, "GiB": GIB}[unit]


# fmt: off
WORDS = (
    "name", "cpu", "ras", "kernel", "einj", "{", "}", "[", "]", ":", "true", "0x10", "64KiB", "&a", "*a", "<<", "!!set",
    "'", '"', "|", "#", "? ", "- ", " ", "\n", "  ", "\t", "\ufeff", "\x00",
)
# fmt: on


@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    # No other exception gets out, whatever the text.
    with contextlib.suppress(PlatformError):
        assert parse(HEAD + text, "box.yaml").name == "box"


def test_a_file_by_path_and_by_text(tmp_path: Path) -> None:
    path = tmp_path / "box.yml"
    path.write_text(HEAD, encoding="utf-8-sig")
    assert load_platform(path) == load_platform(str(path)) == Platform("box", "A box.")


def test_a_path_is_never_taken_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ampereone.yaml").write_text(HEAD, encoding="utf-8")
    assert load_platform("ampereone.yaml").name == "box"
    assert load_platform("ampereone").name == "ampereone"
    Path("plain").write_text(HEAD, encoding="utf-8")
    assert load_platform(Path("plain")).name == "box"


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(PlatformError, match=r"unknown platform 'neoverse-v3'; nearest valid name: neoverse-v2; valid"):
        load_platform("neoverse-v3")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.yaml", None, "cannot be read: No such file or directory"),
        ("latin.yaml", b"name: box\ndescription: B\xf6x\n", "latin.yaml:2:15: not UTF-8: byte 0xf6"),
        ("large.yaml", b"#" * 70_000, "larger than 64 KiB"),
        ("nul\0.yaml", None, "embedded null"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlatformError) as caught:
        load_platform(str(path))
    assert message in str(caught.value)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"is a directory; give a YAML file of it$"):
        load_platform(tmp_path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe.yaml"
    os.mkfifo(path)
    with pytest.raises(PlatformError, match="is not a regular file"):
        load_platform(path)
