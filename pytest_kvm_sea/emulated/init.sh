#!/usr/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-only
# The first process of the emulated host. What it is to do comes in /kvm-sea: settings, command, modules, files.
# It talks through two virtio-serial ports, found by their names: what the command says, and a tar of the results.
export PATH=/usr/bin HOME=/root USER=root LANG=C.UTF-8
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts /output
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null || echo '<4>kvm-sea: no debugfs' >/dev/kmsg
ln -s /proc/self/fd /dev/fd

. /kvm-sea/settings
date -s "@$KVM_SEA_NOW" >/dev/null
hostname "$KVM_SEA_HOSTNAME"
ifconfig lo up 2>/dev/null
for module in /kvm-sea/modules/*.ko; do
    # A kernel of the user's own refuses foreign modules; einj wants a table of the firmware.
    [ -e "$module" ] && { insmod "$module" 2>&1 || true; } | sed 's/^/<6>kvm-sea: /' >/dev/kmsg
done

port() {
    for found in /sys/class/virtio-ports/*; do
        [ "$(cat "$found/name" 2>/dev/null)" = "$1" ] && echo "/dev/${found##*/}"
    done
}
talk=$(port kvm-sea.talk)
results=$(port kvm-sea.results)
if [ -z "$talk" ] || [ -z "$results" ]; then
    echo '<1>kvm-sea: the kernel has no virtio-serial ports' >/dev/kmsg
    poweroff -f
fi
[ -e /dev/kvm ] || echo '<1>kvm-sea: the kernel has no /dev/kvm' >/dev/kmsg
echo '<1>kvm-sea: ready' >/dev/kmsg

ulimit -c 0
cd /tests || poweroff -f
if [ -n "$KVM_SEA_INTERACTIVE" ]; then
    setsid -c sh /kvm-sea/command >/dev/ttyAMA0 2>&1 </dev/ttyAMA0
else
    setsid sh /kvm-sea/command >"$talk" 2>&1 </dev/null
fi
echo $? >/output/exit-code
dmesg >/output/dmesg.log
tar -c -f "$results" -C /output .
echo '<1>kvm-sea: done' >/dev/kmsg
sync
poweroff -f
