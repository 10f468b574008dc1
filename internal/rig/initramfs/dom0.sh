#!/bin/busybox sh
# First process of the rig's dom0: loads the modules, starts Xen's daemons, then
# carries out the jobs that the host puts into the shared folder.
#
# Kernel arguments:
#   rig.xenstored=c|o    which xenstored runs (C or OCaml)
#   rig.idle=SECONDS     power off when there was no job for so long; 0 = never
#
# The shared folder, /rig here:
#   ready         made when dom0 takes jobs
#   in/ID/        a new job; it is complete when it appears here
#   job/ID/       a job that was taken: run (script), out, err, pid, rc (status, last)
/bin/busybox --install -s /usr/bin
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp

note() { read -r up _ </proc/uptime; echo "rig: $up s: $*"; }
note "dom0 userspace"

while read -r m; do insmod "/modules/$m.ko" || note "module $m failed"; done </modules/order
mount -t xenfs xenfs /proc/xen
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,access=any rig /rig || note "no shared folder"

xenstored=c idle=0
for a in $(cat /proc/cmdline); do
	case $a in
	rig.xenstored=*) xenstored=${a#*=} ;;
	rig.idle=*) idle=${a#*=} ;;
	esac
done
ip link set lo up
mkdir -p /run/xen /run/xenstored /var/log/xen/console
case $xenstored in
o) oxenstored --pid-file /run/xenstored.pid ;;
*) xenstored --pid-file /run/xenstored.pid ;;
esac
# oxenstored goes into the background before it listens.
n=0
until xenstore-exists / 2>/dev/null; do
	n=$((n + 1))
	[ $n -lt 200 ] || { note "xenstored does not answer"; break; }
	usleep 50000
done
xen-init-dom0 >/dev/null || note "xen-init-dom0 failed"
# Its logs of the guests are what a failed test is explained with.
xenconsoled --log=guest --pid-file=/run/xenconsoled.pid
note "xenstored ($xenstored) and xenconsoled run"

poweroff_rig() {
	note "power off: $*"
	printf '\0' | dd of=/dev/port bs=1 seek=244 2>/dev/null # isa-debug-exit
	reboot -f
}

take() { # ID: carry out one job in the background
	mv "/rig/in/$1" "/rig/job/$1" || return
	(
		cd "/rig/job/$1" || exit
		# A session of its own, so that all it leaves behind can be killed.
		setsid sh ./run >out 2>err </dev/null
		rc=$?
		[ -s pid ] && kill -KILL "-$(cat pid)" 2>/dev/null
		echo $rc >rc.new && mv rc.new rc
		echo >&3
	) &
}

busy() { # is a job under way?
	for j in /rig/job/*; do
		[ -d "$j" ] && [ ! -e "$j/rc" ] && return 0
	done
	return 1
}

# Reading a fifo is a pause that starts no process; the end of a job ends it. Looking
# for more costs something, so while a job runs it is done less often.
mkfifo /run/pause
exec 3<>/run/pause
echo up >/rig/ready || poweroff_rig "the shared folder cannot be written"
note "ready"
passed=0 quiet=0
while :; do
	for j in /rig/in/*; do
		[ -d "$j" ] && take "${j##*/}" && quiet=0
	done
	if busy; then pause=0.5 ms=500 quiet=0; else pause=0.1 ms=100; fi
	read -r -t $pause _ <&3
	passed=$((passed + ms))
	[ $passed -ge 10000 ] || continue
	# Every ten seconds or so: reap, and see whether anyone still needs the rig.
	passed=0
	jobs >/dev/null
	busy || quiet=$((quiet + 10))
	[ "$idle" -gt 0 ] && [ $quiet -ge "$idle" ] && poweroff_rig "no job for $quiet s"
done
