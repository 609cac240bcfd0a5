# SPDX-License-Identifier: GPL-2.0-only
"""Inject memory errors by EINJ's files in debugfs (Documentation/firmware-guide/acpi/apei/einj.rst).

This destroys memory of the host. In this order: everything that can be checked is checked; the lock of the machine is
taken; the files are read; the journal is flushed to disk; the files are written; the address is translated again; the
cache lines are cleaned; the files are read once more, in case somebody else writes to them, too; the error is injected;
the files are put back. `Einj.close` takes the poisoned pages out of
service, sees that they are, and gives the lock back.
"""

from __future__ import annotations

import errno
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.ras import einj_status
from pytest_kvm_sea.ras.abandoned import abandoned
from pytest_kvm_sea.ras.einj_files import DIRECTORY, EinjFiles, Transaction, Write, way_back
from pytest_kvm_sea.ras.einj_status import MEMORY_CE, MEMORY_FATAL, MEMORY_UER, TABLE, EinjStatus
from pytest_kvm_sea.ras.errors import EinjError, JournalError, PoisonWarning, RetireError, TranslationError
from pytest_kvm_sea.ras.interrupts import deferred_interrupts
from pytest_kvm_sea.ras.journal import boot_id
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.ras.retire import HARD_OFFLINE, retire
from pytest_kvm_sea.ras.safeguards import Safeguards, check_named
from pytest_kvm_sea.ras.target import GRANULE, GRANULE_MASK, check_address, check_mask, extent
from pytest_kvm_sea.reports.trace import NO_TRACE, Step, Trace

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

__all__ = [
    "DIRECTORY",
    "GRANULE",
    "GRANULE_MASK",
    "MEMORY_CE",
    "MEMORY_FATAL",
    "MEMORY_UER",
    "TABLE",
    "Einj",
    "EinjStatus",
    "Injection",
    "Write",
]

FLAG_MEMORY = 2
"""flags: param1 and param2 are a memory address and its mask."""
_INJECT = "error_inject"

_injecting = threading.Lock()


@dataclass(frozen=True, slots=True)
class Injection:
    """An error that was injected."""

    address: HostPA
    """What was asked for."""
    error_type: int
    notrigger: bool
    writes: tuple[Write, ...]
    """Every write that was made, those that put the files back included."""
    unrestored: tuple[str, ...] = ()
    """Files that do not hold what they held before: error_type takes back no text that means *unset*."""
    mask: int = GRANULE_MASK
    hva: HostVA | None = None
    """Where this process had it mapped, as far as that is known."""
    certain: bool = True
    """False where it was tried and the outcome is not known: a time-out of the firmware, an exception in between."""

    @property
    def granule(self) -> HostPA:
        """First of the 64 bytes that are poisoned now."""
        return HostPA(self.address // GRANULE * GRANULE)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be injected."""

    hpa: HostPA
    hva: HostVA | None
    error_type: int
    mask: int
    notrigger: bool

    def knobs(self, type_name: str) -> list[Write]:
        """What has to be in the files, and why."""
        where = "the host physical address" if self.hva is None else f"the host physical address of {self.hva:#x}"
        why = "the error waits until somebody consumes it" if self.notrigger else "the error is reported at once"
        return [
            Write("error_type", f"{self.error_type:#x}", why=type_name),
            Write("flags", f"{FLAG_MEMORY:#x}", why="param1 and param2 are an address and its mask"),
            Write("param1", f"{self.hpa:#x}", why=where),
            Write("param2", f"{self.mask:#x}", why=f"{len(extent(self.hpa, self.mask))} bytes"),
            Write("notrigger", f"{int(self.notrigger)}", why=why),
        ]


class Einj:
    """The client of EINJ on one host. Use it as a context manager, or call `close`."""

    def __init__(self, host: Host, safeguards: Safeguards | None = None, trace: Trace = NO_TRACE) -> None:
        self._host = host
        self._trace = trace
        self._safeguards = safeguards or Safeguards()
        self._pagemap = Pagemap(host, trace)
        self._files = EinjFiles(host)
        self._open: list[tuple[Injection, str]] = []
        self.injections: list[Injection] = []
        """Every error that was injected, and those of which that is not certain."""
        self.broken_table_level: Callable[[], int | None] | None = None
        """Not None: injecting breaks the stage-2 table that maps the page, at this level (the emulated host's EINJ)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # What there is

    def status(self) -> EinjStatus:
        """Which files and types there are. Reads only; raises nothing."""
        return einj_status.status(self._host)

    def available_types(self) -> dict[int, str]:
        """Number and name of every type that the firmware offers; those of EINJv2 (V2_...) are left out."""
        return self._files.available_types()

    # Injecting

    def inject_memory_error(
        self, hpa: HostPA, *, error_type: int = MEMORY_UER, mask: int = GRANULE_MASK, notrigger: bool = True
    ) -> Injection:
        """Break the 64-byte granule that holds host physical address ``hpa``, or what ``mask`` (param2) says.

        With ``notrigger`` the error waits until somebody consumes it; without, the firmware makes the kernel notice it
        at once, which takes the page offline. Raises EinjError; nothing was injected unless it carries an injection.
        No cache is cleaned: prefer `inject_at` for memory of this process.
        """
        return self._inject(_Order(hpa, None, error_type, mask, notrigger))

    def inject_at(
        self, hva: HostVA, *, error_type: int = MEMORY_UER, mask: int = GRANULE_MASK, notrigger: bool = True
    ) -> Injection:
        """Break the granule that holds an address of this process; its cache lines are cleaned before.

        The address is translated before and once more just before the last write. Raises EinjError, also where its
        page has moved meanwhile, and TranslationError.
        """
        return self._inject(_Order(self._pagemap.translate(hva), hva, error_type, mask, notrigger))

    def _inject(self, order: _Order) -> Injection:
        self._check(order)
        knobs = order.knobs(self._types[order.error_type])
        if not order.notrigger and not einj_status.exists(self._host, f"{DIRECTORY}/notrigger"):
            del knobs[-1]
        if self._safeguards.rehearse is not None:
            self._safeguards.rehearse(self._plan(order, knobs))
        check_named(self._host, self._safeguards.named)
        if self._lock():
            self._check(order)  # it may have taken long
        with _injecting, deferred_interrupts():
            saved = {write.file: self._files.read(write.file) for write in knobs}
            entry = self._announce(order, knobs, saved)
            return self._carry_out(order, knobs, Transaction(self._files, saved, self._trace), entry)

    def _carry_out(self, order: _Order, knobs: Sequence[Write], transaction: Transaction, entry: str) -> Injection:
        tried = False
        try:
            for write in knobs:
                transaction.write(write)
            self._prepare_memory(order)
            transaction.check()
            tried = True
            transaction.write(Write(_INJECT, "1"))
        except BaseException as error:
            certain = not tried or _was_refused(error)
            failures = transaction.restore()
            for failure in failures:
                error.add_note(f"and putting EINJ back failed: {failure}")
            if not certain:
                self._keep(_injection(order, transaction, certain=False), entry)
            self._note(error, "failed", entry, error=str(error), certain=certain)
            self._note_restored(error, transaction, entry, failures)
            raise
        self._trace.add(Step.INJECTED, None, order.hva, order.hpa, order.error_type, order.notrigger)
        failures = transaction.restore()
        injection = _injection(order, transaction, certain=True)
        self._keep(injection, entry)
        self._note(None, "injected", entry)
        self._note_restored(None, transaction, entry, failures)
        if failures:
            failures[0].injection = injection
            raise failures[0]
        return injection

    def _prepare_memory(self, order: _Order) -> None:
        """The last looks, and the caches: data that was written there must be in memory before the memory breaks."""
        if order.hva is None:
            return
        now = self._pagemap.translate(order.hva)
        if now != order.hpa:
            raise EinjError(
                f"the page of host address {order.hva:#x} moved from {order.hpa:#x} to {now:#x} during the"
                " preparations; nothing was injected. Lock the memory (mlock), or try again"
            )
        addresses = extent(order.hpa, order.mask)
        start = HostVA(order.hva - (order.hpa - addresses.start))
        try:
            self._host.clean_cache(start, len(addresses))
        except OSError as error:
            raise EinjError(
                f"the cache cannot be cleaned at host address {start:#x} ({error.strerror}), and the error would stay"
                " unseen below it; nothing was injected. Permit code in anonymous memory (SELinux execmem)"
            ) from error

    def _check(self, order: _Order) -> None:
        """What can be known before anything is written. EinjError."""
        if order.error_type not in self._types:
            offered = ", ".join(f"{number:#x} ({name})" for number, name in self._types.items()) or "none"
            raise EinjError(f"the firmware does not offer error type {order.error_type:#x}; it offers {offered}")
        check_mask(order.mask, self._host.page_size)
        check_address(self._host, order.hpa)

    def _plan(self, order: _Order, knobs: Sequence[Write]) -> list[Write]:
        """Every write that would be made. Reads the files, as the injection would."""
        saved = {write.file: self._files.read(write.file) for write in knobs}
        if order.hva is not None and self._pagemap.translate(order.hva) != order.hpa:
            raise EinjError(f"the page of host address {order.hva:#x} moves; lock the memory (mlock), or try again")
        return [
            *knobs,
            Write(_INJECT, "1", why="the firmware injects the error: the memory is lost from here on"),
            *way_back(saved),
            Write(HARD_OFFLINE, f"{order.hpa:#x}", why="after the test: the page goes out of service until reboot"),
        ]

    @cached_property
    def _types(self) -> dict[int, str]:
        return self.available_types()

    # Lock and journal

    def _lock(self) -> bool:
        """Before the first injection; held until `close`. Whether it was taken now."""
        lock = self._safeguards.lock
        if lock is None or lock.held:
            return False
        try:
            lock.acquire()
        except OSError as error:
            raise EinjError(
                f"the lock {lock.path} cannot be used ({error.strerror}); nothing was injected. Make it writable"
            ) from error
        self._tell_of_others()
        return True

    def _tell_of_others(self) -> None:
        """Of injections that were not finished; of each once in a session."""
        journal = self._safeguards.journal
        if journal is None:
            return
        for entry, text in abandoned(self._host, journal).items():
            if entry not in journal.told:
                journal.told.add(entry)
                warnings.warn(PoisonWarning(text), stacklevel=2)

    def _announce(self, order: _Order, knobs: Sequence[Write], saved: dict[str, str]) -> str:
        journal = self._safeguards.journal
        if journal is None:
            return ""
        return journal.begin(
            host=self._host.node,
            boot=boot_id(self._host),
            test=self._safeguards.test,
            hva=None if order.hva is None else f"{order.hva:#x}",
            hpa=f"{order.hpa:#x}",
            page_size=self._host.page_size,
            knobs=saved,
            writes=[(write.file, write.text) for write in (*knobs, Write(_INJECT, "1"), *way_back(saved))],
        )

    def _note(self, cause: BaseException | None, event: str, entry: str, **fields: object) -> None:
        """Write on in the journal. What cannot be written is told, and must not stop the clean-up."""
        journal = self._safeguards.journal
        if journal is None or not entry:
            return
        try:
            journal.note(event, entry, **fields)
        except JournalError as error:
            if cause is not None:
                cause.add_note(f"and {error}")
            else:
                warnings.warn(PoisonWarning(f"{event}, entry {entry}: {error}"), stacklevel=2)

    def _note_restored(
        self, cause: BaseException | None, transaction: Transaction, entry: str, failures: Sequence[EinjError]
    ) -> None:
        event = "unrestored" if failures else "restored"
        self._note(cause, event, entry, unrestored=transaction.unrestored)

    # Afterwards

    def _keep(self, injection: Injection, entry: str) -> None:
        self._trace.broke(hva=injection.hva, hpa=injection.address)
        self.injections.append(injection)
        self._open.append((injection, entry))

    def close(self) -> None:
        """Take every poisoned page out of service, and give the lock back. A PoisonWarning for a page that stays.

        To be called while the memory is still mapped: unmapped, its pages are handed out again. Allowed twice.
        """
        failures = []
        try:
            with deferred_interrupts():
                if self._safeguards.mend is not None:
                    self._safeguards.mend()
                while self._open:
                    failures += self._retire(*self._open[0])
                    del self._open[0]
        finally:
            if self._safeguards.lock is not None:
                self._safeguards.lock.release()
        if failures:
            warnings.warn(PoisonWarning(". ".join(failures)), stacklevel=2)

    def _retire(self, injection: Injection, entry: str) -> list[str]:
        try:
            way = retire(self._host, injection.address, injection.hva)
        except RetireError as error:
            self._trace.add(Step.RETIRED, None, injection.address, "", str(error))
            if self._safeguards.journal is not None:
                self._safeguards.journal.told.add(entry)
            self._note(error, "kept", entry, error=str(error))
            command = Write(HARD_OFFLINE, f"{injection.address:#x}")
            return [". ".join([str(error), *getattr(error, "__notes__", ()), f"Do it by hand: {command}"])]
        self._trace.add(Step.RETIRED, None, injection.address, way, None)
        self._note(None, "retired", entry, by=way)
        return []


def _injection(order: _Order, transaction: Transaction, *, certain: bool) -> Injection:
    return Injection(
        order.hpa,
        order.error_type,
        order.notrigger,
        tuple(transaction.writes),
        tuple(transaction.unrestored),
        order.mask,
        order.hva,
        certain,
    )


def _was_refused(error: BaseException) -> bool:
    """Whether the kernel said that it did not inject. A firmware that did not answer in time (EIO) may have done so."""
    return isinstance(error, (EinjError, TranslationError)) and getattr(error, "errno", None) not in {None, errno.EIO}
