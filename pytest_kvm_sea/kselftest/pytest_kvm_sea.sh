#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The tests of pytest-kvm-sea as one kselftest. run_kselftest.sh starts it in its own directory; arguments come from
# KSELFTEST_PYTEST_KVM_SEA_SH_ARGS and are pytest's. It takes the Python of the venv that KVM_SEA_VENV names, of a
# directory venv beside it, or python3.

skip()
{
	echo "KTAP version 1"
	echo "1..0 # SKIP $1"
	exit 4
}

if [ -n "$KVM_SEA_VENV" ]; then
	python=$KVM_SEA_VENV/bin/python3
	if [ ! -x "$python" ]; then
		# Not a skip: somebody has said where it is.
		echo "KTAP version 1"
		echo "Bail out! KVM_SEA_VENV=$KVM_SEA_VENV has no bin/python3; make it: python3 -m venv $KVM_SEA_VENV"
		exit 1
	fi
elif [ -x venv/bin/python3 ]; then
	python=venv/bin/python3
else
	python=$(command -v python3) || skip "[python3] there is no python3; install Python 3.11 or later"
fi

# One start of Python, as it takes seconds on an emulated machine. Any Python 3 can read this.
missing=$("$python" -c '
import importlib.util, sys
if sys.version_info < (3, 11):
    print("Python 3.11 (this is %d.%d)" % sys.version_info[:2])
else:
    print(*[name for name in ("pytest", "pytest_kvm_sea") if importlib.util.find_spec(name) is None])
') || {
	echo "KTAP version 1"
	echo "Bail out! $python does not run"
	exit 1
}
if [ -n "$missing" ]; then
	skip "[$python] it has no $missing; python3 -m venv DIR && DIR/bin/pip install pytest-kvm-sea, and KVM_SEA_VENV=DIR"
fi

# exec, so that the signal of the runner's timeout reaches Python; -P, so that this directory hides no module.
exec "$python" -P -m pytest_kvm_sea.kselftest "$@"
